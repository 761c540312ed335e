//! The log as openraft sees it: on disk for keeps, in memory for reading.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, LogState, RaftLogReader, StorageIOError};

use crate::store::{Loaded, Store};
use crate::types::{Entry, LogId, StorageError, Types, Vote};

/// The log. A clone is another handle to the same one.
///
/// openraft waits for each change before it asks for the next, so there is one at a time; memory follows the disk. The
/// entries since the last snapshot fit in memory many times over: a few thousand small commands.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    store: Arc<Store>,
    memory: Arc<RwLock<Memory>>,
}

#[derive(Debug)]
struct Memory {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl Log {
    /// Takes over what was read at the start, except the snapshot.
    pub(crate) fn new(store: Arc<Store>, loaded: &mut Loaded) -> Self {
        let memory = Memory {
            entries: std::mem::take(&mut loaded.log),
            purged: loaded.purged,
            vote: loaded.vote,
            committed: loaded.committed,
        };
        Self { store, memory: Arc::new(RwLock::new(memory)) }
    }

    fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn on_disk(
        &self,
        subject: ErrorSubject<u64>,
        verb: ErrorVerb,
        f: impl FnOnce(&Store) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StorageError> {
        let done = self.store.run(f).await;
        done.map_err(|e| StorageIOError::new(subject, verb, AnyError::new(&e)).into())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        // BTreeMap::range panics on a range that ends before it begins.
        let (from, to) = (range.start_bound().cloned(), range.end_bound().cloned());
        let empty = match (from, to) {
            (Bound::Included(a), Bound::Excluded(b)) => a >= b,
            (Bound::Excluded(a), Bound::Excluded(b) | Bound::Included(b)) => a >= b,
            (Bound::Included(a), Bound::Included(b)) => a > b,
            _ => false,
        };
        if empty {
            return Ok(Vec::new());
        }
        Ok(self.memory().entries.range((from, to)).map(|(_, e)| e.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = self.memory();
        let last = memory.entries.last_key_value().map(|(_, e)| e.log_id).or(memory.purged);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.on_disk(ErrorSubject::Vote, ErrorVerb::Write, move |s| s.save_vote(&vote)).await?;
        self.memory_mut().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.memory().vote)
    }

    /// Only noted: it goes to disk with the next entries. A start that knows an older one replays less, and is then told the
    /// rest by the leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.memory_mut().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let committed = self.memory().committed;
        let as_json = |e: &Entry| serde_json::to_vec(e).map(|json| (e.log_id.index, json));
        let written = match entries.iter().map(as_json).collect::<Result<Vec<_>, _>>() {
            Ok(json) => self.store.run(move |store| store.append(&json, committed)).await,
            Err(e) => Err(io::Error::other(e)),
        };
        if written.is_ok() {
            self.memory_mut().entries.extend(entries.into_iter().map(|e| (e.log_id.index, e)));
        }
        callback.log_io_completed(written);
        Ok(())
    }

    async fn truncate(&mut self, id: LogId) -> Result<(), StorageError> {
        let subject = ErrorSubject::Log(id);
        self.on_disk(subject, ErrorVerb::Delete, move |s| s.truncate(id.index)).await?;
        self.memory_mut().entries.split_off(&id.index);
        Ok(())
    }

    async fn purge(&mut self, id: LogId) -> Result<(), StorageError> {
        self.on_disk(ErrorSubject::Log(id), ErrorVerb::Delete, move |s| s.purge(&id)).await?;
        let mut memory = self.memory_mut();
        memory.entries = memory.entries.split_off(&(id.index + 1));
        memory.purged = Some(id);
        Ok(())
    }
}
