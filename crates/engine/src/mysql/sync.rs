//! The sync rule in the running database, and the commit that proves it.
//!
//! The database waits for one acknowledgement, whoever gives it. So whose counts is decided where they come in: only a
//! standby of the rule is let in as one that acknowledges ([`super::gate`]). And of a standby that leaves the rule nothing
//! counts any more once its connection is gone from the database, not only from the agent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use trine_protocol::Epoch;

use super::place;
use super::session::{Session, literal};
use super::state::Mysql;
use crate::{EngineError, SyncSetting};

const LOOK: Duration = Duration::from_millis(2);
/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a standby whose copy is good may take to come back, which ends a wait of commits in the best way: a start with the
/// recovery after a crash, and what it has received applied.
const BACK: Duration = Duration::from_secs(15);
const LOOK_STUCK: Duration = Duration::from_millis(100);
/// The database's number for "there is no such connection".
const NO_SUCH_THREAD: u16 = 1094;

impl Mysql {
    pub(super) async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        self.process_id()?;
        if let SyncSetting::Any { acks, .. } = setting
            && *acks != 1
        {
            return Err(EngineError::Config(format!(
                "{} is made to wait for the acknowledgement of one standby, and sync.acks is {acks}: set it to 1",
                self.words().product
            )));
        }
        if self.leading().is_none() {
            // It is put to work with the promotion: on a standby it would hold up its applier.
            self.running().sync = Some(setting.clone());
            return Ok(());
        }
        let mut session = self.session().await?;
        let same = self.running().settled && self.running().sync.as_ref() == Some(setting);
        // Somebody may have switched it by hand.
        if same && self.waits(&mut session).await? == (*setting != SyncSetting::Alone) {
            self.give_back(session);
            return Ok(());
        }
        self.apply_sync(&mut session, setting).await?;
        self.give_back(session);
        Ok(())
    }

    pub(super) async fn apply_sync(&self, session: &mut Session, setting: &SyncSetting) -> Result<(), EngineError> {
        {
            let mut running = self.running();
            running.sync = Some(setting.clone());
            running.settled = false;
        }
        self.barriers.rule_changed();
        let counted: BTreeSet<_> = match setting {
            SyncSetting::Any { standbys, .. } => standbys.iter().cloned().collect(),
            SyncSetting::Wait | SyncSetting::Alone => BTreeSet::new(),
        };
        let gone = self.gate.count(counted).await;
        self.end_threads(session, &gone).await?;
        let on = *setting != SyncSetting::Alone;
        session.run("set its sync rule", &self.words().wait_for_standbys(on)).await?;
        let shown = async {
            while self.waits(session).await? != on {
                sleep(LOOK).await;
            }
            Ok(())
        };
        let unconfirmed = || EngineError::NotConfirmed(format!("{} = {on}", self.words().waits));
        timeout(PATIENCE, shown).await.unwrap_or_else(|_| Err(unconfirmed()))?;
        self.running().settled = true;
        Ok(())
    }

    /// Whether commits wait for an acknowledgement.
    async fn waits(&self, session: &mut Session) -> Result<bool, EngineError> {
        const ACTION: &str = "say whether its commits wait";
        Ok(session.status(ACTION, self.words().waits).await? == "ON")
    }

    /// Ends connections, and returns once the database has forgotten them.
    pub(super) async fn end_threads(&self, session: &mut Session, threads: &[u64]) -> Result<(), EngineError> {
        for id in threads {
            session.run_unless("end a connection", &format!("kill connection {id}"), NO_SUCH_THREAD).await?;
        }
        if threads.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = threads.iter().map(u64::to_string).collect();
        let asked = format!("select count(*) from {} where id in ({})", self.words().processes, all.join(", "));
        let gone = async {
            while session.value::<u64>("say which connections it has", &asked).await? > 0 {
                sleep(LOOK).await;
            }
            Ok(())
        };
        let left = || EngineError::NotConfirmed("that a standby's acknowledgements no longer count".into());
        timeout(PATIENCE, gone).await.unwrap_or_else(|_| Err(left()))
    }

    pub(super) async fn barrier(this: &Arc<Self>, epoch: Epoch) -> Result<(), EngineError> {
        let database = this.process_id()?;
        let engine = Arc::clone(this);
        this.barriers.pass(epoch, database, || async move { engine.pass_barrier(epoch).await }).await
    }

    async fn pass_barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        let failed = |why: &str| Err(EngineError::BarrierFailed { epoch, why: why.into() });
        if self.must_be_primary("pass a barrier")? != epoch {
            return failed("it is the primary of another epoch");
        }
        self.wait_for_somebody(epoch).await?;
        // A connection of its own: one that is in the middle of this is never used again.
        let mut session = self.new_session().await?;
        let alone = self.running().sync == Some(SyncSetting::Alone);
        let before = self.unacknowledged(&mut session).await?;
        let last = self.place(&mut session).await?.number;
        let first = place::epoch_of(last) < epoch;
        if first {
            let name = self.first_of_epoch(epoch);
            session.run("name the epoch's first transaction", &name).await?;
        }
        let me = literal(self.config.me.as_str());
        let mark = format!(
            "insert into trine.epoch (epoch, node, server, previous) values ({epoch}, {me}, {}, {last}) \
             on duplicate key update barriers = barriers + 1, node = {me}",
            self.words().server
        );
        session.run("commit the barrier", &mark).await?;
        if first && let Some(rest) = self.rest_of_epoch() {
            // 0 rows: a barrier whose connection broke had that name, and has passed meanwhile. This one did nothing.
            let done = session.affected_rows() > 0;
            session.run("name the rest of the epoch", rest).await?;
            if !done {
                session.run("commit the barrier", &mark).await?;
            }
        }
        // A wait that somebody ended looks like one that was met; the database counts them.
        if !alone && (self.unacknowledged(&mut session).await? != before || !self.waits(&mut session).await?) {
            return Err(EngineError::BarrierCancelled(epoch));
        }
        session.run("take writes", self.words().open_for_all).await?;
        self.give_back(session);
        Ok(())
    }

    /// Returns once somebody can acknowledge a commit, or nobody has to.
    ///
    /// A commit that waits keeps the data from being copied: with one begun before, a cluster whose other nodes all need new
    /// copies would be closed for good.
    async fn wait_for_somebody(&self, epoch: Epoch) -> Result<(), EngineError> {
        let mut moved = self.gate.moved();
        while self.running().sync != Some(SyncSetting::Alone) && !self.gate.is_acknowledged() {
            if self.must_be_primary("pass a barrier")? != epoch {
                return Err(EngineError::BarrierFailed { epoch, why: "it is the primary of another epoch".into() });
            }
            // The rule and the database's end show by themselves.
            let _ = timeout(LOOK_STUCK, moved.changed()).await;
        }
        Ok(())
    }

    /// Commits wait, and there was nobody to acknowledge them for as long as a standby may take to come back by itself.
    pub(super) async fn are_commits_stuck(&self) -> bool {
        let waits = async {
            let mut session = self.new_session().await?;
            while !self.gate.is_acknowledged() && self.commits_wait(&mut session).await? {
                sleep(LOOK_STUCK).await;
            }
            Ok::<(), EngineError>(())
        };
        timeout(BACK, waits).await.is_err()
    }

    /// Makes a commit, for a standby that comes in and acknowledges. What it has received before, on a connection that did
    /// not acknowledge or that broke, it is not sent again, and so it never acknowledges that: commits would wait until the
    /// next one comes, and all clients may be waiting. An acknowledgement holds for everything before, too.
    ///
    /// A row of its own each time: one that still waits holds its lock.
    pub(super) async fn nudge(&self, epoch: Epoch) {
        let done = async {
            let mut session = self.new_session().await?;
            let last = self.place(&mut session).await?.number;
            // While it waits, MySQL does not count a transaction yet that is in its log. The first that waits is the barrier.
            let begun = place::epoch_of(last) == epoch || self.commits_wait(&mut session).await?;
            if self.leading() != Some(epoch) || !begun {
                // The epoch's first transaction is still to come.
                return Ok(());
            }
            session.run("make a commit for a standby", "insert into trine.nudge values ()").await?;
            session.run("make a commit for a standby", "delete from trine.nudge where id = last_insert_id()").await
        };
        if let Err(error) = done.await {
            tracing::debug!(error = %error.chain(), "no commit was made for a standby that came in");
        }
    }

    /// Whether a commit waits now.
    pub(super) async fn commits_wait(&self, session: &mut Session) -> Result<bool, EngineError> {
        const ACTION: &str = "say how many commits wait";
        Ok(session.status(ACTION, self.words().waiting).await? != "0")
    }

    /// How many commits went through without an acknowledgement.
    async fn unacknowledged(&self, session: &mut Session) -> Result<String, EngineError> {
        const ACTION: &str = "say how many commits nobody acknowledged";
        session.status(ACTION, self.words().unacknowledged).await
    }
}
