//! What a voter must never forget, on disk.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trine_platform::{Blocking, Disk};
use trine_protocol::NodeName;

use crate::backend::Boxed;
use crate::errors::StoreError;
use crate::types::{Entry, LogId, SnapshotMeta, Vote};

/// The log's file.
pub(crate) const FILE: &str = "consensus.redb";

/// Says that the log's file was once made, and under which id: so a file that is gone or empty is seen as the loss that it
/// is, and not as a fresh start.
pub(crate) const MARK: &str = "consensus.json";

/// Entries by their number.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// Everything else, by the names below, as JSON.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const OWNER: &str = "owner";
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const WAS_VOTER: &str = "was_voter";
const SNAPSHOT_META: &str = "snapshot_meta";
const SNAPSHOT: &str = "snapshot";

/// Memory for redb's own cache. Reads come from our copy of the log, so it only holds what is being written.
const CACHE: usize = 2 << 20;

/// Whose log it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The voter's random id.
    pub(crate) id: u64,
    pub(crate) cluster: String,
    pub(crate) node: String,
}

/// A snapshot of the state.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) meta: SnapshotMeta,
    /// The state as JSON.
    pub(crate) data: Vec<u8>,
}

/// All that was on disk at the start.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) id: u64,
    pub(crate) was_voter: bool,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) log: BTreeMap<u64, Entry>,
    pub(crate) snapshot: Option<Saved>,
}

/// The log's file. Every change is on disk (fsync) when its method returns. All of them block.
#[derive(Debug)]
pub(crate) struct Store {
    /// `None` once it is closed.
    db: RwLock<Option<Database>>,
    blocking: Blocking,
}

/// What a change or a read ran into, before it is known what it means.
#[derive(Debug)]
enum Trouble {
    Redb(redb::Error),
    Json(&'static str, serde_json::Error),
    Closed,
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(e: E) -> Self {
        Self::Redb(e.into())
    }
}

impl Trouble {
    fn into_io(self) -> io::Error {
        match self {
            Self::Redb(redb::Error::Io(e)) => e,
            Self::Redb(e) => io::Error::other(e.to_string()),
            Self::Json(what, e) => io::Error::other(format!("{what}: {e}")),
            Self::Closed => io::Error::other("the consensus log is closed"),
        }
    }

    fn into_store_error(self, file: String, node: &NodeName) -> StoreError {
        let damaged = |file, reason| StoreError::Damaged { file, reason, node: node.clone() };
        match self {
            Self::Redb(redb::Error::DatabaseAlreadyOpen) => StoreError::Busy { file },
            Self::Redb(redb::Error::Io(e)) => match e.kind() {
                io::ErrorKind::InvalidData => damaged(file, e.to_string()),
                io::ErrorKind::UnexpectedEof => damaged(file, "it is cut short".to_owned()),
                _ => StoreError::Io { file, reason: e.to_string() },
            },
            Self::Redb(e) => damaged(file, e.to_string()),
            Self::Json(what, e) => damaged(file, format!("{what} can't be read: {e}")),
            Self::Closed => StoreError::Io { file, reason: "it is closed".to_owned() },
        }
    }
}

impl Store {
    /// Opens the log, or makes it, under a new random id, if this node has never had one.
    pub(crate) fn open(disk: &dyn Disk, cluster: &str, node: &NodeName) -> Result<(Self, Loaded), StoreError> {
        let file = || disk.place(FILE);
        let damaged = |reason: String| StoreError::Damaged { file: file(), reason, node: node.clone() };
        let mark = match disk.read(MARK)? {
            None => None,
            Some(text) => Some(serde_json::from_slice::<Owner>(&text).map_err(|e| {
                let reason = format!("{e}");
                StoreError::Damaged { file: disk.place(MARK), reason, node: node.clone() }
            })?),
        };
        let backend = disk.open_log(FILE)?;
        let fresh = backend.len().map_err(|e| StoreError::Io { file: file(), reason: e.to_string() })? == 0;
        if fresh && mark.is_some() {
            return Err(damaged("it is missing or empty, and this node has had one".to_owned()));
        }
        // redb checks every page's checksum here; what it does not expect in a damaged file it may still meet with a panic.
        let opened =
            catch_unwind(AssertUnwindSafe(|| Self::open_database(backend, disk.blocking(), fresh, cluster, node)));
        let (store, owner, loaded) = opened
            .map_err(|_| damaged("its structure is broken".to_owned()))?
            .map_err(|trouble| trouble.into_store_error(file(), node))?;
        if owner.cluster != cluster || owner.node != node.as_str() {
            return Err(StoreError::Foreign { file: file(), node: owner.node, cluster: owner.cluster });
        }
        match mark {
            None => disk.write(MARK, &serde_json::to_vec(&owner).unwrap_or_default())?,
            Some(mark) if mark != owner => {
                return Err(damaged(format!("it is of voter {}, the file {MARK} says {}", owner.id, mark.id)));
            }
            Some(_) => {}
        }
        Ok((store, loaded))
    }

    /// Runs what blocks on the disk where that holds up nobody else: one slow fsync must not stop the heartbeats.
    pub(crate) async fn run<T: Send + 'static>(self: &Arc<Self>, call: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        let store = self.clone();
        self.blocking.run(move || call(&store)).await
    }

    fn open_database(
        backend: Box<dyn redb::StorageBackend>,
        blocking: Blocking,
        fresh: bool,
        cluster: &str,
        node: &NodeName,
    ) -> Result<(Self, Owner, Loaded), Trouble> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(!fresh);
        let db = builder.create_with_backend(Boxed(backend))?;
        let store = Self { db: RwLock::new(Some(db)), blocking };
        let mut owner: Option<Owner> = None;
        if !fresh {
            owner = store.read(|meta, _| get(meta, OWNER))?;
        }
        // Without an owner nothing else is in it either: it was being made when the machine stopped.
        let owner = match owner {
            Some(owner) => owner,
            None => store.create(cluster, node)?,
        };
        let id = owner.id;
        let loaded = store.read(|meta, log| {
            let mut entries = BTreeMap::new();
            for item in log.iter()? {
                let (index, json) = item?;
                let entry: Entry = serde_json::from_slice(json.value()).map_err(|e| Trouble::Json("an entry", e))?;
                entries.insert(index.value(), entry);
            }
            let snapshot_meta: Option<SnapshotMeta> = get(meta, SNAPSHOT_META)?;
            let data = meta.get(SNAPSHOT)?.map(|v| v.value().to_vec());
            Ok(Loaded {
                id,
                was_voter: get(meta, WAS_VOTER)?.unwrap_or(false),
                vote: get(meta, VOTE)?,
                committed: get(meta, COMMITTED)?,
                purged: get(meta, PURGED)?,
                log: entries,
                snapshot: snapshot_meta.zip(data).map(|(meta, data)| Saved { meta, data }),
            })
        })?;
        Ok((store, owner, loaded))
    }

    fn create(&self, cluster: &str, node: &NodeName) -> Result<Owner, Trouble> {
        // Never 0, which openraft takes for nobody.
        let id = rand::random_range(1..=u64::MAX);
        let owner = Owner { id, cluster: cluster.to_owned(), node: node.to_string() };
        self.change(|meta, _| put(meta, OWNER, &owner))?;
        Ok(owner)
    }

    /// Adds entries (JSON by number). What is known to be committed goes along: it costs nothing here, and spares the next
    /// start to wait for a leader before it has the state again.
    pub(crate) fn append(&self, entries: &[(u64, Vec<u8>)], committed: Option<LogId>) -> io::Result<()> {
        let done = self.change(|meta, log| {
            for (index, json) in entries {
                log.insert(index, json.as_slice())?;
            }
            put(meta, COMMITTED, &committed)
        });
        done.map_err(Trouble::into_io)
    }

    pub(crate) fn save_vote(&self, vote: &Vote) -> io::Result<()> {
        self.change(|meta, _| put(meta, VOTE, vote)).map_err(Trouble::into_io)
    }

    /// Removes the entries from `index` on.
    pub(crate) fn truncate(&self, index: u64) -> io::Result<()> {
        self.change(|_, log| Ok(log.retain_in(index.., |_, _| false)?)).map_err(Trouble::into_io)
    }

    /// Removes the entries up to `id`, which a snapshot holds.
    pub(crate) fn purge(&self, id: &LogId) -> io::Result<()> {
        let done = self.change(|meta, log| {
            log.retain_in(..=id.index, |_, _| false)?;
            put(meta, PURGED, id)
        });
        done.map_err(Trouble::into_io)
    }

    pub(crate) fn save_snapshot(&self, saved: &Saved) -> io::Result<()> {
        let done = self.change(|meta, _| {
            put(meta, SNAPSHOT_META, &saved.meta)?;
            meta.insert(SNAPSHOT, saved.data.as_slice())?;
            Ok(())
        });
        done.map_err(Trouble::into_io)
    }

    /// From now on this id is known to have been a voter.
    pub(crate) fn save_was_voter(&self) -> io::Result<()> {
        self.change(|meta, _| put(meta, WAS_VOTER, &true)).map_err(Trouble::into_io)
    }

    /// Lets go of the file. Everything after this fails.
    pub(crate) fn close(&self) {
        drop(self.db.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn change(
        &self,
        f: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>, &mut LogTable<'_>) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        // Durability::Immediate is redb's default: commit() returns after the fsync.
        let txn = db.as_ref().ok_or(Trouble::Closed)?.begin_write()?;
        {
            let (mut meta, mut log) = (txn.open_table(META)?, txn.open_table(LOG)?);
            f(&mut meta, &mut log)?;
        }
        Ok(txn.commit()?)
    }

    fn read<T>(
        &self,
        f: impl FnOnce(
            &redb::ReadOnlyTable<&'static str, &'static [u8]>,
            &redb::ReadOnlyTable<u64, &'static [u8]>,
        ) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let txn = db.as_ref().ok_or(Trouble::Closed)?.begin_read()?;
        f(&txn.open_table(META)?, &txn.open_table(LOG)?)
    }
}

type LogTable<'t> = redb::Table<'t, u64, &'static [u8]>;

fn put<T: Serialize>(
    meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &'static str,
    value: &T,
) -> Result<(), Trouble> {
    let json = serde_json::to_vec(value).map_err(|e| Trouble::Json(key, e))?;
    meta.insert(key, json.as_slice())?;
    Ok(())
}

fn get<T: DeserializeOwned>(
    meta: &redb::ReadOnlyTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<T>, Trouble> {
    match meta.get(key)? {
        None => Ok(None),
        Some(json) => serde_json::from_slice(json.value()).map_err(|e| Trouble::Json(key, e)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use openraft::{CommittedLeaderId, EntryPayload};
    use trine_platform::FileDisk;

    use super::*;

    fn node() -> NodeName {
        "n1".parse().unwrap()
    }

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(3, 7), index)
    }

    fn entries(range: std::ops::Range<u64>) -> Vec<(u64, Vec<u8>)> {
        let entry = |i| Entry { log_id: id(i), payload: EntryPayload::Blank };
        range.map(|i| (i, serde_json::to_vec(&entry(i)).unwrap())).collect()
    }

    fn open(dir: &std::path::Path) -> Result<(Store, Loaded), StoreError> {
        Store::open(&FileDisk::open(dir).unwrap(), "c1", &node())
    }

    #[test]
    fn everything_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let (store, first) = open(dir.path()).unwrap();
        assert!(first.log.is_empty() && first.vote.is_none() && !first.was_voter);
        let vote = Vote::new(5, 9);
        store.save_vote(&vote).unwrap();
        store.append(&entries(0..10), Some(id(6))).unwrap();
        store.truncate(8).unwrap();
        store.purge(&id(2)).unwrap();
        store.save_was_voter().unwrap();
        let meta = SnapshotMeta { last_log_id: Some(id(2)), ..SnapshotMeta::default() };
        store.save_snapshot(&Saved { meta: meta.clone(), data: b"{}".to_vec() }).unwrap();
        assert!(matches!(open(dir.path()), Err(StoreError::Busy { .. })));
        // As after a SIGKILL: nothing is closed in order.
        let copy = tempfile::tempdir().unwrap();
        for file in [FILE, MARK] {
            fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
        }
        store.close();
        assert!(store.save_vote(&vote).is_err());
        for dir in [dir.path(), copy.path()] {
            let (_store, again) = open(dir).unwrap();
            assert_eq!(again.id, first.id);
            assert!(again.was_voter);
            assert_eq!((again.vote, again.committed, again.purged), (Some(vote), Some(id(6)), Some(id(2))));
            assert_eq!(again.log.keys().copied().collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
            let snapshot = again.snapshot.unwrap();
            assert_eq!((snapshot.meta, snapshot.data), (meta.clone(), b"{}".to_vec()));
        }
    }

    /// A log with something in every part of it.
    fn filled() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path()).unwrap();
        store.append(&entries(0..500), None).unwrap();
        store.save_vote(&Vote::new(5, 9)).unwrap();
        store.close();
        dir
    }

    #[test]
    fn a_lost_file_is_no_fresh_start() {
        let dir = filled();
        let path = dir.path().join(FILE);
        for spoil in
            [|p: &std::path::Path| fs::write(p, b"").unwrap(), |p: &std::path::Path| fs::remove_file(p).unwrap()]
        {
            spoil(&path);
            let e = open(dir.path()).unwrap_err();
            assert!(matches!(e, StoreError::Damaged { .. }), "{e}");
            let said = e.to_string();
            assert!(said.contains(&path.display().to_string()) && said.contains("trine node replace n1"), "{said}");
        }
        // With both gone the node has been wiped, and comes back as another voter.
        fs::remove_file(dir.path().join(MARK)).unwrap();
        assert!(open(dir.path()).unwrap().1.log.is_empty());
    }

    #[test]
    fn a_damaged_file_is_told_and_left_alone() {
        let dir = filled();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for spoiled in
            [b"garbage".to_vec(), whole[..whole.len() / 2].to_vec(), whole[..100].to_vec(), vec![0; whole.len()]]
        {
            fs::write(&path, &spoiled).unwrap();
            let e = open(dir.path()).unwrap_err();
            assert!(matches!(e, StoreError::Damaged { .. }), "{e}");
        }
        // One bad bit at a time: it is found, or it was in a page that holds nothing.
        let mut found = 0;
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut spoiled = whole.clone();
            spoiled[at] ^= 0x10;
            fs::write(&path, &spoiled).unwrap();
            match open(dir.path()) {
                Ok((_, loaded)) => assert_eq!((loaded.log.len(), loaded.vote), (500, Some(Vote::new(5, 9)))),
                Err(StoreError::Damaged { .. }) => found += 1,
                Err(e) => panic!("{e}"),
            }
        }
        assert!(found > 0);
    }

    #[test]
    fn a_log_of_another_node_or_cluster_is_refused() {
        let dir = filled();
        let disk = FileDisk::open(dir.path()).unwrap();
        for (cluster, node) in [("c2", "n1"), ("c1", "n2")] {
            let e = Store::open(&disk, cluster, &node.parse().unwrap()).unwrap_err();
            assert!(matches!(e, StoreError::Foreign { .. }), "{e}");
        }
        let other = filled();
        fs::copy(other.path().join(FILE), dir.path().join(FILE)).unwrap();
        assert!(matches!(open(dir.path()).unwrap_err(), StoreError::Damaged { .. }));
    }
}
