//! What happened in a run, in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::kind::{Kind, Role};

/// The width of the slots that availability is counted in, in nanoseconds.
const SLOT_NS: u64 = 100_000_000;

/// One step of the plan, done and over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Struck {
    /// Its number, from 1.
    pub number: usize,
    /// Whom it struck.
    pub on: Option<Role>,
    /// What was struck with.
    pub kinds: Vec<Kind>,
    /// What exactly was done.
    pub did: Vec<String>,
    /// It met a cluster that was still being repaired.
    pub hurried: bool,
    /// When it began, in seconds since the run began.
    pub at_s: f64,
    /// How long it lasted, in seconds.
    pub lasted_s: f64,
    /// From its end until the cluster was healthy, in seconds; none if that was not waited for.
    pub repaired_s: Option<f64>,
    /// The longest time without an acknowledged write, from its beginning on, in seconds.
    pub pause_s: f64,
    /// The epochs before and after.
    pub epochs: (u64, u64),
    /// Beginning and end in nanoseconds since boot, for the pauses.
    #[serde(skip)]
    pub window_ns: (u64, u64),
}

impl Struck {
    /// What it is counted as.
    #[must_use]
    pub fn label(&self) -> String {
        match (self.kinds.as_slice(), self.on) {
            _ if self.hurried => "before the last was repaired".to_owned(),
            ([kind], Some(Role::Cluster) | None) => kind.words().to_owned(),
            ([kind], Some(role)) => format!("{}, {}", kind.words(), role.word()),
            ([_, _], _) => "two at once".to_owned(),
            _ => "three at once".to_owned(),
        }
    }

    /// Where it stands in a table.
    #[must_use]
    pub fn rank(&self) -> (usize, Option<Kind>, Option<Role>) {
        let single = if let [kind] = self.kinds.as_slice() { Some(*kind) } else { None };
        match single {
            _ if self.hurried => (9, None, None),
            Some(kind) => (0, Some(kind), self.on),
            None => (self.kinds.len(), None, None),
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was tortured.
    #[serde(default)]
    pub engine: Engine,
    /// What the plan was drawn from.
    pub seed: u64,
    /// When it began.
    pub began: String,
    /// The machine, and what was tested.
    pub machine: String,
    /// Faults that were done.
    pub faults: usize,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Acknowledged writes.
    pub writes: usize,
    /// Answered reads.
    pub reads: usize,
    /// Writes of which no client knows what became.
    pub unknown: usize,
    /// The share of the slots of 100 ms in which a write was acknowledged.
    pub availability: f64,
    /// Times without an acknowledged write that were longer than 0.1 s, in seconds, the longest first.
    pub pauses_s: Vec<f64>,
    /// What clients were told when it was not OK, and how often.
    pub errors: BTreeMap<String, u64>,
    /// What is wrong. Empty when all is as promised.
    pub wrong: Vec<String>,
    /// Every step.
    pub steps: Vec<Struck>,
}

/// Nanoseconds as seconds, to the millisecond.
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits of milliseconds are enough")]
    let ms = (ns / 1_000_000) as f64;
    ms / 1e3
}

/// Of `all`, so many.
fn share(part: usize, all: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let share = part as f64 / all.max(1) as f64;
    share
}

impl Record {
    /// Works out pauses and availability from the times of acknowledged writes, which are in order.
    pub fn measure(&mut self, acknowledged: &[u64]) {
        let gaps = || acknowledged.windows(2).map(|w| (w[0], w[1]));
        for step in &mut self.steps {
            let (from, to) = step.window_ns;
            // From the first acknowledgement of a moment in the step to one after it.
            let longest = gaps().filter(|(a, b)| *b >= from && *a <= to).map(|(a, b)| b - a).max();
            step.pause_s = seconds(longest.unwrap_or(0));
        }
        self.pauses_s = gaps().map(|(a, b)| b - a).filter(|g| *g > SLOT_NS).map(seconds).collect();
        self.pauses_s.sort_by(|a, b| b.total_cmp(a));
        if let (Some(first), Some(last)) = (acknowledged.first(), acknowledged.last()) {
            let mut slots: Vec<u64> = acknowledged.iter().map(|at| (at - first) / SLOT_NS).collect();
            slots.dedup();
            let all = usize::try_from((last - first) / SLOT_NS + 1).unwrap_or(usize::MAX);
            self.availability = share(slots.len(), all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_pause_belongs_to_the_step_that_it_falls_into() {
        let step = |from, to| Struck { window_ns: (from * MS, to * MS), ..Struck::default() };
        let mut r = Record { steps: vec![step(100, 900), step(2000, 2100)], ..Record::default() };
        r.measure(&[50, 90, 850, 900, 1500, 2050, 2090, 2190].map(|ms| ms * MS));
        assert_eq!(r.steps.iter().map(|s| s.pause_s).collect::<Vec<_>>(), [0.76, 0.55]);
        assert_eq!(r.pauses_s, [0.76, 0.6, 0.55]);
    }

    #[test]
    fn availability_is_the_share_of_slots_with_a_write() {
        let mut r = Record::default();
        r.measure(&[0, 50, 250, 310, 420].map(|ms| ms * MS));
        assert!((r.availability - 0.8).abs() < 1e-9, "{}", r.availability);
    }

    #[test]
    fn steps_are_counted_by_kind_and_role() {
        let mut s = Struck { kinds: vec![Kind::NodeLost], on: Some(Role::Primary), ..Struck::default() };
        assert_eq!(s.label(), "node lost, primary");
        s.kinds.push(Kind::Switchover);
        assert_eq!(s.label(), "two at once");
        s.hurried = true;
        assert_eq!(s.label(), "before the last was repaired");
    }
}
