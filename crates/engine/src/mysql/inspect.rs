//! Looking at the database without ever being held up by it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use trine_protocol::Moment;

use super::dialect::Dialect;
use super::place;
use super::session::Session;
use super::state::Mysql;
use crate::guard::{blocking, tail};
use crate::{DataCopy, EngineError, Inspection, Process, Role};

/// What MariaDB writes to its log while it waits (`mysys/errors.c`).
pub(super) const WAITS_FOR_ROOM: &str = "Disk is full writing";
/// So long after a standby has received what waits, its acknowledgement will not come any more: it takes milliseconds.
const UNANSWERED: Duration = Duration::from_secs(3);
/// How much of the log's end is looked through at most.
const LOG_END: u64 = 64 << 10;

/// A connection for looks only.
pub(super) type Asker = Session;

impl Mysql {
    /// Starts a look, unless one is under way.
    pub(super) fn look(this: &Arc<Self>) -> watch::Receiver<Option<Inspection>> {
        let engine = Arc::clone(this);
        this.looks.start(&*this.clock, &this.threads, |tell| async move {
            let seen = engine.look_now().await;
            engine.looks.seen(seen, &tell);
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
        let following = self.running().following.clone().map(|(node, _)| node);
        seen.following = following.filter(|_| seen.role == Some(Role::Standby));
        seen
    }

    async fn look_now(self: &Arc<Self>) -> Inspection {
        let this = Arc::clone(self);
        let (copy, identity) = blocking(move || (this.copy(), this.identity().ok().flatten())).await;
        let mut seen = Inspection { identity, ..Inspection::of(copy, *self.guard.state().borrow()) };
        self.end_what_waits_for_room().await;
        if let Ok(database) = self.process_id() {
            match self.ask(database, &mut seen).await {
                Ok(()) => {
                    self.guard.answered(database);
                    seen.process = *self.guard.state().borrow();
                    self.looks.answered(self.clock.now());
                }
                Err(e) => tracing::debug!(error = %e.chain(), "the database does not answer"),
            }
        }
        self.dress(seen, self.looks.last_answer())
    }

    /// A database whose disk is full does not fail: it waits for room, up to a minute longer than there is none, and all
    /// commits wait with it. Ended, it leaves its place to a node that has room, and starts again when there is some here.
    async fn end_what_waits_for_room(&self) {
        let length = self.log_length();
        let before = self.log_looked.swap(length, Ordering::Relaxed);
        let new = length.saturating_sub(before).min(LOG_END);
        if self.process_id().is_err() || new == 0 {
            return;
        }
        if tail(&self.paths.log, new).await.contains(WAITS_FOR_ROOM) {
            tracing::error!(folder = %self.paths.dir.display(), "the disk is full: the database, which would wait, is ended");
            self.gate.close();
            self.guard.kill();
        }
    }

    /// Commits may wait for an acknowledgement that can't come: a standby acknowledges what it is sent on a connection that counts,
    /// and it was sent all of this before, on one that did not or that broke. The commit that would help (`nudge`) can't always be
    /// made: MariaDB writes no more than the commits behind those that wait. Ended, it leaves its place to the standby, which has all.
    async fn end_what_nobody_will_acknowledge(&self, session: &mut Session, last: u64) -> Result<(), EngineError> {
        let now = self.clock.now();
        // MySQL does not count what waits yet: a standby that has only what is counted may have a disk that hangs.
        let waiting = match self.config.dialect {
            Dialect::MariaDb => last,
            Dialect::MySql => last.saturating_add(1),
        };
        let waits = self.gate.is_received(waiting, now) && self.commits_wait(session).await?;
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        match *unanswered {
            Some((number, since)) if waits && number == last => {
                if now.since(since) >= UNANSWERED {
                    tracing::warn!(
                        last,
                        "commits wait though a standby has them: the database is ended, and another leads"
                    );
                    *unanswered = None;
                    self.gate.close();
                    self.guard.kill();
                }
            }
            _ => *unanswered = waits.then_some((last, now)),
        }
        Ok(())
    }

    async fn ask(&self, database: u32, seen: &mut Inspection) -> Result<(), EngineError> {
        let mut session = match self.looks.take_asker(database) {
            Some(session) => session,
            None => self.new_session().await?,
        };
        let leading = self.leading();
        let last = self.place(&mut session).await?.number;
        if let Some(epoch) = leading {
            seen.role = Some(Role::Primary);
            seen.timeline = Some(epoch.0);
            seen.position = Some(place::position(last));
            seen.rewind_ready = true;
            seen.standbys = self.gate.standbys(self.clock.now());
            self.end_what_nobody_will_acknowledge(&mut session, last).await?;
        } else {
            let slave = self.slave(&mut session).await?.unwrap_or_default();
            let received = slave.received.number.max(last);
            seen.role = Some(Role::Standby);
            // A first copy, which nothing was written to, is before every epoch: 2 is the first that it can lead.
            seen.timeline = Some(place::epoch_of(received).0.max(1));
            seen.position = Some(place::position(received));
            (seen.received, seen.replayed) = (Some(received), Some(last));
            let flows = slave.receiver == "Yes" && slave.applies;
            seen.streaming = flows && self.running().following.is_some();
            seen.lag = if seen.streaming && received <= last {
                Some(Duration::ZERO)
            } else {
                slave.behind.map(Duration::from_secs)
            };
            if !seen.streaming {
                seen.receiver_error = slave.applier_error.or(slave.receiver_error);
            }
        }
        self.looks.keep_asker(database, session);
        Ok(())
    }
}
