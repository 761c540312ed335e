//! What is on this node: the copy, whether it is open, and as what.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, watch};
use trine_platform::Clock;
use trine_protocol::{Epoch, Moment, NodeName, Position};
use trine_volume::{Disk, Medium, Stamp, Tree, Volume, VolumeError, clean_stale};

use super::Instance;
use super::engine::VolumeConfig;
use super::following::{Flow, Following};
use super::paths::Paths;
use super::serving::Serving;
use crate::guard::blocking;
use crate::threads::Threads;
use crate::{CopyId, DataCopy, EngineError, Neighbours, Process, Role};

/// The epoch that an empty volume begins in; the first primary's is higher.
const FIRST: Epoch = Epoch(1);

/// The engine's own state.
pub(super) struct Inner {
    pub(super) config: VolumeConfig,
    pub(super) paths: Paths,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) instance: Instance,
    pub(super) threads: Threads,
    /// The log of the volume goes to other nodes and comes from them here.
    pub(super) log: Threads,
    pub(super) neighbours: OnceLock<Arc<dyn Neighbours>>,
    /// Held by each operation that changes the copy or what is open.
    pub(super) turn: AsyncMutex<()>,
    /// Held while a new copy is made.
    pub(super) copying: AsyncMutex<()>,
    pub(super) following: AsyncMutex<Option<Following>>,
    /// Held while what is open is taken down.
    pub(super) tearing: AsyncMutex<()>,
    pub(super) open: Mutex<Open>,
    pub(super) process: watch::Sender<Process>,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) volume: Option<Volume>,
    pub(super) serving: Option<Arc<Serving>>,
    pub(super) copy: DataCopy,
    /// Whom it follows, for those who only look.
    pub(super) follows: Option<(NodeName, watch::Receiver<Flow>)>,
    /// Since when the database does not answer.
    pub(super) silent: Option<Moment>,
    /// Why the last database ended.
    pub(super) words: Option<String>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeEngine").field("me", &self.config.me).finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn opened(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn what_is_open(&self) -> (Option<Volume>, Option<Arc<Serving>>) {
        let open = self.opened();
        (open.volume.clone(), open.serving.clone())
    }

    pub(super) fn volume(&self) -> Result<Volume, EngineError> {
        self.opened().volume.clone().ok_or(EngineError::NotRunning)
    }

    /// The open volume of a copy that takes the log.
    pub(super) fn standby(&self, operation: &'static str) -> Result<Volume, EngineError> {
        let volume = self.volume()?;
        match volume.leading() {
            None => Ok(volume),
            Some(_) => Err(EngineError::WrongRole { operation, found: Role::Primary, needed: Role::Standby }),
        }
    }

    pub(super) fn neighbours(&self) -> Result<Arc<dyn Neighbours>, EngineError> {
        self.neighbours.get().cloned().ok_or(EngineError::NotRunning)
    }

    pub(super) fn disk(&self, folder: &Path) -> Result<Disk, EngineError> {
        Disk::open(folder).map_err(EngineError::io("open the folder", folder))
    }

    pub(super) async fn attach(&self) -> Result<Process, EngineError> {
        // A database that an earlier agent left has lost its files with it.
        if self.instance.attach().await? {
            self.instance.kill();
            let mut process = self.instance.process();
            let _ = process.wait_for(|p| *p == Process::Stopped).await;
        }
        clean_stale(&self.paths.data)?;
        self.paths.finish()?;
        let copy = match Volume::identity_in(&self.disk(&self.paths.copy)?) {
            Ok(Some(_)) => DataCopy::Complete,
            Ok(None) => DataCopy::Missing,
            Err(error) => DataCopy::Incomplete(error.to_string()),
        };
        self.opened().copy = copy;
        Ok(Process::Stopped)
    }

    pub(super) fn identity(&self) -> Result<Option<CopyId>, EngineError> {
        let disk = self.disk(&self.paths.copy)?;
        let found = Volume::identity_in(&disk).map_err(EngineError::volume("say whose data it is"))?;
        Ok(found.map(CopyId))
    }

    pub(super) fn bootstrap(&self) -> Result<CopyId, EngineError> {
        let disk = self.disk(&self.paths.copy)?;
        let (uid, gid) = self.config.spec.owner();
        let at = self.clock.wall();
        let at = Stamp { secs: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), nanos: at.subsec_nanos() };
        match Volume::create(&disk, self.config.identity, FIRST, Tree::new(uid, gid, at)) {
            Ok(()) | Err(VolumeError::Exists(_)) => {}
            Err(error) => return Err(EngineError::volume("make the first copy")(error)),
        }
        self.opened().copy = DataCopy::Complete;
        self.identity()?.ok_or_else(|| EngineError::NoCopy(self.paths.copy.clone()))
    }

    pub(super) async fn start(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        if self.opened().volume.is_some() {
            return Ok(());
        }
        if self.opened().copy == DataCopy::Missing {
            return Err(EngineError::NoCopy(self.paths.copy.clone()));
        }
        let disk: Arc<dyn Medium> = Arc::new(self.disk(&self.paths.copy)?);
        let settings = self.config.settings;
        match blocking(move || Volume::open(disk, settings)).await {
            Ok(volume) => {
                self.opened().volume = Some(volume);
                self.process.send_replace(Process::Running);
                Ok(())
            }
            Err(error @ VolumeError::Damaged { .. }) => {
                tracing::error!(%error, "this copy is of no use any more");
                let why = error.to_string();
                self.opened().copy = DataCopy::Incomplete(why.clone());
                Err(EngineError::IncompleteCopy { path: self.paths.copy.clone(), why })
            }
            Err(error) => Err(EngineError::volume("open the volume")(error)),
        }
    }

    /// Ends the flow of the log into this copy. When this returns nothing more comes.
    pub(super) async fn cut(&self) {
        let mut following = self.following.lock().await;
        if let Some(f) = following.as_mut() {
            f.cut().await;
        }
        *following = None;
        self.opened().follows = None;
    }

    pub(super) async fn seal(&self) -> Result<Position, EngineError> {
        let _turn = self.turn.lock().await;
        let volume = self.standby("seal it")?;
        self.cut().await;
        let flush = volume.clone();
        blocking(move || flush.flush()).await.map_err(EngineError::volume("make the log durable"))?;
        Ok(volume.position())
    }

    /// Everything of `volume` on this node goes: its database has ended, or is to. What is open by then instead stays.
    pub(super) async fn tear_down(&self, volume: &Volume, serving: Option<&Arc<Serving>>, why: &str) {
        let _one = self.tearing.lock().await;
        if !self.opened().volume.as_ref().is_some_and(|open| open.is(volume)) {
            return;
        }
        if let Some(serving) = serving {
            serving.kill(why);
            serving.wait_ended().await;
            serving.unmount().await;
        }
        self.cut().await;
        let (ending, reason) = (volume.clone(), why.to_owned());
        blocking(move || ending.end(&reason)).await;
        let mut open = self.opened();
        open.serving = None;
        open.volume = None;
        open.silent = None;
        drop(open);
        self.process.send_replace(Process::Stopped);
    }
}
