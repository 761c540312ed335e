//! Any database, by its files: the engine that replicates the volume that they are on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, watch};
use trine_platform::{BoxStream, Clock};
use trine_protocol::{Epoch, Moment, NodeName, Position};
use trine_volume::{Settings, clean_stale, link};

use super::paths::Paths;
use super::site::{Inner, Open};
use super::standby::own_history;
use super::{DatabaseSpec, Instance, verifying};
use crate::guard::{GuardCommand, blocking};
use crate::threads::Threads;
use crate::{
    Adopted, Ask, CopyId, DataCopy, Engine, EngineError, Followed, History, Inspection, Neighbours, Process, Progress,
    Role, SyncSetting, Upstream, Verification,
};

/// What the engine has to know about this node.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// This node.
    pub me: NodeName,
    /// The node's folder: `data/`, `volume/`, `run/`, `log/`, `kept/` are made below it.
    pub dir: PathBuf,
    /// The database.
    pub spec: DatabaseSpec,
    /// How the volume is kept.
    pub settings: Settings,
    /// How long after one comparison of the copies the next is due; `None`: never.
    pub verify_every: Option<Duration>,
    /// How a guard is started.
    pub guard: GuardCommand,
    /// A number that no other cluster's volume has: what the first copy is called.
    pub identity: u64,
}

/// A database on a replicated volume, on this node. A standby runs none: it has the volume.
#[derive(Clone, Debug)]
pub struct VolumeEngine {
    inner: Arc<Inner>,
}

impl VolumeEngine {
    /// Makes the node's folders. Starts nothing.
    ///
    /// # Errors
    /// A folder or a thread can't be made.
    pub fn open(config: VolumeConfig, clock: Arc<dyn Clock>) -> Result<Self, EngineError> {
        // What an agent that was killed has left mounted can't even be looked at.
        clean_stale(&config.dir.join("data"))?;
        let paths = Paths::prepare(&config.dir)?;
        let open =
            Open { volume: None, serving: None, copy: DataCopy::Missing, follows: None, silent: None, words: None };
        let inner = Inner {
            instance: Instance::new(config.spec.clone(), config.guard.clone()),
            paths,
            clock,
            threads: Threads::start()?,
            log: Threads::start_one("volume-log")?,
            neighbours: OnceLock::new(),
            turn: AsyncMutex::new(()),
            copying: AsyncMutex::new(()),
            following: AsyncMutex::new(None),
            tearing: AsyncMutex::new(()),
            open: Mutex::new(open),
            process: watch::channel(Process::Stopped).0,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs `work` on the engine's threads, as it may wait for a disk.
    async fn run<T: Send + 'static, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.inner.threads.run(work(Arc::clone(&self.inner))).await
    }
}

#[async_trait]
impl Engine for VolumeEngine {
    fn kind(&self) -> &'static str {
        "volume"
    }

    fn meet(&self, neighbours: Arc<dyn Neighbours>) {
        let _ = self.inner.neighbours.set(neighbours);
    }

    async fn serve(&self, from: &NodeName, ask: Ask, stream: BoxStream) {
        let Ok(volume) = self.inner.volume() else { return };
        let from = from.clone();
        let threads = if ask == Ask::Log { &self.inner.log } else { &self.inner.threads };
        let work = async move {
            let served = match ask {
                Ask::Log => link::serve(&volume, &from, stream).await,
                Ask::Copy => link::give(&volume, from.as_str(), stream).await,
                Ask::Progress | Ask::Nothing => Ok(()),
            };
            if let Err(error) = served {
                tracing::debug!(%from, ?ask, %error, "a stream to another node has ended");
            }
        };
        threads.run(work).await;
    }

    async fn attach(&self) -> Result<Process, EngineError> {
        self.run(|this| async move { this.attach().await }).await
    }

    async fn inspect(&self) -> Inspection {
        self.inner.look()
    }

    async fn identity(&self) -> Result<Option<CopyId>, EngineError> {
        self.run(|this| async move { this.identity() }).await
    }

    async fn bootstrap(&self) -> Result<CopyId, EngineError> {
        self.run(|this| async move { this.bootstrap() }).await
    }

    async fn adopt(&self, from: &Path) -> Result<Adopted, EngineError> {
        let why = "taking over a directory into a volume is not built yet: copy its files in once the cluster runs";
        Err(EngineError::AdoptRefused { path: from.to_owned(), why: why.to_owned() })
    }

    async fn start(&self) -> Result<(), EngineError> {
        self.run(|this| async move { this.start().await }).await
    }

    async fn seal(&self) -> Result<Position, EngineError> {
        self.run(|this| async move { this.seal().await }).await
    }

    async fn promote(&self, epoch: Epoch, _members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        self.run(|this| async move { this.promote(epoch).await }).await
    }

    async fn set_members(&self, _members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        Ok(())
    }

    async fn history(&self) -> Result<History, EngineError> {
        let volume = self.inner.volume()?;
        match volume.leading() {
            Some(_) => Ok(own_history(&volume)),
            None => Err(EngineError::WrongRole {
                operation: "tell its log's history",
                found: Role::Standby,
                needed: Role::Primary,
            }),
        }
    }

    async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        let (upstream, history) = (upstream.clone(), history.clone());
        self.run(|this| async move { this.follow(&upstream, &history).await }).await
    }

    async fn rejoin(
        &self,
        upstream: &Upstream,
        history: &History,
        _progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let (upstream, history) = (upstream.clone(), history.clone());
        self.run(|this| async move { this.rejoin(&upstream, &history).await }).await
    }

    async fn clone_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let (upstream, progress) = (upstream.clone(), progress.clone());
        self.run(|this| async move { this.copy_from(&upstream, identity, &progress).await }).await
    }

    async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError> {
        self.inner.volume()?.set_sync(setting);
        Ok(())
    }

    async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.run(|this| async move { this.barrier(epoch).await }).await
    }

    async fn prepare_stop(&self) -> Result<(), EngineError> {
        Ok(())
    }

    async fn stop(&self) -> Result<(), EngineError> {
        self.run(|this| async move { this.stop().await }).await
    }

    fn kill(&self) {
        const WHY: &str = "the node is fenced";
        let (volume, serving) = self.inner.what_is_open();
        match &serving {
            Some(serving) => serving.kill(WHY),
            None => self.inner.instance.kill(),
        }
        if let Some(volume) = volume {
            volume.close(WHY);
            let this = Arc::clone(&self.inner);
            self.inner.threads.spawn(async move { this.tear_down(&volume, serving.as_ref(), WHY).await });
        }
    }

    fn push(&self, deadline: Moment) {
        self.inner.instance.push(deadline);
    }

    fn process(&self) -> watch::Receiver<Process> {
        self.inner.process.subscribe()
    }

    fn last_words(&self) -> Option<String> {
        self.inner.opened().words.clone()
    }

    async fn is_verification_due(&self) -> bool {
        let Some(every) = self.inner.config.verify_every else { return false };
        let (Some(volume), Some(_)) = self.inner.what_is_open() else { return false };
        let now = self.inner.clock.wall();
        self.run(|_| blocking(move || verifying::is_due(&volume, every, now))).await
    }

    async fn verify(&self, pace: Option<u64>, seen: &watch::Sender<Verification>) -> Result<(), EngineError> {
        let seen = seen.clone();
        let work = |this: Arc<Inner>| async move {
            let volume = this.volume()?;
            if volume.leading().is_none() {
                let (found, needed) = (Role::Standby, Role::Primary);
                return Err(EngineError::WrongRole { operation: "compare the copies", found, needed });
            }
            verifying::verify(&this.config.me, &volume, pace, this.clock.wall(), &seen).await
        };
        self.run(work).await
    }

    async fn connect(&self) -> std::io::Result<BoxStream> {
        self.inner.instance.connect().await
    }

    /// The log takes the same way as the agents' own streams.
    async fn reach(&self, other: &Upstream) -> std::io::Result<()> {
        let neighbours = self.inner.neighbours().map_err(std::io::Error::other)?;
        neighbours.open(&other.node, Ask::Nothing).await.map(drop)
    }
}
