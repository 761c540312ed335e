//! A list to which values are only appended, each once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Outcome, Span};

/// A value is to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The value: no two appends have the same.
    pub value: u64,
    /// When, and what came of it.
    pub span: Span,
}

/// Somebody read how much of the list there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// How many values it had.
    pub length: usize,
    /// The last of them; `None` for an empty list.
    pub last: Option<u64>,
    /// When, and what came of it: only answered ones count.
    pub span: Span,
}

/// What no list can have answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An acknowledged value is not there.
    #[error("{value} was acknowledged at {at} and is lost")]
    Lost {
        /// Which.
        value: u64,
        /// When it was acknowledged.
        at: u64,
    },
    /// A value is there more than once.
    #[error("{value} is there at {first} and again at {second}")]
    Twice {
        /// Which.
        value: u64,
        /// Its place, from 0.
        first: usize,
        /// Its other place.
        second: usize,
    },
    /// A value is there that nobody appended, or whose append was refused.
    #[error("{value} is there at {place}, and nobody has appended it")]
    Invented {
        /// Which.
        value: u64,
        /// Its place, from 0.
        place: usize,
    },
    /// A value stands before one that was acknowledged before it was sent.
    #[error("{later} was sent at {sent}, after {earlier} was acknowledged at {acknowledged}, and stands before it")]
    OutOfOrder {
        /// The value that was acknowledged first.
        earlier: u64,
        /// When.
        acknowledged: u64,
        /// The one that was sent after that.
        later: u64,
        /// When.
        sent: u64,
    },
    /// A read saw what was not there, or not any more: the list at the end does not begin so.
    #[error("a read at {at} saw {length} values up to {last:?}, and that is not how the list begins")]
    DirtyRead {
        /// When it was answered.
        at: u64,
        /// How many values it saw.
        length: usize,
        /// The last of them.
        last: Option<u64>,
    },
    /// A read misses a value that was acknowledged, or seen, before it was sent.
    #[error("a read sent at {sent} saw {length} values, and {known} were there for somebody by {since}")]
    StaleRead {
        /// When it was sent.
        sent: u64,
        /// How many values it saw.
        length: usize,
        /// How many somebody knew of.
        known: usize,
        /// Since when.
        since: u64,
    },
    /// A read saw a value that was only sent after it was answered.
    #[error("a read answered at {at} saw {value}, which was sent at {sent}")]
    FromTheFuture {
        /// When it was answered.
        at: u64,
        /// What it saw.
        value: u64,
        /// When that was sent.
        sent: u64,
    },
}

/// Checks what was asked and answered against the list as it is at the end. All faults, the worst first.
#[must_use]
pub fn check(appends: &[Append], reads: &[Read], list: &[u64]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut places = BTreeMap::new();
    for (place, value) in list.iter().enumerate() {
        if let Some(first) = places.insert(*value, place) {
            faults.push(Fault::Twice { value: *value, first, second: place });
        }
    }
    let spans: BTreeMap<u64, Span> =
        appends.iter().filter(|a| a.span.outcome != Outcome::Refused).map(|a| (a.value, a.span)).collect();
    let invented = list.iter().enumerate().filter(|(_, value)| !spans.contains_key(value));
    faults.extend(invented.map(|(place, value)| Fault::Invented { value: *value, place }));
    for (value, span) in &spans {
        if let (Outcome::Answered(at), None) = (span.outcome, places.get(value)) {
            faults.push(Fault::Lost { value: *value, at });
        }
    }
    faults.extend(out_of_order(list, &spans));
    faults.extend(wrong_reads(reads, list, &spans, &places));
    faults.sort_by_key(rank);
    faults
}

fn rank(fault: &Fault) -> u8 {
    match fault {
        Fault::Lost { .. } => 0,
        Fault::Twice { .. } => 1,
        Fault::Invented { .. } => 2,
        Fault::OutOfOrder { .. } => 3,
        Fault::DirtyRead { .. } => 4,
        Fault::StaleRead { .. } => 5,
        Fault::FromTheFuture { .. } => 6,
    }
}

/// From the end to the front: no value may have been sent after one behind it was acknowledged.
fn out_of_order(list: &[u64], spans: &BTreeMap<u64, Span>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut first_done: Option<(u64, u64)> = None;
    for value in list.iter().rev() {
        let Some(span) = spans.get(value) else { continue };
        if let Some((done, earlier)) = first_done.filter(|(done, _)| *done < span.asked) {
            faults.push(Fault::OutOfOrder { earlier, acknowledged: done, later: *value, sent: span.asked });
        }
        let this = (span.done(), *value);
        first_done = Some(first_done.map_or(this, |f| f.min(this)));
    }
    faults
}

fn wrong_reads(reads: &[Read], list: &[u64], spans: &BTreeMap<u64, Span>, places: &BTreeMap<u64, usize>) -> Vec<Fault> {
    let mut faults = Vec::new();
    // What somebody knew, and since when: acknowledged values and earlier reads, by time.
    let mut known: Vec<(u64, usize)> = spans
        .iter()
        .filter(|(_, span)| span.is_answered())
        .filter_map(|(value, span)| Some((span.done(), places.get(value)? + 1)))
        .collect();
    for read in reads.iter().filter(|r| r.span.is_answered()) {
        let begins_so = match read.length.checked_sub(1) {
            None => read.last.is_none(),
            Some(at) => read.last.is_some() && list.get(at).copied() == read.last,
        };
        if begins_so {
            known.push((read.span.done(), read.length));
        } else {
            faults.push(Fault::DirtyRead { at: read.span.done(), length: read.length, last: read.last });
        }
    }
    known.sort_unstable();
    // Of what was known by then, the most.
    let mut most = 0;
    let known: Vec<(u64, usize)> = known
        .into_iter()
        .map(|(since, length)| {
            most = most.max(length);
            (since, most)
        })
        .collect();
    // The value among the first so many that was sent last.
    let mut latest = None;
    let sent_last: Vec<Option<(u64, u64)>> = list
        .iter()
        .map(|value| {
            latest = latest.max(spans.get(value).map(|span| (span.asked, *value)));
            latest
        })
        .collect();
    for read in reads.iter().filter(|r| r.span.is_answered()) {
        let before = known.partition_point(|(since, _)| *since < read.span.asked);
        if let Some((since, length)) = before.checked_sub(1).and_then(|i| known.get(i))
            && *length > read.length
        {
            let (sent, known, since) = (read.span.asked, *length, *since);
            faults.push(Fault::StaleRead { sent, length: read.length, known, since });
        }
        let seen = read.length.min(list.len()).checked_sub(1).and_then(|at| *sent_last.get(at)?);
        if let Some((sent, value)) = seen.filter(|(sent, _)| *sent > read.span.done()) {
            faults.push(Fault::FromTheFuture { at: read.span.done(), value, sent });
        }
    }
    faults
}
