//! Any database, by its files: the engine that replicates the volume that they are on.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};
use tokio::time::{sleep, timeout};
use trine_platform::{BoxStream, Clock};
use trine_protocol::{Epoch, Moment, NodeName, Position};
use trine_volume::{Disk, Mark, Medium, Settings, Stamp, Tree, Volume, VolumeError, clean_stale, link};

use super::following::{Flow, Following};
use super::paths::Paths;
use super::serving::{Serving, Up};
use super::{DatabaseSpec, Instance, verifying};
use crate::guard::{GuardCommand, blocking};
use crate::threads::Threads;
use crate::{
    Adopted, Ask, CopyId, DataCopy, Engine, EngineError, Followed, Fork, History, Inspection, Neighbours, Process,
    Progress, Role, StandbySeen, SyncSetting, Upstream, Verification,
};

/// A new follower is waited for so long before the caller may look again.
const FIRST_WORD: Duration = Duration::from_millis(300);

/// A primary that stops gives its standbys so long to take the end of its log.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The epoch that an empty volume begins in; the first primary's is higher.
const FIRST: Epoch = Epoch(1);

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

struct Inner {
    config: VolumeConfig,
    paths: Paths,
    clock: Arc<dyn Clock>,
    instance: Instance,
    threads: Threads,
    neighbours: OnceLock<Arc<dyn Neighbours>>,
    /// Held by each operation that changes the copy or what is open.
    turn: AsyncMutex<()>,
    /// Held while a new copy is made.
    copying: AsyncMutex<()>,
    following: AsyncMutex<Option<Following>>,
    /// Held while what is open is taken down.
    tearing: AsyncMutex<()>,
    open: Mutex<Open>,
    process: watch::Sender<Process>,
}

#[derive(Debug)]
struct Open {
    volume: Option<Volume>,
    serving: Option<Arc<Serving>>,
    copy: DataCopy,
    /// Whom it follows, for those who only look.
    follows: Option<(NodeName, watch::Receiver<Flow>)>,
    /// Since when the database does not answer.
    silent: Option<Moment>,
    /// Why the last database ended.
    words: Option<String>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeEngine").field("me", &self.config.me).finish_non_exhaustive()
    }
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

impl Inner {
    fn opened(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn what_is_open(&self) -> (Option<Volume>, Option<Arc<Serving>>) {
        let open = self.opened();
        (open.volume.clone(), open.serving.clone())
    }

    fn volume(&self) -> Result<Volume, EngineError> {
        self.opened().volume.clone().ok_or(EngineError::NotRunning)
    }

    /// The open volume of a copy that takes the log.
    fn standby(&self, operation: &'static str) -> Result<Volume, EngineError> {
        let volume = self.volume()?;
        match volume.leading() {
            None => Ok(volume),
            Some(_) => Err(EngineError::WrongRole { operation, found: Role::Primary, needed: Role::Standby }),
        }
    }

    fn neighbours(&self) -> Result<Arc<dyn Neighbours>, EngineError> {
        self.neighbours.get().cloned().ok_or(EngineError::NotRunning)
    }

    async fn attach(&self) -> Result<Process, EngineError> {
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

    fn disk(&self, folder: &Path) -> Result<Disk, EngineError> {
        Disk::open(folder).map_err(EngineError::io("open the folder", folder))
    }

    fn identity(&self) -> Result<Option<CopyId>, EngineError> {
        let disk = self.disk(&self.paths.copy)?;
        let found = Volume::identity_in(&disk).map_err(EngineError::volume("say whose data it is"))?;
        Ok(found.map(CopyId))
    }

    fn bootstrap(&self) -> Result<CopyId, EngineError> {
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

    async fn start(&self) -> Result<(), EngineError> {
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
    async fn cut(&self) {
        let mut following = self.following.lock().await;
        if let Some(f) = following.as_mut() {
            f.cut().await;
        }
        *following = None;
        self.opened().follows = None;
    }

    async fn seal(&self) -> Result<Position, EngineError> {
        let _turn = self.turn.lock().await;
        let volume = self.standby("seal it")?;
        self.cut().await;
        let flush = volume.clone();
        blocking(move || flush.flush()).await.map_err(EngineError::volume("make the log durable"))?;
        Ok(volume.position())
    }

    async fn promote(self: &Arc<Self>, epoch: Epoch) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let failed = |why: String| EngineError::PromoteFailed { epoch, why };
        let volume = self.volume()?;
        let serving = self.opened().serving.clone();
        if let Some(serving) = serving {
            return if serving.epoch == epoch { Ok(()) } else { Err(failed("it leads another epoch".to_owned())) };
        }
        self.cut().await;
        let lead = volume.clone();
        blocking(move || lead.lead(epoch)).await.map_err(|e| failed(e.to_string()))?;
        let serving = Serving::mount(epoch, volume, self.instance.clone(), &self.paths).await?;
        {
            let mut open = self.opened();
            open.serving = Some(Arc::clone(&serving));
            open.words = None;
        }
        self.process.send_replace(Process::Running);
        let (this, run) = (Arc::clone(self), Arc::clone(&serving));
        self.threads.spawn(async move {
            let why = run.run().await;
            // Who has it stopped or killed takes it down.
            if !run.is_ending() {
                this.opened().words = Some(why.clone());
                this.tear_down(&run.volume, Some(&run), &why).await;
            }
        });
        let (this, look) = (Arc::clone(self), serving);
        self.threads.spawn(async move { this.keep_asking(&look).await });
        Ok(())
    }

    /// Asks the database again and again how it is, while it runs.
    async fn keep_asking(&self, serving: &Serving) {
        let mut up = serving.up();
        let ready = up.wait_for(|u| *u != Up::Starting).await.map(|u| *u == Up::Ready);
        if !ready.is_ok_and(|ready| ready) {
            return;
        }
        let spec = self.instance.spec().clone();
        let ask = async {
            let mut failures = 0;
            loop {
                let asked = self.clock.now();
                match spec.ask(&spec.health.check).await {
                    Ok(()) => {
                        failures = 0;
                        self.opened().silent = None;
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::debug!(%error, failures, "the database does not answer as it should");
                        if failures >= spec.health.failures {
                            self.opened().silent.get_or_insert(asked);
                        }
                    }
                }
                sleep(spec.health.check.every).await;
            }
        };
        tokio::select! {
            () = ask => {}
            _ = up.wait_for(|u| *u != Up::Ready) => {}
        }
        self.opened().silent = None;
    }

    /// Everything of `volume` on this node goes: its database has ended, or is to. What is open by then instead stays.
    async fn tear_down(&self, volume: &Volume, serving: Option<&Arc<Serving>>, why: &str) {
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

    async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        let _turn = self.turn.lock().await;
        let volume = self.standby("follow")?;
        if let Some(why) = volume.closed() {
            // Its disk has failed. Opened anew it says whether what it has is of any use.
            if volume.is_broken() {
                self.opened().copy = DataCopy::Incomplete(why.clone());
            }
            self.tear_down(&volume, None, &why).await;
            return Err(EngineError::NotRunning);
        }
        self.check_identity(&upstream.node, history)?;
        let own = own_history(&volume);
        let common = history.common(&own);
        if common.is_none_or(|c| c.end < own.end) {
            let at = common.map_or(0, |c| c.end);
            return Ok(Followed::Diverged(format!("its log goes on to {} where it parts at {at}", own.end)));
        }
        let mut flow = {
            let mut following = self.following.lock().await;
            let same = |f: &Following| f.upstream == upstream.node && f.epoch == history.epoch;
            if !following.as_ref().is_some_and(same) {
                if let Some(f) = following.as_mut() {
                    f.cut().await;
                }
                let (node, epoch) = (upstream.node.clone(), history.epoch);
                *following = Following::start(&self.threads, volume, self.neighbours()?, node, epoch);
            }
            let Some(f) = following.as_ref() else { return Err(EngineError::NotRunning) };
            self.opened().follows = Some((f.upstream.clone(), f.flow.clone()));
            f.flow.clone()
        };
        let settled = flow.wait_for(|f| !matches!(f, Flow::Connecting(_)));
        let _ = timeout(FIRST_WORD, settled).await;
        let now = flow.borrow().clone();
        Ok(match now {
            Flow::Streaming => Followed::Streaming,
            Flow::Connecting(_) => Followed::NotYet,
            Flow::Parted => Followed::Diverged(format!("{} has another log", upstream.node)),
            Flow::TooFar(first) => {
                Followed::TooFarBehind(format!("{} keeps its log only from {first} on", upstream.node))
            }
        })
    }

    fn check_identity(&self, node: &NodeName, history: &History) -> Result<(), EngineError> {
        match self.identity()? {
            Some(found) if found != history.identity => Err(EngineError::OtherCluster {
                what: format!("the log of {node}"),
                found: history.identity,
                expected: found,
            }),
            _ => Ok(()),
        }
    }

    async fn rejoin(&self, upstream: &Upstream, history: &History) -> Result<(), EngineError> {
        {
            let _turn = self.turn.lock().await;
            let volume = self.standby("rewind it")?;
            self.check_identity(&upstream.node, history)?;
            self.cut().await;
            let own = own_history(&volume);
            let Some(common) = history.common(&own) else {
                return Err(EngineError::NeedsRebuild(format!("it has nothing in common with {}", upstream.node)));
            };
            if common.end >= own.end {
                return Err(EngineError::NeedsRebuild(format!("its log differs from that of {}", upstream.node)));
            }
            let kept = self.paths.kept.clone();
            let work = move || {
                keep_aside(&volume, common.end, &kept)?;
                volume.truncate(common.end).map_err(|error| match error {
                    VolumeError::Applied { .. } | VolumeError::Strange(_) => {
                        EngineError::NeedsRebuild(error.to_string())
                    }
                    other => EngineError::volume("take back the end of the log")(other),
                })
            };
            blocking(work).await?;
        }
        self.follow(upstream, history).await.map(drop)
    }

    async fn copy_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let _one = self.copying.lock().await;
        crate::files::remove_tree(&self.paths.fresh)?;
        let fresh = Arc::new(self.disk(&self.paths.fresh)?);
        let old = self.disk(&self.paths.copy)?;
        let open = async |ask| {
            self.neighbours()?.open(&upstream.node, ask).await.map_err(|source| EngineError::Neighbour {
                action: "open a stream to",
                node: upstream.node.clone(),
                source,
            })
        };
        let failed = EngineError::volume;
        let copied = |c: link::Copied| {
            progress.send_replace(Progress { phase: "copying".into(), done: c.done, total: Some(c.total) });
        };
        let stream = open(Ask::Copy).await?;
        let (taken, stream) =
            link::take(&*fresh, Some(&old), stream, copied).await.map_err(|e| self.full_or(e, "copy the volume"))?;
        if identity.is_some_and(|expected| expected != CopyId(taken.identity)) {
            let what = format!("the volume of {}", upstream.node);
            let expected = identity.unwrap_or(CopyId(0));
            return Err(EngineError::OtherCluster { what, found: CopyId(taken.identity), expected });
        }
        progress.send_replace(Progress { phase: "taking the log".into(), done: 0, total: None });
        let settings = self.config.settings;
        let opened = blocking(move || Volume::open(fresh, settings)).await;
        let volume = ClosedAtEnd(opened.map_err(failed("open the new copy"))?);
        let reached = self.take_log(&volume.0, upstream, &taken).await;
        let end = volume.0.clone();
        blocking(move || end.end("the new copy is put in place")).await;
        drop(stream);
        reached?;
        self.paths.mark_complete()?;
        let _turn = self.turn.lock().await;
        let (open, serving) = self.what_is_open();
        if let Some(open) = open {
            self.tear_down(&open, serving.as_ref(), "a new copy takes its place").await;
        }
        self.paths.swap()?;
        self.opened().copy = DataCopy::Complete;
        tracing::info!(sent = taken.sent, from = %upstream.node, "a new copy is in place");
        Ok(())
    }

    /// The new copy takes the log until it is one.
    async fn take_log(&self, volume: &Volume, upstream: &Upstream, taken: &link::Taken) -> Result<(), EngineError> {
        let link::Taken { upto, epoch, .. } = *taken;
        let neighbours = self.neighbours()?;
        let node = upstream.node.clone();
        let Some(mut following) = Following::start(&self.threads, volume.clone(), neighbours, node.clone(), epoch)
        else {
            return Err(EngineError::NotRunning);
        };
        let mut flow = following.flow.clone();
        let mut progress = volume.progress();
        let ended = tokio::select! {
            there = progress.wait_for(|p| p.durable >= upto || p.closed) => {
                there.is_ok_and(|p| !p.closed).then_some(()).ok_or_else(|| volume.closed().unwrap_or_default())
            }
            lost = flow.wait_for(|f| matches!(f, Flow::Parted | Flow::TooFar(_))) => {
                Err(lost.map_or_else(|e| e.to_string(), |f| format!("{:?}", *f)))
            }
        };
        following.cut().await;
        ended.map_err(|why| EngineError::Neighbour {
            action: "take the log after the copy from",
            node,
            source: std::io::Error::other(why),
        })
    }

    fn full_or(&self, error: VolumeError, action: &'static str) -> EngineError {
        match &error {
            VolumeError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                EngineError::DiskFull { path: self.paths.dir.clone(), what: error.to_string() }
            }
            _ => EngineError::volume(action)(error),
        }
    }

    async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        let failed = |why: String| EngineError::BarrierFailed { epoch, why };
        let serving = self.opened().serving.clone().filter(|s| s.epoch == epoch);
        let Some(serving) = serving else { return Err(failed("it does not lead this epoch".to_owned())) };
        let volume = self.volume()?;
        let (tell, told) = oneshot::channel();
        let done = Box::new(|outcome| {
            let _ = tell.send(outcome);
        });
        volume.barrier(done).map_err(|e| failed(e.to_string()))?;
        match told.await {
            Ok(Ok(())) => {}
            _ => return Err(failed(volume.closed().unwrap_or_else(|| "the volume is closed".to_owned()))),
        }
        // Clients are let in by this: the database must be there.
        let mut up = serving.up();
        let up = up.wait_for(|u| *u != Up::Starting).await.map(|u| u.clone());
        match up {
            Ok(Up::Ready) => Ok(()),
            Ok(Up::Ended(why)) => Err(failed(why)),
            _ => Err(failed("its database has ended".to_owned())),
        }
    }

    async fn stop(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let (volume, serving) = self.what_is_open();
        let Some(volume) = volume else { return Ok(()) };
        if let Some(serving) = &serving {
            serving.stop().await?;
            let flush = volume.clone();
            // What a disk that has failed did not keep, it does not keep the next time either.
            if let Err(error) = blocking(move || flush.flush()).await {
                tracing::warn!(%error, "the end of the log may not be on this node's disk");
            }
            let end = volume.log_end();
            let _ = timeout(LAST_WORD, taken_by_all(&volume, end)).await;
        }
        self.tear_down(&volume, serving.as_ref(), "it was stopped").await;
        Ok(())
    }

    fn look(&self) -> Inspection {
        let open = self.opened();
        let process = *self.process.borrow();
        let copy = match &open.volume {
            Some(volume) if volume.is_broken() => DataCopy::Incomplete(volume.closed().unwrap_or_default()),
            _ => open.copy.clone(),
        };
        let mut seen = Inspection::of(copy, process);
        if let Some((guard, database)) = self.instance.pids() {
            (seen.guard_pid, seen.database_pid) = (Some(guard), Some(database));
        }
        if let Some(since) = open.silent {
            seen.silent = self.clock.now().since(since);
            seen.process = Process::Hung;
        }
        let Some(volume) = &open.volume else { return seen };
        let now = *volume.progress().borrow();
        let position = volume.position();
        seen.identity = Some(CopyId(volume.identity()));
        seen.timeline = Some(position.epoch.0);
        seen.position = Some(position);
        if volume.leading().is_some() {
            seen.role = Some(Role::Primary);
            seen.rewind_ready = true;
            let standby = |(name, acked): (NodeName, trine_volume::Acked)| {
                let seen = StandbySeen {
                    streaming: true,
                    flushed: Some(acked.durable),
                    replayed: Some(acked.durable),
                    replay_lag: None,
                };
                (name, seen)
            };
            seen.standbys = volume.followers().into_iter().map(standby).collect();
            return seen;
        }
        seen.role = Some(Role::Standby);
        seen.received = Some(now.end);
        // A standby's log is all that counts; what is not in the files yet gets there when it leads.
        seen.replayed = Some(now.end);
        if let Some((node, flow)) = &open.follows {
            seen.following = Some(node.clone());
            match &*flow.borrow() {
                Flow::Streaming => {
                    seen.streaming = true;
                    seen.lag = Some(Duration::ZERO);
                }
                Flow::Connecting(why) => seen.receiver_error.clone_from(why),
                Flow::Parted | Flow::TooFar(_) => {}
            }
        }
        seen
    }
}

/// A volume that is closed whatever becomes of who opened it: its threads would work on in a folder that is made anew.
struct ClosedAtEnd(Volume);

impl Drop for ClosedAtEnd {
    fn drop(&mut self) {
        self.0.close("nobody needs it any more");
    }
}

/// Returns once each node that takes the log has it up to `end`.
async fn taken_by_all(volume: &Volume, end: Mark) {
    let mut progress = volume.progress();
    while volume.followers().values().any(|acked| acked.durable < end.lsn) {
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// What a copy's log is made of.
fn own_history(volume: &Volume) -> History {
    let (lineage, end) = volume.extent();
    let ends = lineage.begins().iter().skip(1).map(|(_, begin)| *begin);
    let forks = lineage.begins().iter().zip(ends).map(|((epoch, _), end)| Fork { epoch: *epoch, end }).collect();
    History { identity: CopyId(volume.identity()), forks, epoch: lineage.epoch(), end, rewind_ready: true }
}

/// Keeps what is about to be taken back, for a person: the log's own bytes, from `from` to its end.
fn keep_aside(volume: &Volume, from: u64, kept: &Path) -> Result<(), EngineError> {
    let end = volume.log_end().lsn;
    fs::create_dir_all(kept).map_err(EngineError::io("make the folder", kept))?;
    let path = kept.join(format!("epoch-{}-from-{from}-to-{end}.log", volume.lineage().epoch()));
    let mut log = Vec::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = from;
    while at < end {
        let read = volume.read_log(at, &mut piece).map_err(EngineError::volume("read the log"))?;
        log.extend_from_slice(piece.get(..read).unwrap_or_default());
        at += read as u64;
    }
    fs::write(&path, log).map_err(EngineError::io("write", &path))?;
    tracing::warn!(file = %path.display(), from, to = end, "kept aside what is taken back");
    Ok(())
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
        let work = async move {
            let served = match ask {
                Ask::Log => link::serve(&volume, &from, stream).await,
                Ask::Copy => link::give(&volume, from.as_str(), stream).await,
                Ask::Nothing => Ok(()),
            };
            if let Err(error) = served {
                tracing::debug!(%from, ?ask, %error, "a stream to another node has ended");
            }
        };
        self.inner.threads.run(work).await;
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
