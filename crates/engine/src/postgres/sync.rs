//! The sync rule in the running database, and the commit that proves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use trine_protocol::Epoch;

use super::Postgres;
use super::config::{Live, sync_names};
use super::session::Session;
use crate::{EngineError, SyncSetting};

const LOOK: Duration = Duration::from_millis(2);
/// How long a change of settings may take to reach every process of the database.
const PATIENCE: Duration = Duration::from_secs(10);

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
            self.barriers.rule_changed();
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
        let engine = Arc::clone(this);
        let commit = || async move {
            engine.pass_barrier(epoch).await?;
            // Not earlier: until here its writes would only delay what clients wait for.
            tokio::spawn(engine.checkpoint_once(epoch));
            Ok(())
        };
        this.barriers.pass(epoch, database, commit).await
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
