//! A voter: what it has promised, and which lease it may have granted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Epoch, Moment};

/// The clocks of two machines may run apart by this part: 1 in 100.
///
/// Quartz drifts by about 1 in 10,000, and a clock that NTP slews by at most 1 in 2,000 (ntpd's 500 ppm). The holder counts its lease
/// shorter by it and the voter longer.
const DRIFT: u32 = 100;

/// What a lease of this length is to its holder: never longer than it is to those who granted it.
#[must_use]
pub fn lease_for_holder(lease: Duration) -> Duration {
    lease - lease / DRIFT
}

/// What a lease of this length is to a voter that granted it.
#[must_use]
pub fn lease_for_voter(lease: Duration) -> Duration {
    lease + lease / DRIFT
}

/// A voter's answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grant {
    /// The lease is renewed.
    Granted,
    /// A newer epoch has been promised: this one is over.
    Refused {
        /// The promise.
        promised: Epoch,
    },
    /// It does not know what it has promised, and has not asked consensus yet.
    Forgotten,
}

/// One voter's memory of promises and leases.
///
/// The promise is on disk before it is reported; the grants are not, so a voter that starts assumes the longest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Voter {
    promised: Epoch,
    /// It knows what it has promised: its disk says so, or consensus has.
    remembers: bool,
    /// The latest epoch that it has renewed a lease for since it started.
    granted: Epoch,
    /// When the leases that it has granted since it started are over.
    lease_until: Moment,
    /// When those that it may have granted before are.
    unknown_until: Moment,
    /// The latest epoch that it knows to have a primary.
    learned: Epoch,
    /// When it last renewed that epoch's lease, or learned of the epoch.
    renewed_at: Moment,
}

impl Voter {
    /// A voter that starts at `now` with the promise that it finds on its disk. It may have granted a lease of length
    /// `longest` just before, to any epoch.
    ///
    /// `None`: there is no promise on its disk. It is new, or its disk was wiped, and only consensus knows what it may have
    /// promised (see [`Voter::recall`]).
    #[must_use]
    pub fn restored(promised: Option<Epoch>, now: Moment, longest: Duration) -> Self {
        Self {
            promised: promised.unwrap_or(Epoch::ZERO),
            remembers: promised.is_some(),
            granted: Epoch::ZERO,
            lease_until: now,
            unknown_until: now + lease_for_voter(longest),
            learned: Epoch::ZERO,
            renewed_at: now,
        }
    }

    /// The newest epoch that it has promised.
    #[must_use]
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// Does it know what it has promised? Until then it grants nothing, and its node neither seals nor follows.
    #[must_use]
    pub fn remembers(&self) -> bool {
        self.remembers
    }

    /// A linearizable read of consensus, begun after it started, has found `epoch`. It can't have promised a newer one: an
    /// epoch begins in consensus before anyone promises it. The caller writes it to disk first.
    pub fn recall(&mut self, epoch: Epoch) {
        self.promise(epoch);
        self.remembers = true;
    }

    /// The primary of `epoch` asks for its lease.
    pub fn renew(&mut self, epoch: Epoch, now: Moment, lease: Duration) -> Grant {
        if !self.remembers {
            return Grant::Forgotten;
        }
        if self.promised > epoch {
            return Grant::Refused { promised: self.promised };
        }
        self.granted = self.granted.max(epoch);
        self.lease_until = self.lease_until.max(now + lease_for_voter(lease));
        self.renewed_at = now;
        Grant::Granted
    }

    /// It learns that `epoch` has a primary: that one's silence counts from now.
    pub fn learn(&mut self, epoch: Epoch, now: Moment) {
        if self.learned < epoch {
            self.learned = epoch;
            self.renewed_at = now;
        }
    }

    /// The promise: nothing more from epochs before `epoch`. The caller writes it to disk first.
    pub fn promise(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
    }

    /// The primary of `epoch` says that it has stopped serving: its lease need not be waited out.
    ///
    /// Earlier ones neither: a majority sealed that epoch after them. A voter that has just started does not know whom
    /// it granted what, so it waits.
    pub fn release(&mut self, epoch: Epoch, now: Moment) {
        if self.granted <= epoch {
            self.lease_until = self.lease_until.min(now);
        }
    }

    /// How long until every lease that it may have granted is over.
    #[must_use]
    pub fn lease_left(&self, now: Moment) -> Duration {
        now.until(self.lease_until.max(self.unknown_until))
    }

    /// How long the primary has been silent here.
    #[must_use]
    pub fn silence(&self, now: Moment) -> Duration {
        now.since(self.renewed_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_promise_ends_older_leases_and_outlives_them() {
        let mut v = Voter::restored(Some(Epoch(2)), at(0), LEASE);
        assert_eq!(v.renew(Epoch(2), at(2000), LEASE), Grant::Granted);
        v.promise(Epoch(3));
        assert_eq!(v.renew(Epoch(2), at(2100), LEASE), Grant::Refused { promised: Epoch(3) });
        assert!(v.lease_left(at(2900)) > Duration::ZERO);
        assert_eq!(v.lease_left(at(3010)), Duration::ZERO);
    }

    #[test]
    fn a_voter_that_starts_assumes_the_longest_lease_and_no_release_shortens_it() {
        let mut v = Voter::restored(Some(Epoch(2)), at(500), LEASE);
        v.release(Epoch(9), at(600));
        assert!(v.lease_left(at(1500)) > Duration::ZERO);
        assert_eq!(v.lease_left(at(1510)), Duration::ZERO);
    }

    #[test]
    fn a_release_frees_only_the_lease_of_its_own_epoch() {
        let mut v = Voter::restored(Some(Epoch(2)), at(0), LEASE);
        let _ = v.renew(Epoch(5), at(5000), LEASE);
        v.release(Epoch(4), at(5001));
        assert!(v.lease_left(at(5002)) > Duration::ZERO);
        v.release(Epoch(5), at(5003));
        assert_eq!(v.lease_left(at(5003)), Duration::ZERO);
    }

    #[test]
    fn a_voter_without_a_promise_grants_nothing_before_it_has_asked() {
        let mut v = Voter::restored(None, at(0), LEASE);
        v.promise(Epoch(4));
        assert_eq!(v.renew(Epoch(4), at(2000), LEASE), Grant::Forgotten);
        v.recall(Epoch(5));
        assert_eq!(v.renew(Epoch(4), at(2100), LEASE), Grant::Refused { promised: Epoch(5) });
        assert_eq!(v.renew(Epoch(5), at(2200), LEASE), Grant::Granted);
    }

    #[test]
    fn the_voter_counts_longer_than_the_holder() {
        assert!(lease_for_voter(LEASE) > LEASE && LEASE > lease_for_holder(LEASE));
    }
}
