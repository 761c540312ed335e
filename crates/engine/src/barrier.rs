//! The open barrier's commit while it is under way.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use trine_protocol::Epoch;

use crate::EngineError;

/// The barrier that is under way, and how often the sync rule has changed.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    pending: Mutex<Option<Pending>>,
    changes: AtomicU64,
}

#[derive(Debug)]
struct Pending {
    epoch: Epoch,
    database: u32,
    /// After how many changes of the setting it began: one that began before the latest proves nothing about what was
    /// acknowledged between, even where that change has led back to the same setting.
    changes: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Passed,
    Cancelled,
    Failed(String),
}

impl Barriers {
    /// The sync rule changes: a barrier under way proves nothing about it.
    pub(crate) fn rule_changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits for the barrier of this epoch, database process and rule that is under way, or begins one. It goes on when
    /// nobody waits: its commit can't be taken back, and a second one would only queue up behind it.
    pub(crate) async fn pass<F>(
        &self,
        epoch: Epoch,
        database: u32,
        commit: impl FnOnce() -> F,
    ) -> Result<(), EngineError>
    where
        F: Future<Output = Result<(), EngineError>> + Send + 'static,
    {
        let mut outcome = self.join(epoch, database, commit);
        let found = match outcome.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            Err(_) => None,
        };
        match found {
            Some(Outcome::Passed) => Ok(()),
            Some(Outcome::Cancelled) => Err(EngineError::BarrierCancelled(epoch)),
            Some(Outcome::Failed(why)) => Err(EngineError::BarrierFailed { epoch, why }),
            None => Err(EngineError::BarrierFailed { epoch, why: "the agent is ending".into() }),
        }
    }

    fn join<F>(&self, epoch: Epoch, database: u32, commit: impl FnOnce() -> F) -> watch::Receiver<Option<Outcome>>
    where
        F: Future<Output = Result<(), EngineError>> + Send + 'static,
    {
        let changes = self.changes.load(Ordering::SeqCst);
        let mut slot = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(p) = slot.as_ref()
            && (p.epoch, p.database, p.changes) == (epoch, database, changes)
            && p.outcome.borrow().is_none()
            && p.outcome.has_changed().is_ok()
        {
            return p.outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        *slot = Some(Pending { epoch, database, changes, outcome: outcome.clone() });
        drop(slot);
        let commit = commit();
        tokio::spawn(async move {
            let found = match commit.await {
                Ok(()) => Outcome::Passed,
                Err(EngineError::BarrierCancelled(_)) => Outcome::Cancelled,
                Err(e) => Outcome::Failed(e.chain()),
            };
            let _ = tell.send(Some(found));
        });
        outcome
    }
}
