//! Looking at the database without ever being held up by it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::Statement;
use trine_protocol::{Epoch, Moment, NodeName, Position};

use super::session::Session;
use super::{Postgres, Threads};
use crate::guard::blocking;
use crate::{CopyId, DataCopy, EngineError, Inspection, Process, Role, StandbySeen};

/// What an inspection takes at most.
const LIMIT: Duration = Duration::from_millis(300);
/// A look that has not come back after so long is given up, and another one tried.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The look that is under way, and what the last one saw.
#[derive(Debug, Default)]
pub(super) struct Probe {
    under_way: Option<(Moment, watch::Receiver<Option<Inspection>>)>,
    last: Option<Inspection>,
    answered: Option<Moment>,
    session: Option<(u32, Asker)>,
}

/// A connection with its questions prepared.
#[derive(Debug)]
struct Asker {
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
    pub(super) async fn await_look(&self, mut look: watch::Receiver<Option<Inspection>>) -> Inspection {
        let found = match timeout(LIMIT, look.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone(),
            _ => None,
        };
        found.unwrap_or_else(|| self.remembered())
    }

    /// Starts a look, unless one is under way: a database that hangs must not be piled up with connections.
    pub(super) fn look(self: &Arc<Self>, threads: &Threads) -> watch::Receiver<Option<Inspection>> {
        let now = self.clock.now();
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, under_way)) = &probe.under_way
            && under_way.borrow().is_none()
            && under_way.has_changed().is_ok()
            && now.since(*since) < GIVE_UP
        {
            return under_way.clone();
        }
        let (tell, under_way) = watch::channel(None);
        probe.under_way = Some((now, under_way.clone()));
        drop(probe);
        let this = Arc::clone(self);
        threads.spawn(async move {
            let seen = this.look_now().await;
            this.probe.lock().unwrap_or_else(PoisonError::into_inner).last = Some(seen.clone());
            let _ = tell.send(Some(seen));
        });
        under_way
    }

    /// What is known while nothing answers.
    fn remembered(&self) -> Inspection {
        let process = *self.guard.state().borrow();
        let (last, answered) = {
            let probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
            (probe.last.clone(), probe.answered)
        };
        let copy = last.as_ref().map_or(DataCopy::Missing, |l| l.copy.clone());
        self.dress(Inspection { identity: last.and_then(|l| l.identity), ..Inspection::of(copy, process) }, answered)
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
                    self.probe.lock().unwrap_or_else(PoisonError::into_inner).answered = Some(self.clock.now());
                }
                Err(e) => tracing::debug!(error = %e.chain(), "the database does not answer"),
            }
        }
        let answered = self.probe.lock().unwrap_or_else(PoisonError::into_inner).answered;
        let mut seen = self.dress(seen, answered);
        if seen.following.is_some() && !seen.streaming {
            seen.receiver_error = self.receiver_error().await;
        }
        seen
    }

    async fn ask(&self, database: u32, seen: &mut Inspection) -> Result<(), EngineError> {
        let idle = self.probe.lock().unwrap_or_else(PoisonError::into_inner).session.take();
        let failed = || EngineError::sql("say how it is");
        let asker = match idle {
            Some((of, asker)) if of == database && !asker.session.client.is_closed() => asker,
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
        self.probe.lock().unwrap_or_else(PoisonError::into_inner).session = Some((database, asker));
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
