//! A copy in a folder of its own, and what the tests do to it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use trine_protocol::{Epoch, NodeName, SyncSetting};
use trine_volume::link::{self, FollowError, Taken};
use trine_volume::{Disk, Ino, Kind, Op, Progress, Settings, Stamp, Store, Tree, Volume, VolumeError};

pub(crate) const IDENTITY: u64 = 4711;
const AT: Stamp = Stamp { secs: 1, nanos: 0 };

pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) folder: TempDir,
    pub(crate) volume: Volume,
    pub(crate) settings: Settings,
}

/// How long a state may take to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        Volume::create(&disk, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap();
        let settings = Settings::default();
        let volume = Volume::open(Arc::new(disk), settings).unwrap();
        Self { name: name.parse().unwrap(), folder, volume, settings }
    }

    /// As after the process was killed.
    pub(crate) fn restart(self) -> Self {
        self.try_restart().unwrap()
    }

    pub(crate) fn try_restart(self) -> Result<Self, VolumeError> {
        self.volume.end("the test ends the process");
        let disk = Disk::open(self.folder.path()).unwrap();
        let volume = Volume::open(Arc::new(disk), self.settings)?;
        Ok(Self { volume, ..self })
    }

    /// Takes the log of `epoch` from `primary`.
    pub(crate) fn follow(&self, primary: &Self, epoch: Epoch) -> Link {
        let (here, there) = tokio::io::duplex(1 << 16);
        let (volume, name, leader) = (self.volume.clone(), self.name.clone(), primary.volume.clone());
        let serving = tokio::spawn(async move {
            let _ = link::serve(&leader, &name, there).await;
        });
        let following = tokio::spawn(async move { link::follow(&volume, epoch, here, || {}).await.unwrap_err() });
        Link { following, serving }
    }

    /// Makes a new copy of `primary`'s volume, of what is here and what it sends.
    pub(crate) fn rebuild(&self, primary: &Self) -> (Self, Taken) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let new = Disk::open(folder.path()).unwrap();
        let old = Disk::open(self.folder.path()).unwrap();
        let (here, there) = tokio::io::duplex(1 << 16);
        let leader = primary.volume.clone();
        runtime.spawn(async move { link::give(&leader, "b", there).await });
        let (taken, _stream) = runtime.block_on(link::take(&new, Some(&old), here, |_| ())).unwrap();
        let volume = Volume::open(Arc::new(new), self.settings).unwrap();
        let this = Self { name: self.name.clone(), folder, volume, settings: self.settings };
        runtime.block_on(async {
            let link = this.follow(primary, taken.epoch);
            this.until(|p| p.durable >= taken.upto).await;
            link.cut().await;
        });
        (this, taken)
    }

    pub(crate) fn make(&self, name: &str) -> Result<Ino, Errno> {
        let name = name.as_bytes();
        self.volume.change(|tree| {
            let ino = tree.next();
            let name = Cow::Borrowed(name);
            let op = Op::Make { parent: Ino::ROOT, name, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, at: AT };
            Ok((op, ino))
        })
    }

    pub(crate) fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.volume.change(|_| Ok((Op::Write { ino, offset, data: data.into(), at: AT }, ())))
    }

    /// Waits until all is acknowledged.
    pub(crate) async fn sync(&self) -> Result<(), Errno> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.volume.sync(Box::new(|done| {
            let _ = tell.send(done);
        }));
        tokio::time::timeout(PATIENCE, told).await.expect("no acknowledgement").unwrap()
    }

    pub(crate) fn read(&self, ino: Ino, len: usize) -> Vec<u8> {
        self.volume.read(ino, 0, len).unwrap()
    }

    pub(crate) async fn until(&self, what: impl FnMut(&Progress) -> bool) -> Progress {
        let mut progress = self.volume.progress();
        *tokio::time::timeout(PATIENCE, progress.wait_for(what)).await.expect("it did not come to that").unwrap()
    }

    /// All that it has applied: each file's number, length and a hash.
    pub(crate) fn objects(&self) -> Vec<(String, usize, u64)> {
        let mut all: Vec<_> = std::fs::read_dir(self.folder.path().join("objects"))
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
            .map(|(name, content)| (name, content.len(), xxhash_rust::xxh3::xxh3_64(&content)))
            .collect();
        all.sort();
        all
    }
}

pub(crate) struct Link {
    following: JoinHandle<FollowError>,
    serving: JoinHandle<()>,
}

impl Link {
    /// Nothing more comes.
    pub(crate) async fn cut(self) {
        self.following.abort();
        let _ = self.following.await;
        self.serving.abort();
        let _ = self.serving.await;
    }

    pub(crate) async fn end(self) -> FollowError {
        tokio::time::timeout(PATIENCE, self.following).await.expect("it goes on").unwrap()
    }
}

pub(crate) fn any(acks: usize, standbys: &[&Node]) -> SyncSetting {
    SyncSetting::Any { acks, standbys: standbys.iter().map(|n| n.name.clone()).collect() }
}
