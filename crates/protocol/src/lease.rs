//! The lease as its holder counts it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::voter::lease_for_holder;
use crate::{Epoch, Moment, NodeName};

/// The lease of one epoch's primary. It runs from the moment each request was *sent*, while a majority said yes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    epoch: Epoch,
    majority: usize,
    length: Duration,
    /// The latest request that each voter granted, by when it was sent.
    granted: BTreeMap<NodeName, Moment>,
}

impl Lease {
    /// No voter has granted anything yet.
    #[must_use]
    pub fn new(epoch: Epoch, majority: usize, length: Duration) -> Self {
        Self { epoch, majority, length, granted: BTreeMap::new() }
    }

    /// Whose lease it is.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// `voter` has said yes to a request that was sent at `sent`.
    pub fn granted(&mut self, voter: &NodeName, sent: Moment) {
        let last = self.granted.entry(voter.clone()).or_insert(sent);
        *last = sent.max(*last);
    }

    /// Until when it may serve; `None` while no majority has said yes.
    #[must_use]
    pub fn until(&self) -> Option<Moment> {
        let mut sent: Vec<Moment> = self.granted.values().copied().collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        let oldest_of_majority = *sent.get(self.majority.checked_sub(1)?)?;
        Some(oldest_of_majority + lease_for_holder(self.length))
    }

    /// May it serve at `now`?
    #[must_use]
    pub fn is_valid(&self, now: Moment) -> bool {
        self.until().is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_from_the_send_time_of_the_majoritys_oldest_grant() {
        let (a, b, c): (NodeName, NodeName, NodeName) =
            ("a".parse().unwrap(), "b".parse().unwrap(), "c".parse().unwrap());
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let mut lease = Lease::new(Epoch(1), 2, Duration::from_secs(1));
        assert!(!lease.is_valid(at(0)));
        lease.granted(&a, at(100));
        assert_eq!(lease.until(), None);
        lease.granted(&b, at(200));
        assert_eq!(lease.until(), Some(at(1090)));
        lease.granted(&c, at(300));
        lease.granted(&a, at(50));
        assert_eq!(lease.until(), Some(at(1190)));
    }
}
