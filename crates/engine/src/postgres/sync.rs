//! The sync rule in the running database, and the commit that proves it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use trine_protocol::Epoch;

use super::Postgres;
use super::config::{Live, sync_names};
use super::session::Session;
use crate::{EngineError, SyncSetting};

const LOOK: Duration = Duration::from_millis(2);
/// How long a change of settings may take to reach every process of the database.
const PATIENCE: Duration = Duration::from_secs(10);

/// A barrier that is under way.
#[derive(Debug)]
pub(super) struct Pending {
    epoch: Epoch,
    database: u32,
    /// After how many changes of the setting it began: one that began before the latest proves nothing about what was
    /// acknowledged between, even where that change has led back to the same setting.
    changes: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Passed,
    Cancelled,
    Failed(String),
}

/// Each process that sends the log, and whether it has taken over a rule: it shows a priority of its own making.
const SENDERS: &str = "select application_name, sync_priority from pg_stat_replication \
    where state in ('catchup', 'streaming')";

impl Postgres {
    pub(super) async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let session = self.session().await?;
        let now = self.live();
        let same = now.settled && now.sync == *setting;
        let stricter = now.passing && *setting != SyncSetting::Alone;
        if same && !stricter && Self::has_taken_over(&session, setting, &sync_names(setting)).await? {
            // A reload would wake every process of the database, at moments when clients wait for it.
            self.give_back(session);
            return Ok(());
        }
        if !same && (stricter || !now.settled || Self::must_wait_between(&now.sync, setting)) {
            self.apply_sync(&session, &SyncSetting::Wait).await?;
            if now.passing {
                if self.primary(&session).await?.is_some() {
                    self.prove_waiting(&session).await?;
                }
                self.write_live(&Live { passing: false, ..self.live() })?;
            }
        }
        self.apply_sync(&session, setting).await?;
        self.give_back(session);
        Ok(())
    }

    /// Whether a change can only be confirmed by way of the rule that nobody meets: a sender shows whether it counts at
    /// all, not of how many.
    fn must_wait_between(from: &SyncSetting, to: &SyncSetting) -> bool {
        match (from, to) {
            (SyncSetting::Any { acks: a, .. }, SyncSetting::Any { acks: b, .. }) => a != b,
            _ => false,
        }
    }

    async fn apply_sync(&self, session: &Session, setting: &SyncSetting) -> Result<(), EngineError> {
        let now = self.live();
        let passing = now.passing || *setting == SyncSetting::Alone;
        let settled = now.settled && now.sync == *setting;
        let live = Live { sync: setting.clone(), settled, passing, ..now };
        if !settled {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        self.write_live(&live)?;
        self.reload()?;
        let names = sync_names(setting);
        let taken_over = async {
            while !Self::has_taken_over(session, setting, &names).await? {
                sleep(LOOK).await;
            }
            Ok(())
        };
        timeout(PATIENCE, taken_over)
            .await
            .unwrap_or_else(|_| Err(EngineError::NotConfirmed(format!("synchronous_standby_names = {names}"))))?;
        self.write_live(&Live { settled: true, ..live })
    }

    async fn has_taken_over(session: &Session, setting: &SyncSetting, names: &str) -> Result<bool, EngineError> {
        let failed = || EngineError::sql("say which sync rule it has");
        let row = session.client.query_one("select current_setting('synchronous_standby_names')", &[]).await;
        if row.map_err(failed())?.get::<_, String>(0) != names {
            return Ok(false);
        }
        let senders = session.client.query(SENDERS, &[]).await.map_err(failed())?;
        Ok(senders.iter().all(|row| {
            let name: String = row.get(0);
            let counts = match setting {
                SyncSetting::Any { standbys, .. } => standbys.iter().any(|s| s.as_str() == name),
                SyncSetting::Wait | SyncSetting::Alone => false,
            };
            (row.get::<_, i32>(1) > 0) == counts
        }))
    }

    /// Makes sure that commits wait, under the rule that nobody meets: makes one and sees it wait. (Whether any commit
    /// waits at all is a switch that the checkpointer sets when it gets to it, and that nothing shows.)
    async fn prove_waiting(&self, session: &Session) -> Result<(), EngineError> {
        let failed = || EngineError::sql("show that commits wait");
        let proof = async {
            loop {
                let marker = self.new_session().await?;
                let row = marker.client.query_one("select pg_backend_pid()", &[]).await.map_err(failed())?;
                let pid: i32 = row.get(0);
                let commit = marker.run("make a commit", "select pg_logical_emit_message(true, 'trine', '')");
                let waits = async {
                    loop {
                        let asked =
                            "select exists (select from pg_stat_activity where pid = $1 and wait_event = 'SyncRep')";
                        let row = session.client.query_one(asked, &[&pid]).await.map_err(failed())?;
                        if row.get::<_, bool>(0) {
                            return Ok::<(), EngineError>(());
                        }
                        sleep(LOOK).await;
                    }
                };
                tokio::select! {
                    biased;
                    done = commit => done?,
                    waits = waits => return waits,
                }
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, proof)
            .await
            .unwrap_or_else(|_| Err(EngineError::NotConfirmed("that commits wait for standbys".into())))
    }

    pub(super) async fn barrier(this: &Arc<Self>, epoch: Epoch) -> Result<(), EngineError> {
        let database = this.running()?;
        let mut outcome = this.join_barrier(epoch, database);
        let found = match outcome.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            Err(_) => None,
        };
        match found {
            Some(Outcome::Passed) => Ok(()),
            Some(Outcome::Cancelled) => Err(EngineError::BarrierCancelled(epoch)),
            Some(Outcome::Failed(why)) => Err(EngineError::BarrierFailed { epoch, why }),
            None => Err(EngineError::BarrierFailed { epoch, why: "the agent is ending".into() }),
        }
    }

    /// The barrier that is under way for this epoch and rule, or a new one. It goes on when nobody waits: its commit can't
    /// be taken back, and a second one would only queue up behind it.
    fn join_barrier(self: &Arc<Self>, epoch: Epoch, database: u32) -> watch::Receiver<Option<Outcome>> {
        let changes = self.changes.load(Ordering::SeqCst);
        let mut slot = self.barrier.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(p) = slot.as_ref()
            && (p.epoch, p.database, p.changes) == (epoch, database, changes)
            && p.outcome.borrow().is_none()
            && p.outcome.has_changed().is_ok()
        {
            return p.outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        *slot = Some(Pending { epoch, database, changes, outcome: outcome.clone() });
        drop(slot);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let found = match this.pass_barrier(epoch).await {
                Ok(()) => {
                    // Not earlier: until here its writes would only delay what clients wait for.
                    tokio::spawn(Arc::clone(&this).checkpoint_once(epoch));
                    Outcome::Passed
                }
                Err(EngineError::BarrierCancelled(_)) => Outcome::Cancelled,
                Err(e) => Outcome::Failed(e.chain()),
            };
            let _ = tell.send(Some(found));
        });
        outcome
    }

    async fn pass_barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        let session = self.session().await?;
        let primary = self.must_be_primary(&session, "pass a barrier").await?;
        if primary.timeline != epoch.0 {
            let why = format!("it is the primary of timeline {}", primary.timeline);
            return Err(EngineError::BarrierFailed { epoch, why });
        }
        let number = i64::try_from(epoch.0).unwrap_or(i64::MAX);
        let mark = "insert into trine.epoch (epoch, node) values ($1, $2) \
                    on conflict (epoch) do update set node = excluded.node, at = now()";
        let done = session.client.execute(mark, &[&number, &self.config.me.as_str()]).await;
        done.map_err(EngineError::sql("commit the barrier"))?;
        // It warns of a cancelled wait and calls the commit done all the same.
        if session.notices().iter().any(|n| n.contains("wait for synchronous replication")) {
            return Err(EngineError::BarrierCancelled(epoch));
        }
        self.give_back(session);
        Ok(())
    }
}
