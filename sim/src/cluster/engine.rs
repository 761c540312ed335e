//! The simulated PostgreSQL, as the agent drives it.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::sleep;
use trine_engine::{
    Adopted, CopyId, DataCopy, Engine, EngineError, Followed, History, Inspection, Process, Progress, Role, Upstream,
};
use trine_platform::BoxStream;
use trine_protocol::{Epoch, Moment, NodeName, Position, SyncSetting};

use super::database::Kind;
use super::fault::Cheat;
use super::handle::{Handle, LOOK};
use super::look::looked;
use super::stream::Receiver;
use super::world::{MS, Shared, World};

/// One node's database.
#[derive(Clone)]
pub(super) struct SimEngine {
    hand: Handle,
}

impl fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimEngine({:?})", self.hand)
    }
}

impl SimEngine {
    pub(super) fn new(world: Shared, i: usize) -> Self {
        Self { hand: Handle { world, i } }
    }

    /// May the log or the data be copied from there now?
    fn serves(&self, upstream: &Upstream, history: Option<&History>) -> Result<usize, EngineError> {
        let failed = |output: String| EngineError::Tool { tool: "copy", output };
        self.hand.with(|w, i| {
            let up = w.index(&upstream.node).ok_or_else(|| failed(format!("{} is unknown", upstream.node)))?;
            if !w.linked(up, i) || !w.linked(i, up) {
                return Err(failed(format!("{} can't be reached", upstream.node)));
            }
            let db = &w.machine(up).db;
            let right = history.is_none_or(|h| h.epoch.0 == db.timeline());
            if !db.leads() || db.habits.hung || !right {
                return Err(failed(format!("{} is not the primary", upstream.node)));
            }
            Ok(up)
        })
    }
}

#[async_trait]
impl Engine for SimEngine {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    async fn attach(&self) -> Result<Process, EngineError> {
        self.hand.takes(1, 10).await;
        Ok(self.hand.with(|w, i| w.process(i)))
    }

    async fn inspect(&self) -> Inspection {
        self.hand.inspect(looked).await
    }

    async fn identity(&self) -> Result<Option<CopyId>, EngineError> {
        Ok(self.hand.identity().await)
    }

    async fn bootstrap(&self) -> Result<CopyId, EngineError> {
        Ok(self.hand.bootstrap().await)
    }

    async fn adopt(&self, from: &Path) -> Result<Adopted, EngineError> {
        Err(EngineError::AdoptRefused { path: from.to_owned(), why: "it is simulated".to_owned() })
    }

    async fn start(&self) -> Result<(), EngineError> {
        self.hand.works(5, 60).await;
        if self.hand.may_start()? {
            self.hand.with(|w, i| {
                let now = w.now;
                let db = &mut w.machine(i).db;
                db.start();
                db.answered = now;
                w.tell(format!("the database of {} starts", w.name(i)));
            });
        }
        Ok(())
    }

    async fn seal(&self) -> Result<Position, EngineError> {
        self.hand.takes(0, 5).await;
        let life = self.hand.running_as(Role::Standby, "seal it")?;
        let streams_on = self.hand.with(|w, i| {
            let streams_on = w.cheat == Some(Cheat::StreamsOn) && i + 1 == w.machines.len();
            if !streams_on {
                w.machine(i).db.receiver = None;
            }
            streams_on
        });
        let read = |w: &mut World, i: usize| {
            let db = &w.machine(i).db;
            let still = (db.receiver.is_none() || streams_on) && !db.habits.hung;
            (still && db.flushed == db.log.len() && db.replayed == db.log.len()).then(|| db.position(db.flushed))
        };
        let position = self.hand.wait(life, read).await?;
        self.hand.with(|w, i| w.tell(format!("{} is sealed at {position}", w.name(i))));
        Ok(position)
    }

    async fn promote(&self, epoch: Epoch, _: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        let failed = |why: &str| EngineError::PromoteFailed { epoch, why: why.to_owned() };
        self.hand.works(5, 60).await;
        self.hand.with(|w, i| {
            let streams_on = w.cheat == Some(Cheat::StreamsOn) && i + 1 == w.machines.len();
            let db = &w.machine(i).db;
            if db.leads() && db.epoch == epoch.0 {
                return Ok(());
            }
            if !db.runs() {
                return Err(EngineError::NotRunning);
            }
            if db.role == Role::Primary || (db.receiver.is_some() && !streams_on) {
                return Err(failed("it is no sealed standby"));
            }
            if db.timeline() >= epoch.0 {
                return Err(failed("its log is numbered as far as this"));
            }
            w.leads(i, epoch.0);
            let base = w.append(i, Kind::Switch(epoch.0));
            let db = &mut w.machine(i).db;
            (db.role, db.epoch, db.base) = (Role::Primary, epoch.0, base);
            (db.flushed, db.released, db.shown) = (base, base, 0);
            db.confirmed.clear();
            Ok(())
        })
    }

    async fn set_members(&self, _: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        self.hand.running_as(Role::Primary, "name its members").map(|_| ())
    }

    async fn history(&self) -> Result<History, EngineError> {
        self.hand.takes(0, 3).await;
        self.hand.running_as(Role::Primary, "tell its history")?;
        Ok(self.hand.with(|w, i| w.history_of(i)))
    }

    async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        self.hand.takes(0, 10).await;
        let life = self.hand.running_as(Role::Standby, "follow")?;
        let begun = self.hand.with(|w, i| {
            let Some(up) = w.index(&upstream.node) else { return Err(EngineError::NotRunning) };
            let now = w.now;
            let db = &mut w.machine(i).db;
            if db.id != Some(history.identity.0) {
                let found = CopyId(db.id.unwrap_or(0));
                return Err(EngineError::OtherCluster { what: "data".to_owned(), found, expected: history.identity });
            }
            let epoch = history.epoch.0;
            if db.receiver.as_ref().is_some_and(|r| r.upstream == up && r.epoch == epoch) {
                return Ok(None);
            }
            if let Some(why) = db.parts_from(history) {
                db.receiver = None;
                return Ok(Some(Followed::Diverged(why)));
            }
            db.receiver = Some(Receiver::new(up, epoch, now));
            Ok(None)
        })?;
        if let Some(answer) = begun {
            return Ok(answer);
        }
        for _ in 0..50 {
            if self.hand.with(|w, i| w.machine(i).db.receiver.as_ref().is_some_and(Receiver::streams)) {
                return Ok(Followed::Streaming);
            }
            if self.hand.with(|w, i| w.machine(i).db.life != life) {
                return Err(EngineError::NotRunning);
            }
            sleep(LOOK).await;
        }
        Ok(Followed::NotYet)
    }

    async fn rejoin(
        &self,
        upstream: &Upstream,
        history: &History,
        _: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let up = self.serves(upstream, Some(history))?;
        self.hand.works(5, 20).await;
        self.hand.with(|w, i| {
            let db = &mut w.machine(i).db;
            if let DataCopy::Incomplete(why) = &db.copy {
                return Err(EngineError::NeedsRebuild(why.clone()));
            }
            db.kill();
            db.copy = DataCopy::Incomplete("a rewind has begun".to_owned());
            w.tell(format!("{} begins to rewind", w.name(i)));
            Ok(())
        })?;
        self.hand.works(20, 150).await;
        self.serves(upstream, Some(history)).map_err(|e| EngineError::NeedsRebuild(e.to_string()))?;
        self.hand.with(|w, i| {
            let (now, source) = (w.now, &w.machine(up).db);
            let log = source.log.get(..source.flushed).unwrap_or_default().to_vec();
            if w.machine(i).db.habits.full {
                return Err(EngineError::NeedsRebuild("the disk is full".to_owned()));
            }
            let db = &mut w.machine(i).db;
            db.replace(log);
            db.start();
            db.answered = now;
            db.receiver = Some(Receiver::new(up, history.epoch.0, now));
            w.tell(format!("{} is rewound", w.name(i)));
            Ok(())
        })
    }

    async fn clone_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let up = self.serves(upstream, None)?;
        let life = self.hand.with(|w, _| w.machine(up).db.life);
        let parts = self.hand.with(|w, _| w.between(2, 8));
        for part in 0..parts {
            let phase = "copying".to_owned();
            progress.send_replace(Progress { phase, done: part * 1000, total: Some(parts * 1000) });
            self.hand.works(10, 60).await;
            if self.hand.with(|w, i| w.machine(i).db.habits.full) {
                return Err(self.hand.full());
            }
            self.serves(upstream, None)?;
        }
        self.hand.with(|w, i| {
            let source = &w.machine(up).db;
            if source.life != life {
                return Err(EngineError::Tool { tool: "copy", output: "the primary has restarted".to_owned() });
            }
            let id = source.id;
            if let Some(expected) = identity.filter(|e| Some(e.0) != id) {
                let found = CopyId(id.unwrap_or(0));
                return Err(EngineError::OtherCluster { what: "the primary".to_owned(), found, expected });
            }
            let log = source.log.get(..source.flushed).unwrap_or_default().to_vec();
            let db = &mut w.machine(i).db;
            db.kill();
            db.replace(log);
            db.id = id;
            w.tell(format!("{} has a new copy of the data of {}", w.name(i), w.name(up)));
            Ok(())
        })
    }

    async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError> {
        let life = self.hand.with(|w, i| {
            let db = &mut w.machine(i).db;
            if !db.runs() {
                return Err(EngineError::NotRunning);
            }
            if db.settings.last() != Some(setting) {
                db.settings.push(setting.clone());
            }
            Ok(db.life)
        })?;
        if self.hand.with(|w, i| w.machine(i).db.settings.len() == 1) {
            return Ok(());
        }
        self.hand.takes(0, 15).await;
        let taken = |w: &mut World, i: usize| (!w.machine(i).db.habits.hung).then_some(());
        self.hand.wait(life, taken).await?;
        self.hand.with(|w, i| {
            let db = &mut w.machine(i).db;
            if db.life != life || db.settings.last() != Some(setting) {
                return Err(EngineError::NotConfirmed(format!("{setting:?}")));
            }
            db.settings = vec![setting.clone()];
            Ok(())
        })
    }

    async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        let life = self.hand.running_as(Role::Primary, "pass a barrier")?;
        let place = self.hand.with(|w, i| w.append(i, Kind::Barrier(epoch.0)));
        let passed = |w: &mut World, i: usize| (w.machine(i).db.released >= place).then_some(());
        self.hand.wait(life, passed).await.map_err(|e| EngineError::BarrierFailed { epoch, why: e.to_string() })
    }

    async fn prepare_stop(&self) -> Result<(), EngineError> {
        self.hand.works(1, 50).await;
        Ok(())
    }

    async fn stop(&self) -> Result<(), EngineError> {
        self.hand.works(1, 20).await;
        let life = self.hand.with(|w, i| {
            let db = &mut w.machine(i).db;
            db.stopping = db.runs();
            db.runs().then_some(db.life)
        });
        let Some(life) = life else { return Ok(()) };
        // A primary first sends its standbys everything; one that does not take it is not waited for for ever.
        let began = self.hand.with(|w, _| w.now);
        let sent = |w: &mut World, i: usize| {
            let now = w.now;
            let db = &w.machine(i).db;
            let all = db.flushed == db.log.len() && db.confirmed.values().all(|f| *f >= db.flushed);
            let done = db.role == Role::Standby || all || now > began + 2000 * MS;
            (done && !db.habits.hung).then_some(())
        };
        let _ = self.hand.wait(life, sent).await;
        self.hand.with(|w, i| {
            let db = &mut w.machine(i).db;
            if db.life == life {
                db.flushed = db.log.len();
                db.kill();
                w.tell(format!("the database of {} stops", w.name(i)));
            }
        });
        Ok(())
    }

    fn kill(&self) {
        self.hand.kill();
    }

    fn push(&self, deadline: Moment) {
        self.hand.push(deadline);
    }

    fn process(&self) -> watch::Receiver<Process> {
        self.hand.process()
    }

    async fn connect(&self) -> io::Result<BoxStream> {
        self.hand.connect().await
    }

    async fn reach(&self, other: &Upstream) -> io::Result<()> {
        self.hand.takes(1, 5).await;
        loop {
            let reached = self.hand.with(|w, i| {
                let other = w.index(&other.node)?;
                let linked = w.linked(i, other) && w.linked(other, i);
                linked.then(|| w.machine(other).db.runs())
            });
            match reached {
                Some(true) => return Ok(()),
                Some(false) => return Err(io::ErrorKind::ConnectionRefused.into()),
                // Nothing comes back.
                None => sleep(LOOK).await,
            }
        }
    }
}
