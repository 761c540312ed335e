//! Looking at the database without ever being held up by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::Statement;
use trine_protocol::{Epoch, Moment, NodeName, Position};

use super::session::Session;
use super::{Postgres, Threads};
use crate::guard::blocking;
use crate::{CopyId, DataCopy, EngineError, Inspection, Process, Role, StandbySeen};

/// A connection with its questions prepared.
#[derive(Debug)]
pub(super) struct Asker {
    session: Session,
    state: Statement,
    standbys: Statement,
}

const STATE: &str = "select pg_is_in_recovery(), \
    case when pg_is_in_recovery() then null else (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint end, \
    case when pg_is_in_recovery() then (pg_last_wal_receive_lsn() - '0/0'::pg_lsn)::bigint end, \
    case when pg_is_in_recovery() then (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint end, \
    case when pg_is_in_recovery() then null else pg_walfile_name(pg_current_wal_insert_lsn()) end, \
    (select timeline_id from pg_control_checkpoint()), (select system_identifier from pg_control_system()), \
    (select max(epoch) from trine.epoch), \
    coalesce(r.status = 'streaming' and (r.last_msg_send_time is distinct from r.last_msg_receipt_time \
        or (select wait_event from pg_stat_activity a where a.pid = r.pid) = 'WalReceiverMain'), false), \
    r.received_tli, \
    case when pg_is_in_recovery() then \
        extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 end, \
    (select pid from pg_stat_activity where backend_type = 'startup') \
    from (select 1) x left join pg_stat_wal_receiver r on true";

const STANDBYS: &str = "select application_name, state = 'streaming', (flush_lsn - '0/0'::pg_lsn)::bigint, \
    (replay_lsn - '0/0'::pg_lsn)::bigint, extract(epoch from replay_lag)::float8 \
    from pg_stat_replication where not pg_is_in_recovery()";

impl Postgres {
    /// Starts a look, unless one is under way.
    pub(super) fn look(self: &Arc<Self>, threads: &Threads) -> watch::Receiver<Option<Inspection>> {
        let this = Arc::clone(self);
        self.looks.start(&*self.clock, threads, |tell| async move {
            let seen = this.look_now().await;
            this.looks.seen(seen, &tell);
        })
    }

    /// What is known while nothing answers.
    pub(super) fn remembered(&self) -> Inspection {
        let process = *self.guard.state().borrow();
        let last = self.looks.last();
        let copy = last.as_ref().map_or(DataCopy::Missing, |l| l.copy.clone());
        let identity = last.and_then(|l| l.identity);
        self.dress(Inspection { identity, ..Inspection::of(copy, process) }, self.looks.last_answer())
    }

    /// Adds what needs no answer. A database that runs and did not answer hangs.
    fn dress(&self, mut seen: Inspection, answered: Option<Moment>) -> Inspection {
        if seen.process == Process::Running && seen.role.is_none() {
            seen.process = Process::Hung;
            seen.silent = answered.map_or(Duration::ZERO, |a| self.clock.now().since(a));
        }
        let pids = self.guard.pids();
        seen.guard_pid = pids.map(|(guard, _)| guard);
        seen.database_pid = pids.map(|(_, database)| database);
        seen.following = self.live().upstream.map(|(u, _)| u.node).filter(|_| seen.role == Some(Role::Standby));
        seen
    }

    async fn look_now(self: &Arc<Self>) -> Inspection {
        let this = Arc::clone(self);
        let copy = blocking(move || this.copy()).await;
        let mut seen = Inspection::of(copy, *self.guard.state().borrow());
        if let Ok(database) = self.running() {
            match self.ask(database, &mut seen).await {
                Ok(()) => {
                    self.guard.answered(database);
                    seen.process = *self.guard.state().borrow();
                    self.looks.answered(self.clock.now());
                }
                Err(e) => tracing::debug!(error = %e.chain(), "the database does not answer"),
            }
        }
        let mut seen = self.dress(seen, self.looks.last_answer());
        if seen.following.is_some() && !seen.streaming {
            seen.receiver_error = self.receiver_error().await;
        }
        seen
    }

    async fn ask(&self, database: u32, seen: &mut Inspection) -> Result<(), EngineError> {
        let failed = || EngineError::sql("say how it is");
        let asker = match self.looks.take_asker(database) {
            Some(asker) if !asker.session.client.is_closed() => asker,
            _ => {
                let session = self.new_session().await?;
                let state = session.client.prepare(STATE).await.map_err(failed())?;
                let standbys = session.client.prepare(STANDBYS).await.map_err(failed())?;
                Asker { session, state, standbys }
            }
        };
        let client = &asker.session.client;
        let (state, standbys) = tokio::join!(client.query_one(&asker.state, &[]), client.query(&asker.standbys, &[]));
        let (state, standbys) = (state.map_err(failed())?, standbys.map_err(failed())?);
        let offset = |i: usize| state.get::<_, Option<i64>>(i).map(i64::cast_unsigned);
        let timeline = |t: i32| u64::try_from(t).ok();
        seen.identity = Some(CopyId(state.get::<_, i64>(6).cast_unsigned()));
        let epoch = Epoch(state.get::<_, Option<i64>>(7).unwrap_or(0).cast_unsigned());
        if state.get(0) {
            seen.role = Some(Role::Standby);
            seen.streaming = state.get(8);
            (seen.received, seen.replayed) = (offset(2), offset(3));
            seen.position = seen.received.max(seen.replayed).map(|offset| Position { epoch, offset });
            let current = seen.streaming && seen.received <= seen.replayed;
            let age = state.get::<_, Option<f64>>(10).and_then(|s| Duration::try_from_secs_f64(s.max(0.0)).ok());
            seen.lag = if current { Some(Duration::ZERO) } else { age };
            seen.timeline = match state.get::<_, Option<i32>>(9) {
                Some(t) if seen.streaming => timeline(t),
                _ => {
                    let startup = state.get::<_, Option<i32>>(11).and_then(|p| u32::try_from(p).ok());
                    self.line_of(startup).await.ok().map(|l| l.at(seen.replayed.unwrap_or(0)))
                }
            };
        } else {
            seen.role = Some(Role::Primary);
            let file: Option<String> = state.get(4);
            seen.timeline = file.and_then(|f| u64::from_str_radix(f.get(..8)?, 16).ok());
            seen.position = offset(1).map(|offset| Position { epoch, offset });
            seen.rewind_ready = timeline(state.get(5)) == seen.timeline;
            seen.standbys = standbys.iter().filter_map(standby).collect::<BTreeMap<_, _>>();
        }
        self.looks.keep_asker(database, asker);
        Ok(())
    }
}

/// A row of [`STANDBYS`]; none for tools and others that are no node.
fn standby(row: &tokio_postgres::Row) -> Option<(NodeName, StandbySeen)> {
    let name = row.get::<_, Option<String>>(0)?.parse().ok()?;
    let offset = |i: usize| row.get::<_, Option<i64>>(i).map(i64::cast_unsigned);
    let lag = row.get::<_, Option<f64>>(4).and_then(|s| Duration::try_from_secs_f64(s.max(0.0)).ok());
    let streaming = row.get::<_, Option<bool>>(1).unwrap_or(false);
    Some((name, StandbySeen { streaming, flushed: offset(2), replayed: offset(3), replay_lag: lag }))
}
