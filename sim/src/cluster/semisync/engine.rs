//! The simulated MariaDB and MySQL, as the agent drives them.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use async_trait::async_trait;
use tokio::sync::watch;
use trine_engine::{
    Adopted, CopyId, Engine, EngineError, Followed, History, Inspection, Process, Progress, Role, Upstream,
};
use trine_platform::BoxStream;
use trine_protocol::{Epoch, Moment, NodeName, Position, SyncSetting};

use super::super::fault::Cheat;
use super::super::handle::{Handle, LOOK};
use super::super::world::{MS, Shared, World};
use super::commits::{Barrier, Stage};
use super::look::looked;
use super::{copy, place};

/// One node's database.
#[derive(Clone)]
pub(in crate::cluster) struct SemiSyncEngine {
    pub(super) hand: Handle,
}

impl fmt::Debug for SemiSyncEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SemiSyncEngine({:?})", self.hand)
    }
}

impl SemiSyncEngine {
    pub(in crate::cluster) fn new(world: Shared, i: usize) -> Self {
        Self { hand: Handle { world, i } }
    }

    /// Everything received is applied; nothing may be coming in. How far that is.
    pub(super) async fn apply_all(&self, life: u64) -> Result<u64, EngineError> {
        let all = |w: &mut World, i: usize| {
            let product = w.product;
            let db = &w.machine(i).db;
            let still = !db.habits.hung && db.flushed == db.log.len();
            (still && db.replayed == db.log.len()).then(|| place::number(product, &db.log))
        };
        self.hand.wait(life, all).await
    }

    /// Nothing comes in any more.
    pub(super) fn cut(&self) {
        self.hand.with(|w, i| {
            if !(w.cheat == Some(Cheat::StreamsOn) && i + 1 == w.machines.len()) {
                w.machine(i).db.semi.feed = None;
            }
        });
    }

    /// The log is all that was here before the start, or as much of it as a primary with this history has.
    pub(super) async fn complete_log(&self, life: u64, behind: Option<&History>) -> Result<(), EngineError> {
        self.hand.wait(life, |w, i| (!w.machine(i).db.habits.hung).then_some(())).await?;
        self.hand.with(|w, i| w.complete(i, behind));
        Ok(())
    }

    async fn apply_sync(&self, life: u64, setting: &SyncSetting) -> Result<(), EngineError> {
        self.hand.with(|w, i| {
            let counted = w.counted_by(setting);
            let semi = &mut w.machine(i).db.semi;
            semi.changes += 1;
            semi.counted = counted;
        });
        self.hand.takes(0, 15).await;
        let left = |w: &mut World, i: usize| (!w.machine(i).db.habits.hung && !w.has_former(i)).then_some(());
        self.hand.wait(life, left).await?;
        self.hand.with(|w, i| w.machine(i).db.settings = vec![setting.clone()]);
        Ok(())
    }
}

#[async_trait]
impl Engine for SemiSyncEngine {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    async fn attach(&self) -> Result<Process, EngineError> {
        self.hand.takes(1, 10).await;
        Ok(self.hand.with(|w, i| {
            let db = &mut w.machine(i).db;
            // The ways of the log were the former agent's, and what it knew of those who came by them.
            db.semi.feed = None;
            db.semi.forget_standbys();
            db.semi.barrier = None;
            if db.settings.last() != Some(&SyncSetting::Alone) {
                db.settings = vec![SyncSetting::Wait];
            }
            w.process(i)
        }))
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
            self.hand.with(World::start_semisync);
        }
        let (life, leads) = self.hand.with(|w, i| (w.machine(i).db.life, w.machine(i).db.leads()));
        if !leads {
            // What it had received before is applied before anything else.
            let applied = |w: &mut World, i: usize| {
                let db = &w.machine(i).db;
                (db.semi.feed.is_some() || db.replayed == db.log.len()).then_some(())
            };
            self.hand.wait(life, applied).await?;
        }
        Ok(())
    }

    async fn seal(&self) -> Result<Position, EngineError> {
        self.hand.takes(0, 5).await;
        let life = self.hand.running_as(Role::Standby, "seal it")?;
        self.complete_log(life, None).await?;
        self.cut();
        let drops = self.hand.with(|w, _| w.cheat == Some(Cheat::DropsReceived));
        let number = match drops {
            true => self.hand.with(|w, i| place::number(w.product, &w.machine(i).db.log)),
            false => self.apply_all(life).await?,
        };
        let position = place::position(number);
        self.hand.with(|w, i| w.tell(format!("{} is sealed at {position}", w.name(i))));
        Ok(position)
    }

    async fn promote(&self, epoch: Epoch, _: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        let failed = |why: &str| EngineError::PromoteFailed { epoch, why: why.to_owned() };
        self.hand.works(5, 60).await;
        let (runs, leads, life) = self.hand.with(|w, i| {
            let db = &w.machine(i).db;
            (db.runs(), db.leads().then_some(db.epoch), db.life)
        });
        match leads {
            _ if !runs => return Err(EngineError::NotRunning),
            Some(leading) if leading == epoch.0 => return Ok(()),
            Some(_) => return Err(failed("it is the primary of another epoch")),
            None => {}
        }
        self.complete_log(life, None).await?;
        self.cut();
        if self.hand.with(|w, _| w.cheat == Some(Cheat::DropsReceived)) {
            self.hand.with(|w, i| {
                let db = &mut w.machine(i).db;
                db.log.truncate(db.replayed);
                db.flushed = db.flushed.min(db.replayed);
            });
        }
        let last = self.apply_all(life).await?;
        if place::epoch_of(last) >= epoch.0 {
            return Err(failed("its log is of this epoch already, or of a later one"));
        }
        let sync = self.hand.with(|w, i| {
            w.leads(i, epoch.0);
            let db = &mut w.machine(i).db;
            let base = db.log.len();
            (db.role, db.epoch, db.base) = (Role::Primary, epoch.0, base);
            (db.flushed, db.released, db.shown) = (base, base, 0);
            db.semi.forget_standbys();
            (db.semi.led, db.semi.feed, db.semi.acked) = (true, None, base);
            db.settings.last().cloned().unwrap_or(SyncSetting::Wait)
        });
        self.apply_sync(life, &sync).await
    }

    async fn set_members(&self, _: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        self.hand.running_as(Role::Primary, "name its members").map(|_| ())
    }

    async fn history(&self) -> Result<History, EngineError> {
        self.hand.takes(0, 3).await;
        self.hand.running_as(Role::Primary, "tell its history")?;
        Ok(self.hand.with(|w, i| {
            let (product, length) = (w.product, w.own_length(i));
            let db = &w.machine(i).db;
            place::of_primary(product, db.log.get(..length).unwrap_or_default(), db.base, db.id, db.epoch)
        }))
    }

    async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        self.follow_behind(upstream, history).await
    }

    async fn rejoin(&self, _: &Upstream, _: &History, _: &watch::Sender<Progress>) -> Result<(), EngineError> {
        Err(EngineError::NeedsRebuild("what it has committed can't be taken back".to_owned()))
    }

    async fn clone_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        copy::copy_from(&self.hand, upstream, identity, progress).await
    }

    async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError> {
        if let SyncSetting::Any { acks, .. } = setting
            && *acks != 1
        {
            return Err(EngineError::Config(format!("one acknowledgement is waited for, and not {acks}")));
        }
        let (runs, leads, life) = self.hand.with(|w, i| {
            let db = &w.machine(i).db;
            (db.runs(), db.leads(), db.life)
        });
        if !runs {
            return Err(EngineError::NotRunning);
        }
        if !leads {
            // It is put to work with the promotion.
            self.hand.with(|w, i| w.machine(i).db.settings = vec![setting.clone()]);
            return Ok(());
        }
        let same = self.hand.with(|w, i| {
            let counted = w.counted_by(setting);
            let db = &w.machine(i).db;
            db.settings.last() == Some(setting) && db.semi.counted == counted && !w.has_former(i)
        });
        if same { Ok(()) } else { self.apply_sync(life, setting).await }
    }

    async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        let failed = |why: String| EngineError::BarrierFailed { epoch, why };
        let life = self.hand.running_as(Role::Primary, "pass a barrier")?;
        let begun = self.hand.with(|w, i| {
            let at = w.now + w.between(1, 5) * MS;
            let db = &mut w.machine(i).db;
            let changes = db.semi.changes;
            let joins = db.semi.barrier.is_some_and(|b| {
                let under_way = matches!(b.stage, Stage::Asked(_) | Stage::Written(_));
                (b.epoch, b.changes) == (epoch.0, changes) && under_way
            });
            if !joins {
                db.semi.barrier = Some(Barrier { epoch: epoch.0, changes, stage: Stage::Asked(at) });
            }
            (db.epoch == epoch.0).then_some(changes)
        });
        let Some(changes) = begun else { return Err(failed("it is the primary of another epoch".to_owned())) };
        let over = |w: &mut World, i: usize| match w.machine(i).db.semi.barrier {
            Some(b) if b.changes == changes => match b.stage {
                Stage::Passed => Some(Ok(())),
                Stage::Cancelled => Some(Err(EngineError::BarrierCancelled(epoch))),
                Stage::Asked(_) | Stage::Written(_) => None,
            },
            _ => Some(Err(failed("another has taken its place".to_owned()))),
        };
        self.hand.wait(life, over).await.map_err(|e| failed(e.to_string()))?
    }

    async fn prepare_stop(&self) -> Result<(), EngineError> {
        self.hand.works(1, 50).await;
        Ok(())
    }

    async fn stop(&self) -> Result<(), EngineError> {
        self.end_cleanly().await
    }

    async fn hand_over(&self) -> Result<(), EngineError> {
        self.give_way().await
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
        // The other agent answers, whatever its database does.
        while !self.hand.with(|w, i| w.index(&other.node).is_some_and(|k| w.reaches(i, k))) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
