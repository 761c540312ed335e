//! The standby's side of replication: where its receiver connects to, and what the primary tells it.
//!
//! One feed is for one primary and epoch. Dropped or cut, nothing flows in any more: the receiver connects to a port of
//! this feed's own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use trine_protocol::{Epoch, NodeName};

use super::gate::Progress;
use super::session::Session;
use super::state::Mysql;
use super::tunnel::{Hello, Told, hear, say};
use crate::files::sync_all;
use crate::{Ask, EngineError, Neighbours};

/// How soon a connection that broke is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// How often a standby tells how far it is. A switchover waits for that.
const TELL: Duration = Duration::from_millis(25);
/// How many events of the log are taken before it is flushed, where nothing of it is acknowledged.
const UNFLUSHED: u32 = 1000;
/// How long the primary's first word is waited for. Without it the standby acknowledges nothing yet.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// Where a standby's log comes from.
#[derive(Debug)]
pub(super) struct Feed {
    /// Where its receiver has to connect to.
    pub(super) address: SocketAddr,
    /// Whether the receiver is one that acknowledges. Changed only while nothing is connected.
    acknowledges: Arc<AtomicBool>,
    told: watch::Receiver<Option<Told>>,
    progress: watch::Sender<Progress>,
    /// The receiver's connections are let through by this task.
    door: Option<JoinHandle<()>>,
    report: Option<JoinHandle<()>>,
    reconcile: Option<JoinHandle<()>>,
}

impl Feed {
    /// Opens the door for the receiver, and a stream on which the primary says whether this standby counts.
    pub(super) async fn open(engine: &Mysql, upstream: NodeName, epoch: Epoch) -> Result<Self, EngineError> {
        let failed = |source| EngineError::Neighbour { action: "make a way to", node: upstream.clone(), source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let neighbours = engine.neighbours()?;
        let acknowledges = Arc::new(AtomicBool::new(false));
        let (tell, told) = watch::channel(None);
        let progress = watch::channel(Progress::default()).0;
        let door = let_through(listener, Arc::clone(&neighbours), upstream.clone(), epoch, Arc::clone(&acknowledges));
        let report = report(neighbours, upstream, progress.subscribe(), tell);
        Ok(Self {
            address,
            acknowledges,
            told,
            progress,
            door: engine.threads.start_task(door),
            report: engine.threads.start_task(report),
            reconcile: None,
        })
    }

    /// What the primary has said by now.
    pub(super) async fn first_word(&mut self) -> Option<Told> {
        let said = timeout(FIRST_WORD, self.told.wait_for(Option::is_some)).await;
        said.ok().and_then(Result::ok).and_then(|told| *told)
    }

    /// The receiver was set to acknowledge, or not to. It must not be connected.
    pub(super) fn set_acknowledges(&self, acknowledges: bool) {
        self.acknowledges.store(acknowledges, Ordering::SeqCst);
    }

    /// Whether the receiver was set to acknowledge.
    pub(super) fn acknowledges(&self) -> bool {
        self.acknowledges.load(Ordering::SeqCst)
    }

    /// Keeps the receiver as the primary wants it, from now on; it acknowledges nothing before it has received up to `caught_up`.
    pub(super) fn keep(&mut self, engine: &Arc<Mysql>, caught_up: u64) {
        let (told, acknowledges) = (self.told.clone(), Arc::clone(&self.acknowledges));
        let work = keep(Arc::downgrade(engine), told, acknowledges, self.progress.clone(), caught_up);
        self.reconcile = engine.threads.start_task(work);
    }

    /// Ends it, and returns once nothing flows any more. Can be called again when it was dropped half-way.
    pub(super) async fn cut(&mut self) {
        for task in [&mut self.reconcile, &mut self.door, &mut self.report] {
            if let Some(running) = task {
                running.abort();
                let _ = running.await;
                *task = None;
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        for task in [&self.reconcile, &self.door, &self.report].into_iter().flatten() {
            task.abort();
        }
    }
}

impl Mysql {
    /// Nothing comes in from a primary's agent any more.
    pub(super) async fn cut_feed(&self) {
        let mut feed = self.feed.lock().await;
        if let Some(open) = feed.as_mut() {
            open.cut().await;
        }
        *feed = None;
    }
}

/// Leads the receiver's connections to the primary's database.
async fn let_through(
    listener: TcpListener,
    neighbours: Arc<dyn Neighbours>,
    upstream: NodeName,
    epoch: Epoch,
    acknowledges: Arc<AtomicBool>,
) {
    let mut open = JoinSet::new();
    loop {
        let receiver = match listener.accept().await {
            Ok((receiver, _)) => receiver,
            Err(error) => {
                tracing::debug!(%error, "the receiver can't be let through");
                sleep(AGAIN).await;
                continue;
            }
        };
        let (neighbours, node) = (Arc::clone(&neighbours), upstream.clone());
        let hello = Hello { epoch, acknowledges: acknowledges.load(Ordering::SeqCst) };
        open.spawn(async move {
            if let Err(error) = pass(receiver, neighbours, &node, hello).await {
                tracing::debug!(upstream = %node, %error, "the log flows no longer");
            }
        });
        while open.try_join_next().is_some() {}
    }
}

async fn pass(
    mut receiver: TcpStream,
    neighbours: Arc<dyn Neighbours>,
    node: &NodeName,
    hello: Hello,
) -> io::Result<()> {
    receiver.set_nodelay(true)?;
    let mut stream = neighbours.open(node, Ask::Log).await?;
    say(&mut stream, &hello).await?;
    copy_bidirectional(&mut receiver, &mut stream).await.map(drop)
}

/// Tells the primary how far this standby is, and hears whether it counts.
async fn report(
    neighbours: Arc<dyn Neighbours>,
    upstream: NodeName,
    progress: watch::Receiver<Progress>,
    tell: watch::Sender<Option<Told>>,
) {
    loop {
        let ended = async {
            let stream = neighbours.open(&upstream, Ask::Progress).await?;
            let (mut read, mut write) = tokio::io::split(stream);
            let send = async {
                let mut ticks = interval(TELL);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let now = *progress.borrow();
                    say(&mut write, &now).await?;
                }
            };
            let listen = async {
                loop {
                    let told: Told = hear(&mut read).await?;
                    tell.send_replace(Some(told));
                }
            };
            let ended: io::Result<()> = tokio::select! { ended = send => ended, ended = listen => ended };
            ended
        };
        if let Err(error) = ended.await {
            tracing::trace!(%upstream, %error, "the primary is told nothing");
        }
        sleep(AGAIN).await;
    }
}

/// Looks how far the database is, and makes its receiver acknowledge when, and only when, the primary counts it and it has
/// caught up.
async fn keep(
    engine: std::sync::Weak<Mysql>,
    told: watch::Receiver<Option<Told>>,
    acknowledges: Arc<AtomicBool>,
    progress: watch::Sender<Progress>,
    caught_up: u64,
) {
    let mut ticks = interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut own = None;
    loop {
        ticks.tick().await;
        let Some(engine) = engine.upgrade() else { return };
        let there = progress.borrow().received >= caught_up;
        let wanted = told.borrow().map(|t| t.counts && there);
        let done = async {
            if let Some(wanted) = wanted.filter(|w| *w != acknowledges.load(Ordering::SeqCst)) {
                engine.make_acknowledge(wanted, &acknowledges).await?;
            }
            let mut session = engine.session().await?;
            let part = engine.own_part(&mut session).await?;
            if own.as_ref() != Some(&part) {
                let errant = engine.errant(&mut session).await?;
                // Only now: what could not be asked is asked again.
                own = Some(part);
                if let Some(why) = errant {
                    // It acknowledges nothing more; `follow` says what becomes of it.
                    tracing::error!(why, "this copy is no part of the primary's log any more: it is cut off from it");
                    session.run("stop its receiver", engine.words().stop_receiver).await?;
                    progress.send_modify(|p| p.streaming = false);
                    engine.give_back(session);
                    return Ok(());
                }
            }
            let slave = engine.slave(&mut session).await?.unwrap_or_default();
            if acknowledges.load(Ordering::SeqCst)
                && slave.receiver == "Yes"
                && engine.has_given_up(&mut session).await?
            {
                tracing::warn!("the receiver has given up acknowledging: it is started again");
                engine.make_acknowledge(true, &acknowledges).await?;
            }
            let applied = engine.place(&mut session).await?.number;
            engine.give_back(session);
            let received = slave.received.number.max(applied);
            let streaming = slave.receiver == "Yes" && slave.applies;
            progress.send_replace(Progress { received, applied, streaming });
            Ok::<(), EngineError>(())
        };
        if let Err(error) = done.await {
            progress.send_modify(|p| p.streaming = false);
            tracing::debug!(error = %error.chain(), "can't see how far the database is");
        }
    }
}

impl Mysql {
    /// Whether the receiver was to acknowledge, and does not any more: an acknowledgement was not taken in time.
    async fn has_given_up(&self, session: &mut Session) -> Result<bool, EngineError> {
        const ACTION: &str = "say whether it acknowledges";
        Ok(session.status(ACTION, self.words().acknowledges).await? != "ON")
    }

    /// Makes the next receiver one that acknowledges, and has on disk what it does, or one that does neither.
    ///
    /// To have each event of the log on disk before the next is taken costs five flushes for a small transaction: where disks are
    /// slow a standby that lags took 80 transactions a second so, and a failover that needed it waited for all of them.
    pub(super) async fn receive_as(&self, session: &mut Session, acknowledges: bool) -> Result<(), EngineError> {
        let every = if acknowledges { 1 } else { UNFLUSHED };
        session.run("set when it flushes its log", &format!("set global sync_relay_log = {every}")).await?;
        session.run("make its receiver acknowledge", &self.words().acknowledge(acknowledges)).await
    }

    /// Restarts the receiver as one that acknowledges, or does not. The applier goes on: what was received stays.
    async fn make_acknowledge(&self, wanted: bool, acknowledges: &AtomicBool) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let mut session = self.session().await?;
        if !self.slave(&mut session).await?.is_some_and(|s| s.applies) {
            // With both stopped, the next start would throw the received log away.
            return Err(EngineError::NotConfirmed("its sync rule: its applier has stopped".into()));
        }
        session.run("stop its receiver", self.words().stop_receiver).await?;
        if wanted && !acknowledges.load(Ordering::SeqCst) {
            // An acknowledgement holds for what was received before, too.
            sync_all(&self.paths.data).await?;
        }
        self.receive_as(&mut session, wanted).await?;
        acknowledges.store(wanted, Ordering::SeqCst);
        session.run("start its receiver", self.words().start_receiver).await?;
        self.give_back(session);
        tracing::info!(acknowledges = wanted, "the receiver was started again");
        Ok(())
    }
}
