//! Whether this node serves as a primary: a few atomics that the relay reads before every write to a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use trine_endpoint::Permit;
use trine_platform::Clock;
use trine_protocol::{Epoch, Moment};

/// What this node serves, if anything. Shared by the lease, the fence, the keeper and the endpoints.
#[derive(Debug)]
pub(crate) struct Serving {
    clock: Arc<dyn Clock>,
    /// When the lease of `epoch` runs out; 0: none.
    lease_until: AtomicU64,
    /// The epoch whose primary the database is or may be by now; 0: none.
    epoch: watch::Sender<Epoch>,
}

impl Serving {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, lease_until: AtomicU64::new(0), epoch: watch::channel(Epoch::ZERO).0 }
    }

    /// The epoch whose primary the database may be.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        Some(*self.epoch.borrow()).filter(|e| *e != Epoch::ZERO)
    }

    /// Told when it changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Epoch> {
        self.epoch.subscribe()
    }

    /// The database is about to become the primary of `epoch`, under a lease that runs until then.
    pub(crate) fn begin(&self, epoch: Epoch, until: Moment) {
        self.lease_until.store(until.as_nanos(), Ordering::SeqCst);
        self.epoch.send_replace(epoch);
    }

    /// Nothing is served any more. From this moment no byte of the database reaches a client.
    pub(crate) fn end(&self) {
        self.lease_until.store(0, Ordering::SeqCst);
        self.epoch.send_replace(Epoch::ZERO);
    }

    /// The lease of `epoch` now runs until then; ignored when another epoch is served.
    pub(crate) fn extend(&self, epoch: Epoch, until: Moment) {
        self.epoch.send_if_modified(|serving| {
            if *serving == epoch {
                self.lease_until.fetch_max(until.as_nanos(), Ordering::SeqCst);
            }
            false
        });
    }

    /// Until when it may serve.
    pub(crate) fn lease_until(&self) -> Option<Moment> {
        let until = self.lease_until.load(Ordering::SeqCst);
        (until != 0).then(|| Moment::from_nanos(until))
    }
}

impl Permit for Serving {
    fn valid(&self) -> bool {
        self.clock.now().as_nanos() < self.lease_until.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Default)]
    struct At(AtomicU64);

    impl Clock for At {
        fn now(&self) -> Moment {
            Moment::from_nanos(self.0.load(Ordering::SeqCst))
        }

        fn wall(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn a_permit_ends_with_the_lease_and_at_once_with_the_epoch() {
        let clock = Arc::new(At::default());
        let serving = Serving::new(clock.clone());
        assert!(!serving.valid());
        serving.begin(Epoch(3), Moment::from_nanos(40));
        assert!(serving.valid());
        clock.0.store(40, Ordering::SeqCst);
        serving.extend(Epoch(2), Moment::from_nanos(50));
        assert!(!serving.valid(), "another epoch's lease is no permit");
        serving.extend(Epoch(3), Moment::from_nanos(50));
        assert!(serving.valid());
        clock.0.store(50, Ordering::SeqCst);
        assert!(!serving.valid());
        serving.extend(Epoch(3), Moment::from_nanos(90));
        assert!(serving.valid());
        serving.end();
        assert!(!serving.valid());
    }
}
