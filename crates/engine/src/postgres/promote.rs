//! Becoming the primary of exactly one epoch.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use trine_protocol::{Epoch, NodeName};

use super::Postgres;
use super::config::slot_name;
use super::control::parse_lsn;
use super::session::Session;
use super::timeline::{self, HIGHEST};
use crate::{CopyId, EngineError, History, Role};

/// How often a database that is being promoted is asked.
const ASK: Duration = Duration::from_millis(2);

/// Who it is and how far it has written: only a primary answers the last three.
const PRIMARY: &str = "select pg_is_in_recovery(), \
    case when pg_is_in_recovery() then '' else pg_walfile_name(pg_current_wal_insert_lsn()) end, \
    case when pg_is_in_recovery() then '0/0' else pg_current_wal_flush_lsn() end::text, \
    (select timeline_id from pg_control_checkpoint()), (select system_identifier from pg_control_system())";

/// A primary's own view of itself.
pub(super) struct Primary {
    pub(super) timeline: u64,
    pub(super) flushed: u64,
    pub(super) identity: CopyId,
    pub(super) checkpoint_timeline: u64,
}

impl Postgres {
    /// `None`: it is a standby.
    pub(super) async fn primary(&self, session: &Session) -> Result<Option<Primary>, EngineError> {
        let asked = session.client.query_one(PRIMARY, &[]).await;
        let row = asked.map_err(EngineError::sql("say which timeline it writes"))?;
        if row.get::<_, bool>(0) {
            return Ok(None);
        }
        let file: String = row.get(1);
        Ok(Some(Primary {
            timeline: file.get(..8).and_then(|t| u64::from_str_radix(t, 16).ok()).unwrap_or(0),
            flushed: parse_lsn(row.get(2)).unwrap_or(0),
            checkpoint_timeline: u64::try_from(row.get::<_, i32>(3)).unwrap_or(0),
            identity: CopyId(row.get::<_, i64>(4).cast_unsigned()),
        }))
    }

    pub(super) async fn promote(
        this: &Arc<Self>,
        epoch: Epoch,
        members: &BTreeSet<NodeName>,
    ) -> Result<(), EngineError> {
        let _turn = this.turn.lock().await;
        let session = this.session().await?;
        if let Some(primary) = this.primary(&session).await? {
            this.confirm(epoch, &primary)?;
            this.keep_slots(&session, members).await?;
        } else {
            this.cut().await?;
            this.number_next(epoch)?;
            session.run("promote itself", "select pg_promote(false)").await?;
            // The new primary keeps the log for its members from its first byte on.
            this.keep_slots(&session, members).await?;
            let primary = loop {
                if let Some(primary) = this.primary(&session).await? {
                    break primary;
                }
                sleep(ASK).await;
            };
            this.confirm(epoch, &primary)?;
        }
        this.give_back(session);
        Ok(())
    }

    fn confirm(&self, epoch: Epoch, primary: &Primary) -> Result<(), EngineError> {
        if primary.timeline == epoch.0 {
            return Ok(());
        }
        let why = format!("it is the primary of timeline {}", primary.timeline);
        Err(EngineError::PromoteFailed { epoch, why })
    }

    /// Sees to it that the next timeline gets the epoch's number, and that its followers find a history file for each
    /// number before.
    fn number_next(&self, epoch: Epoch) -> Result<(), EngineError> {
        let failed = |why: String| Err(EngineError::PromoteFailed { epoch, why });
        let wal = self.paths.wal();
        if epoch.0 < 2 || epoch.0 > HIGHEST {
            return failed(format!("a promotion's epoch is between 2 and {HIGHEST}"));
        }
        for timeline in timeline::list(&wal).map_err(EngineError::io("read the timelines in", &wal))? {
            let path = wal.join(timeline::file_name(timeline));
            let empty = fs::metadata(&path).map_err(EngineError::io("look at", &path))?.len() == 0;
            match (timeline >= epoch.0, empty) {
                (true, true) => super::paths::remove_file(&path)?,
                (true, false) => return failed(format!("its log already knows timeline {timeline}")),
                (false, _) => {}
            }
        }
        timeline::fill(&wal, &self.account, 2, epoch.0 - 1)
    }

    /// Others can rewind to this primary only once it has passed a checkpoint in its own epoch.
    pub(super) async fn checkpoint_once(self: Arc<Self>, epoch: Epoch) {
        let done = async {
            let session = self.session().await?;
            if self.primary(&session).await?.is_some_and(|p| p.checkpoint_timeline < epoch.0) {
                session.run("make its first checkpoint as a primary", "checkpoint").await?;
            }
            self.give_back(session);
            Ok::<(), EngineError>(())
        };
        if let Err(e) = done.await {
            tracing::warn!(error = %e.chain(), "no checkpoint after the promotion");
        }
    }

    pub(super) async fn set_members(&self, members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        let session = self.session().await?;
        self.must_be_primary(&session, "keep the log for its members").await?;
        self.keep_slots(&session, members).await?;
        self.give_back(session);
        Ok(())
    }

    pub(super) async fn must_be_primary(
        &self,
        session: &Session,
        operation: &'static str,
    ) -> Result<Primary, EngineError> {
        let wrong = EngineError::WrongRole { operation, found: Role::Standby, needed: Role::Primary };
        self.primary(session).await?.ok_or(wrong)
    }

    /// Makes a slot for each other member, and drops those of nodes that are none, and of such as have lost their log.
    async fn keep_slots(&self, session: &Session, members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        let others = members.iter().filter(|m| **m != self.config.me);
        let wanted: Vec<String> = others.map(|m| slot_name(m.as_str())).collect();
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
            where slot_type = 'physical' and not active and slot_name ~ '^trine_' \
            and (slot_name <> all ($1) or wal_status = 'lost')";
        session.client.execute(drop, &[&wanted]).await.map_err(EngineError::sql("drop the slots of former members"))?;
        let make = "select pg_create_physical_replication_slot(n::name, true) from unnest($1::text[]) n \
            where not exists (select from pg_replication_slots s where s.slot_name = n)";
        session.client.execute(make, &[&wanted]).await.map_err(EngineError::sql("make the members' slots"))?;
        Ok(())
    }

    pub(super) async fn history(&self) -> Result<History, EngineError> {
        let session = self.session().await?;
        let primary = self.must_be_primary(&session, "tell its history").await?;
        self.give_back(session);
        let wal = self.paths.wal();
        let path = wal.join(timeline::file_name(primary.timeline));
        let timeline = primary.timeline;
        let line = crate::guard::blocking(move || timeline::read(&wal, timeline)).await;
        let line = line.map_err(EngineError::io("read", path))?;
        Ok(History {
            identity: primary.identity,
            forks: line.map(|l| l.forks).unwrap_or_default(),
            epoch: Epoch(primary.timeline),
            end: primary.flushed,
            rewind_ready: primary.checkpoint_timeline == primary.timeline,
        })
    }
}
