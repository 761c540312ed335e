//! The voter's desk: its promises on disk, its grants in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use trine_platform::{Clock, Disk, DiskError};
use trine_protocol::{Epoch, Grant, Voter};

use crate::errors::AgentError;

/// The state file of the promise.
const FILE: &str = "promise.json";

#[derive(Serialize, Deserialize)]
struct Promise {
    epoch: Epoch,
}

/// This node's vote.
#[derive(Debug)]
pub(crate) struct Desk {
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    voter: Mutex<Voter>,
    /// One promise at a time is written.
    writing: tokio::sync::Mutex<()>,
    promised: watch::Sender<Epoch>,
}

impl Desk {
    /// Reads the promise. `longest`: the longest lease that it may have granted before it stopped.
    pub(crate) fn open(clock: Arc<dyn Clock>, disk: Arc<dyn Disk>, longest: Duration) -> Result<Self, AgentError> {
        let promised = match disk.read(FILE)? {
            None => None,
            Some(text) => {
                let promise: Promise = serde_json::from_slice(&text)
                    .map_err(|e| AgentError::Corrupt { name: FILE, why: e.to_string() })?;
                Some(promise.epoch)
            }
        };
        let voter = Mutex::new(Voter::restored(promised, clock.now(), longest));
        let promised = watch::channel(promised.unwrap_or(Epoch::ZERO)).0;
        Ok(Self { clock, disk, voter, writing: tokio::sync::Mutex::default(), promised })
    }

    /// The newest promise that is on disk.
    pub(crate) fn promised(&self) -> Epoch {
        *self.promised.borrow()
    }

    /// Told when there is a newer one.
    pub(crate) fn promises(&self) -> watch::Receiver<Epoch> {
        self.promised.subscribe()
    }

    /// Promises `epoch`, durably. From here on no lease of an earlier one is renewed.
    pub(crate) async fn promise(&self, epoch: Epoch) -> Result<(), DiskError> {
        if self.promised() >= epoch {
            return Ok(());
        }
        let _one_at_a_time = self.writing.lock().await;
        // Refusing renewals before the promise is on disk is always safe.
        self.voter().promise(epoch);
        let disk = self.disk.clone();
        let text = serde_json::json!(Promise { epoch }).to_string();
        disk.blocking().run(move || disk.write(FILE, text.as_bytes())).await?;
        self.promised.send_if_modified(|p| {
            let newer = epoch > *p;
            *p = epoch.max(*p);
            newer
        });
        Ok(())
    }

    /// Does this voter know what it has promised?
    pub(crate) fn remembers(&self) -> bool {
        self.voter().remembers()
    }

    /// Takes the epoch that a linearizable read of consensus has found for what it may have promised before.
    pub(crate) async fn recall(&self, epoch: Epoch) -> Result<(), DiskError> {
        self.promise(epoch).await?;
        self.voter().recall(epoch);
        Ok(())
    }

    /// The primary of `epoch` asks for its lease.
    pub(crate) fn renew(&self, epoch: Epoch, lease: Duration) -> Grant {
        let now = self.clock.now();
        self.voter().renew(epoch, now, lease)
    }

    /// The primary of `epoch` has stopped serving.
    pub(crate) fn release(&self, epoch: Epoch) {
        let now = self.clock.now();
        self.voter().release(epoch, now);
    }

    /// `epoch` has a primary.
    pub(crate) fn learn(&self, epoch: Epoch) {
        let now = self.clock.now();
        self.voter().learn(epoch, now);
    }

    /// How long until every lease that it may have granted is over.
    pub(crate) fn lease_left(&self) -> Duration {
        let now = self.clock.now();
        self.voter().lease_left(now)
    }

    /// How long no lease was renewed here.
    pub(crate) fn silence(&self) -> Duration {
        let now = self.clock.now();
        self.voter().silence(now)
    }

    fn voter(&self) -> MutexGuard<'_, Voter> {
        self.voter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use trine_platform::{BootClock, FileDisk};

    use super::*;

    #[tokio::test]
    async fn a_promise_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let disk = Arc::new(FileDisk::open(dir.path()).unwrap());
            Desk::open(Arc::new(BootClock), disk, Duration::from_secs(1))
        };
        let desk = open().unwrap();
        assert!(!desk.remembers(), "its disk may have been wiped");
        desk.promise(Epoch(7)).await.unwrap();
        desk.promise(Epoch(5)).await.unwrap();
        assert_eq!(desk.promised(), Epoch(7));
        let again = open().unwrap();
        assert!(again.remembers());
        assert_eq!(again.promised(), Epoch(7));
        assert!(matches!(again.renew(Epoch(6), Duration::from_secs(1)), Grant::Refused { .. }));
        assert!(again.lease_left() > Duration::ZERO, "it may have granted a lease just before it stopped");
    }

    #[tokio::test]
    async fn a_corrupt_promise_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        let disk = Arc::new(FileDisk::open(dir.path()).unwrap());
        let opened = Desk::open(Arc::new(BootClock), disk, Duration::from_secs(1));
        assert!(matches!(opened, Err(AgentError::Corrupt { name: FILE, .. })));
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), b"{");
    }
}
