//! A disk that keeps what was synced, and of the rest what a power loss happens to leave.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trine_platform::{Blocking, Disk, DiskError};

/// Of what was not synced, pieces of this size stay or go: a disk's sector.
const SECTOR: usize = 512;

/// One node's disk for the agent's own state. A clone is the same disk.
#[derive(Clone)]
pub(super) struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    files: BTreeMap<String, Vec<u8>>,
    logs: BTreeMap<String, Arc<Mutex<Pages>>>,
    rng: StdRng,
    /// What a call takes: up to so many milliseconds; `None`: it does not come back until the disk is mended.
    slowness: Option<u64>,
    full: bool,
}

/// A file that is written in place.
#[derive(Default)]
struct Pages {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last sync: where, and how much.
    unsynced: Vec<(usize, usize)>,
    full: bool,
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        let (files, logs) = (BTreeMap::new(), BTreeMap::new());
        let inner = Inner { files, logs, rng: StdRng::seed_from_u64(seed), slowness: Some(1), full: false };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a call takes from now on, in milliseconds; `None`: for ever.
    pub(super) fn set_slowness(&self, most: Option<u64>) {
        self.inner().slowness = most;
    }

    /// Nothing more can be written, or it can again.
    pub(super) fn set_full(&self, full: bool) {
        let mut inner = self.inner();
        inner.full = full;
        for pages in inner.logs.values() {
            locked(pages).full = full;
        }
    }

    /// The power goes off: of what was not synced, some sectors are there and some are not.
    pub(super) fn lose_power(&self) {
        let mut inner = self.inner();
        let Inner { logs, rng, .. } = &mut *inner;
        for pages in logs.values() {
            locked(pages).lose_power(rng);
        }
    }

    /// A new disk.
    pub(super) fn wipe(&self) {
        let mut inner = self.inner();
        inner.files.clear();
        inner.logs.clear();
    }
}

impl Pages {
    fn lose_power(&mut self, rng: &mut StdRng) {
        for (from, length) in std::mem::take(&mut self.unsynced) {
            let end = (from + length).min(self.content.len());
            for sector in (from..end).step_by(SECTOR) {
                let upto = (sector + SECTOR).min(end);
                if rng.random_bool(0.5) {
                    if self.durable.len() < upto {
                        self.durable.resize(upto, 0);
                    }
                    if let (Some(to), Some(new)) = (self.durable.get_mut(sector..upto), self.content.get(sector..upto))
                    {
                        to.copy_from_slice(new);
                    }
                }
            }
        }
        // A longer file is on disk with its metadata; what was not written reads as zeros.
        if self.durable.len() < self.content.len() {
            self.durable.resize(self.content.len(), 0);
        }
        self.content.clone_from(&self.durable);
    }
}

fn locked(pages: &Mutex<Pages>) -> MutexGuard<'_, Pages> {
    pages.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

fn full(action: &'static str, name: &str) -> DiskError {
    DiskError { action, path: PathBuf::from(name), source: io::Error::from(io::ErrorKind::StorageFull) }
}

impl Disk for SimDisk {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.inner().files.get(name).cloned())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        let mut inner = self.inner();
        if inner.full {
            return Err(full("write", name));
        }
        inner.files.insert(name.to_owned(), content.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut inner = self.inner();
        inner.files.remove(name);
        inner.logs.remove(name);
        Ok(())
    }

    fn blocking(&self) -> Blocking {
        let disk = self.clone();
        Blocking::Here(Arc::new(move || {
            let disk = disk.clone();
            let pause: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move { disk.pause().await });
            pause
        }))
    }

    fn open_log(&self, name: &str) -> Result<Box<dyn redb::StorageBackend>, DiskError> {
        let mut inner = self.inner();
        let full = inner.full;
        let pages = inner.logs.entry(name.to_owned()).or_default();
        locked(pages).full = full;
        Ok(Box::new(LogFile(pages.clone())))
    }
}

impl SimDisk {
    async fn pause(&self) {
        loop {
            let takes = {
                let mut inner = self.inner();
                let most = inner.slowness;
                most.map(|most| inner.rng.random_range(0..=most))
            };
            match takes {
                Some(0) => return,
                Some(takes) => return tokio::time::sleep(Duration::from_millis(takes)).await,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

struct LogFile(Arc<Mutex<Pages>>);

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFile")
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}

impl redb::StorageBackend for LogFile {
    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.0).content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = place(offset)?;
        let pages = locked(&self.0);
        let found = pages.content.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut pages = locked(&self.0);
        let len = place(len)?;
        if pages.full && len > pages.content.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        pages.content.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut pages = locked(&self.0);
        if pages.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let Pages { content, durable, unsynced, .. } = &mut *pages;
        durable.resize(content.len(), 0);
        for (from, length) in unsynced.drain(..) {
            let end = (from + length).min(content.len());
            if let (Some(to), Some(new)) = (durable.get_mut(from..end), content.get(from..end)) {
                to.copy_from_slice(new);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = place(offset)?;
        let mut pages = locked(&self.0);
        if pages.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        pages.content.get_mut(from..from + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        pages.unsynced.push((from, data.len()));
        Ok(())
    }
}
