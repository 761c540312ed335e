//! What clients saw: acknowledgements with their times, the pauses between them, and what must be true of all of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A pause is worth a line when it is longer than this.
const GAP_S: f64 = 0.1;

/// One insert (or read) that the cluster answered with OK.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// The row's id; -1 for a read.
    pub id: i64,
    /// When the request was sent, in nanoseconds since boot.
    pub sent_ns: u64,
    /// When its answer was complete.
    pub acked_ns: u64,
    /// The node that ran it, as its database names itself.
    pub node: String,
    /// The timeline, that is the epoch, that it was written in.
    pub epoch: u64,
}

/// How a session that must not reconnect came to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// PostgreSQL's code, when it was PostgreSQL (or an endpoint in its name) that ended it.
    pub sqlstate: Option<String>,
    /// The error's text.
    pub message: String,
    /// When, in nanoseconds since boot.
    pub at_ns: u64,
}

/// All that the clients of one writer saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The table written to.
    pub table: String,
    /// When the writer began, in nanoseconds since boot.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Acknowledged inserts, in no particular order.
    pub acks: Vec<Ack>,
    /// Answered reads, if it also reads.
    pub reads: Vec<Ack>,
    /// Ids that were sent and not answered.
    pub unknown: Vec<i64>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Commits that were answered with OK *and* the warning that they were not replicated: no endpoint may let one pass.
    pub let_through: Vec<i64>,
    /// Set when the writer had one session only, and it ended.
    pub ended: Option<Ended>,
}

/// The part of a report that is printed: the fields of the probe that every measurement here is compared with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Number of acknowledged inserts.
    pub acked: usize,
    /// Number of inserts that were sent and not answered.
    pub unknown: usize,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Times without any acknowledgement, over 100 ms: (start, length) in seconds since the writer began.
    pub gaps: Vec<(f64, f64)>,
    /// The longest of them; also one that had not ended.
    pub longest_gap_s: f64,
    /// The writer ended in the middle of this pause.
    pub open_gap_s: Option<f64>,
    /// Median latency of an acknowledged insert.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Acknowledged rows that are missing, one number for each place that was verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<usize>,
}

fn seconds(ns: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits of nanoseconds are 104 days")]
    let s = ns as f64 / 1e9;
    (s * 1e6).round() / 1e6
}

impl Report {
    /// The numbers to print.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut at: Vec<u64> = self.acks.iter().map(|a| a.acked_ns.saturating_sub(self.start_ns)).collect();
        at.sort_unstable();
        let mut gaps: Vec<(f64, f64)> = at
            .windows(2)
            .map(|w| (seconds(w[0]), seconds(w[1] - w[0])))
            .filter(|(_, length)| *length > GAP_S)
            .collect();
        let mut open_gap_s = None;
        let last = at.last().copied().unwrap_or(0);
        let open = seconds(self.end_ns.saturating_sub(self.start_ns).saturating_sub(last));
        if open > 0.5 {
            open_gap_s = Some(open);
            gaps.push((seconds(last), open));
        }
        let mut latency: Vec<u64> = self.acks.iter().map(|a| a.acked_ns.saturating_sub(a.sent_ns)).collect();
        latency.sort_unstable();
        let percentile = |per_cent: usize| latency.get(latency.len() * per_cent / 100).map(|ns| seconds(*ns) * 1e3);
        Summary {
            acked: self.acks.len(),
            unknown: self.unknown.len(),
            errors: self.errors.clone(),
            longest_gap_s: gaps.iter().map(|g| g.1).fold(0.0, f64::max),
            gaps,
            open_gap_s,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
            lost: Vec::new(),
        }
    }

    /// The longest time without an acknowledgement that ended after `since_ns`, in seconds.
    #[must_use]
    pub fn longest_gap_after(&self, since_ns: u64) -> f64 {
        let since = seconds(since_ns.saturating_sub(self.start_ns));
        self.summary().gaps.iter().filter(|(at, length)| at + length >= since).map(|g| g.1).fold(0.0, f64::max)
    }

    /// The longest time without an acknowledgement that ended after `since_ns`, in nanoseconds, however short.
    #[must_use]
    pub fn longest_pause_after_ns(&self, since_ns: u64) -> u64 {
        let mut at: Vec<u64> = self.acks.iter().map(|a| a.acked_ns).collect();
        at.sort_unstable();
        at.push(self.end_ns);
        at.windows(2).filter(|w| w[1] >= since_ns).map(|w| w[1] - w[0]).max().unwrap_or(0)
    }

    /// Ids that were acknowledged.
    #[must_use]
    pub fn acked_ids(&self) -> BTreeSet<i64> {
        self.acks.iter().map(|a| a.id).collect()
    }
}

/// What is wrong with the answers that clients got, taken together; empty when nothing is.
///
/// - no commit was acknowledged that was not replicated;
/// - in one epoch only one node answered;
/// - an answer of an older epoch never came to a request that was sent after an answer of a newer epoch had been received:
///   so a client that was told something by one primary never finds another that disagrees.
#[must_use]
pub fn violations(reports: &[Report]) -> Vec<String> {
    let mut wrong = Vec::new();
    for r in reports {
        if !r.let_through.is_empty() {
            wrong.push(format!(
                "{} commits of {} were answered with OK and the warning that the wait for replication was cancelled: {:?}",
                r.let_through.len(),
                r.table,
                r.let_through.iter().take(5).collect::<Vec<_>>()
            ));
        }
    }
    let mut answers: Vec<&Ack> = reports.iter().flat_map(|r| r.acks.iter().chain(&r.reads)).collect();
    let mut nodes: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for a in &answers {
        nodes.entry(a.epoch).or_default().insert(&a.node);
    }
    for (epoch, nodes) in nodes.iter().filter(|(_, n)| n.len() > 1) {
        wrong.push(format!("epoch {epoch} was answered by more than one node: {nodes:?}"));
    }
    // In the order of their ends: for each start, the newest epoch that had been heard of by then.
    answers.sort_by_key(|a| a.acked_ns);
    let mut newest: Vec<(u64, &Ack)> = Vec::new();
    for a in &answers {
        if newest.last().is_none_or(|(_, n)| a.epoch > n.epoch) {
            newest.push((a.acked_ns, a));
        }
    }
    let mut late = Vec::new();
    for a in &answers {
        let heard = newest.partition_point(|(at, _)| *at < a.sent_ns);
        if let Some((at, n)) = heard.checked_sub(1).map(|i| newest[i])
            && n.epoch > a.epoch
        {
            late.push(format!(
                "{} answered in epoch {} (id {}) a request sent {:.1} ms after {} had answered in epoch {}",
                a.node,
                a.epoch,
                a.id,
                seconds(a.sent_ns - at) * 1e3,
                n.node,
                n.epoch
            ));
        }
    }
    if let Some(first) = late.first() {
        wrong.push(format!("{} answers came from a primary of the past, the first: {first}", late.len()));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(id: i64, sent_ns: u64, acked_ns: u64, node: &str, epoch: u64) -> Ack {
        Ack { id, sent_ns, acked_ns, node: node.into(), epoch }
    }

    fn report(acks: Vec<Ack>) -> Report {
        Report { table: "t".into(), acks, end_ns: 3_000_000_000, ..Report::default() }
    }

    #[test]
    fn two_writers_in_one_epoch_are_found() {
        let a = report(vec![ack(1, 1, 2, "n1", 1), ack(2, 3, 4, "n2", 2)]);
        assert!(violations(std::slice::from_ref(&a)).is_empty());
        let b = report(vec![ack(3, 1, 2, "n3", 2)]);
        assert_eq!(violations(&[a, b]).len(), 1);
    }

    #[test]
    fn an_answer_from_the_past_is_found_and_a_delayed_one_is_not() {
        let new = report(vec![ack(1, 10, 20, "n2", 2)]);
        let delayed = report(vec![ack(2, 15, 30, "n1", 1)]);
        assert!(violations(&[new.clone(), delayed]).is_empty());
        let past = report(vec![ack(2, 21, 30, "n1", 1)]);
        assert_eq!(violations(&[new, past]).len(), 1);
    }

    #[test]
    fn a_commit_that_was_not_replicated_is_found() {
        let r = Report { let_through: vec![7], ..report(vec![]) };
        assert_eq!(violations(&[r]).len(), 1);
    }

    #[test]
    fn pauses_are_measured_between_acknowledgements_and_at_the_end() {
        let ms = 1_000_000;
        let r = report(vec![ack(1, 0, 10 * ms, "n1", 1), ack(2, 0, 20 * ms, "n1", 1), ack(3, 0, 1020 * ms, "n1", 1)]);
        let s = r.summary();
        assert_eq!(s.gaps.first(), Some(&(0.02, 1.0)));
        assert_eq!(s.open_gap_s, Some(1.98));
        assert!((s.longest_gap_s - 1.98).abs() < 1e-9);
        assert!((r.longest_gap_after(500 * ms) - 1.98).abs() < 1e-9);
    }
}
