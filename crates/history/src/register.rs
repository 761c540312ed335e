//! A register that is overwritten: each answer must be the latest value at some moment between question and answer.
//!
//! Every write has a value of its own, so it is known which write each read saw. Then linearizability can be decided at
//! once, by Gibbons and Korach, "Testing Shared Memories" (SIAM Journal on Computing 26, 1997): a write and the reads that
//! saw it have a *zone*, from the first moment at which the value must have been there to the last, and two zones
//! must not both have to cover the same moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Outcome, Span};

/// A write or a read of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What was done.
    pub action: Action,
    /// When, and what came of it.
    pub span: Span,
}

/// What is done to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It becomes this value. No two writes have the same.
    Write(u64),
    /// It was this; `None`: not written yet.
    Read(Option<u64>),
}

/// What no register can have answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Two writes have the same value: nothing can be checked.
    #[error("{0} was written twice: values must be unique")]
    NotUnique(u64),
    /// A read saw a value that nobody wrote, or whose write was refused.
    #[error("a read answered at {at} saw {value}, which nobody has written")]
    Invented {
        /// What it saw.
        value: u64,
        /// When it was answered.
        at: u64,
    },
    /// A read saw a value whose write was only sent after the read was answered.
    #[error("a read answered at {at} saw {value}, which was sent at {sent}")]
    FromTheFuture {
        /// What it saw.
        value: u64,
        /// When it was answered.
        at: u64,
        /// When the value was sent.
        sent: u64,
    },
    /// Two values must both have been there at one moment, or one between two moments of the other.
    #[error("{one:?} was there from {from} to {to}, and {other:?} in between: one of them is stale")]
    Stale {
        /// A value that was there before and after; `None`: not written yet.
        one: Option<u64>,
        /// The one that was there in between.
        other: Option<u64>,
        /// The first moment.
        from: u64,
        /// The last moment.
        to: u64,
    },
}

/// A write with the reads that saw it.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    value: Option<u64>,
    sent: u64,
    /// The earliest answer: the value was there before.
    first_answer: u64,
    /// The latest question: the value was there after.
    last_question: u64,
}

/// Checks one register. The first fault that is found.
///
/// # Errors
/// No register can have answered so.
pub fn check(operations: &[Operation]) -> Result<(), Fault> {
    let mut clusters: BTreeMap<Option<u64>, Cluster> = BTreeMap::new();
    clusters.insert(None, Cluster { value: None, sent: 0, first_answer: 0, last_question: 0 });
    for o in operations.iter().filter(|o| o.span.outcome != Outcome::Refused) {
        if let Action::Write(value) = o.action {
            let Span { asked, .. } = o.span;
            let new = Cluster { value: Some(value), sent: asked, first_answer: o.span.done(), last_question: asked };
            if clusters.insert(Some(value), new).is_some() {
                return Err(Fault::NotUnique(value));
            }
        }
    }
    for o in operations.iter().filter(|o| o.span.is_answered()) {
        let Action::Read(value) = o.action else { continue };
        let at = o.span.done();
        let Some(cluster) = clusters.get_mut(&value) else {
            return Err(Fault::Invented { value: value.unwrap_or_default(), at });
        };
        if let Some(value) = value.filter(|_| at < cluster.sent) {
            return Err(Fault::FromTheFuture { value, at, sent: cluster.sent });
        }
        cluster.first_answer = cluster.first_answer.min(at);
        cluster.last_question = cluster.last_question.max(o.span.asked);
    }
    // A value that nobody saw and nobody acknowledged may never have been there.
    let there = clusters.values().filter(|c| c.first_answer != u64::MAX);
    let (forward, backward): (Vec<&Cluster>, Vec<&Cluster>) = there.partition(|c| c.first_answer < c.last_question);
    no_two_overlap(forward.clone())?;
    none_inside(&forward, &backward)
}

/// A value with a forward zone was there all the time from the first answer to the last question.
fn no_two_overlap(mut forward: Vec<&Cluster>) -> Result<(), Fault> {
    forward.sort_unstable_by_key(|c| c.first_answer);
    for pair in forward.windows(2) {
        let [a, b] = pair else { continue };
        if b.first_answer < a.last_question {
            return Err(stale(a, b));
        }
    }
    Ok(())
}

/// One with a backward zone, whose operations all overlap, was there at some moment from the last question to the first
/// answer: not all of that may belong to another.
fn none_inside(forward: &[&Cluster], backward: &[&Cluster]) -> Result<(), Fault> {
    let mut forward = forward.to_vec();
    forward.sort_unstable_by_key(|c| c.first_answer);
    for b in backward {
        let before = forward.partition_point(|f| f.first_answer < b.last_question);
        let around = before.checked_sub(1).and_then(|i| forward.get(i));
        if let Some(f) = around.filter(|f| b.first_answer < f.last_question) {
            return Err(stale(f, b));
        }
    }
    Ok(())
}

fn stale(one: &Cluster, other: &Cluster) -> Fault {
    Fault::Stale { one: one.value, other: other.value, from: one.first_answer, to: one.last_question }
}
