//! The replicated state: commands are applied to it, snapshots are made of it.

use std::io::{self, Cursor};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, RaftSnapshotBuilder, Snapshot, StorageIOError};
use tokio::sync::watch;
use trine_protocol::Outcome;

use crate::store::{Saved, Store};
use crate::types::{Entry, LogId, SnapshotMeta, State, StorageError, StoredMembership, Types, after};

/// The state in memory; what is on disk is its last snapshot and the log since.
#[derive(Debug)]
pub(crate) struct Machine {
    store: Arc<Store>,
    state: Arc<State>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Arc<Mutex<Option<Saved>>>,
    told: watch::Sender<Arc<State>>,
    progress: watch::Sender<u64>,
}

/// What others see of the machine.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The state after the last entry that was applied here.
    pub(crate) state: watch::Receiver<Arc<State>>,
    /// How many entries have ever been applied here. It grows after the state has changed.
    pub(crate) progress: watch::Receiver<u64>,
}

impl Machine {
    /// From the snapshot, if there is one. openraft replays the log since.
    pub(crate) fn new(store: Arc<Store>, saved: Option<Saved>) -> Result<(Self, View), serde_json::Error> {
        let state = match &saved {
            Some(saved) => Arc::new(serde_json::from_slice(&saved.data)?),
            None => Arc::new(State::default()),
        };
        let applied = saved.as_ref().and_then(|s| s.meta.last_log_id);
        let membership = saved.as_ref().map(|s| s.meta.last_membership.clone()).unwrap_or_default();
        let (told, state_seen) = watch::channel(state.clone());
        let (progress, progress_seen) = watch::channel(after(applied.as_ref()));
        let snapshot = Arc::new(Mutex::new(saved));
        let machine = Self { store, state, applied, membership, snapshot, told, progress };
        Ok((machine, View { state: state_seen, progress: progress_seen }))
    }

    fn tell(&self) {
        self.told.send_replace(self.state.clone());
        self.progress.send_replace(after(self.applied.as_ref()));
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Photographer;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => None,
                // Copies the state only if somebody still looks at the one before: once for a batch.
                EntryPayload::Normal(command) => Some(Arc::make_mut(&mut self.state).apply(&command)),
                EntryPayload::Membership(m) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), m);
                    None
                }
            });
        }
        self.tell();
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Photographer {
        Photographer {
            store: self.store.clone(),
            state: self.state.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
            slot: self.snapshot.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let saved = Saved { meta: meta.clone(), data: snapshot.into_inner() };
        let state = serde_json::from_slice(&saved.data)
            .map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&e)))?;
        keep(&self.store, &self.snapshot, saved).await?;
        self.state = Arc::new(state);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.tell();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let saved = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(saved.map(as_snapshot))
    }
}

/// Makes a snapshot of the state as it was when it was asked for.
pub(crate) struct Photographer {
    store: Arc<Store>,
    state: Arc<State>,
    applied: Option<LogId>,
    membership: StoredMembership,
    slot: Arc<Mutex<Option<Saved>>>,
}

impl RaftSnapshotBuilder<Types> for Photographer {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let data =
            serde_json::to_vec(&*self.state).map_err(|e| StorageIOError::write_snapshot(None, AnyError::new(&e)))?;
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            // The same entries give the same state, so the last one's id is enough.
            snapshot_id: self.applied.map(|id| id.to_string()).unwrap_or_default(),
        };
        let saved = Saved { meta, data };
        keep(&self.store, &self.slot, saved.clone()).await?;
        Ok(as_snapshot(saved))
    }
}

/// On disk first, then in memory; never an older one over a newer one.
async fn keep(store: &Arc<Store>, slot: &Arc<Mutex<Option<Saved>>>, saved: Saved) -> Result<(), StorageError> {
    let signature = saved.meta.signature();
    let slot = slot.clone();
    let done = store.run(move |store| {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_none_or(|current| current.meta.last_log_id <= saved.meta.last_log_id) {
            store.save_snapshot(&saved)?;
            *slot = Some(saved);
        }
        io::Result::Ok(())
    });
    done.await.map_err(|e| StorageIOError::write_snapshot(Some(signature), AnyError::new(&e)).into())
}

fn as_snapshot(saved: Saved) -> Snapshot<Types> {
    Snapshot { meta: saved.meta, snapshot: Box::new(Cursor::new(saved.data)) }
}
