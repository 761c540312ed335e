//! How far a standby's log reaches, and on which timeline it is.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::time::sleep;
use trine_protocol::{Epoch, Position};

use super::Postgres;
use super::session::Session;
use super::timeline::{self, Line};
use crate::guard::{blocking, descendants};
use crate::{CopyId, EngineError, History, Role};

/// How often the process that replays is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// It is woken again after so many looks without a sign.
const WAKE_AGAIN: u32 = 50;

/// Where a standby is, read in one statement.
struct Replay {
    /// The process that replays, when it waits for more: it has read all that is here.
    waiting: bool,
    pid: Option<u32>,
    received: Option<u64>,
    replayed: u64,
    paused: bool,
}

const REPLAY: &str = "select pg_is_in_recovery(), s.pid, coalesce(s.wait_event, ''), \
    case when pg_is_in_recovery() then (pg_last_wal_receive_lsn() - '0/0'::pg_lsn)::bigint end, \
    case when pg_is_in_recovery() then coalesce((pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint, 0) else 0 end, \
    case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end \
    from (select 1) x left join pg_stat_activity s on s.backend_type = 'startup'";

impl Postgres {
    async fn replay(&self, session: &Session) -> Result<Replay, EngineError> {
        let asked = session.client.query_one(REPLAY, &[]).await;
        let row = asked.map_err(EngineError::sql("say how far it has replayed"))?;
        if !row.get::<_, bool>(0) {
            return Err(EngineError::WrongRole { operation: "seal it", found: Role::Primary, needed: Role::Standby });
        }
        Ok(Replay {
            waiting: row.get::<_, String>(2) == "RecoveryRetrieveRetryInterval",
            pid: row.get::<_, Option<i32>>(1).and_then(|p| u32::try_from(p).ok()),
            received: row.get::<_, Option<i64>>(3).map(i64::cast_unsigned),
            replayed: row.get::<_, i64>(4).cast_unsigned(),
            paused: row.get(5),
        })
    }

    /// Waits until everything that this standby has is replayed, and says how far that is. Nothing may be coming in.
    ///
    /// After a restart PostgreSQL knows only the start of a segment as received, so the end of its log is where the
    /// process that replays finds no more: it goes over its files, and then waits. It is woken with a signal and watched
    /// until it waits again, at the same place: then the whole of its files has been read in between.
    pub(super) async fn replay_to_the_end(&self, session: &Session) -> Result<u64, EngineError> {
        let mut seen: Option<(u64, u64)> = None;
        let mut rounds = 0;
        let mut looks = 0;
        loop {
            let now = self.replay(session).await?;
            if now.paused {
                session.run("resume its replay", "select pg_wal_replay_resume()").await?;
            }
            if now.received.is_some_and(|received| now.replayed >= received) {
                return Ok(now.replayed);
            }
            if let Some(pid) = now.pid
                && now.waiting
            {
                let sleeps = descendants::sleeps(pid).unwrap_or(0);
                match seen {
                    // It has not been awake since.
                    Some((_, before)) if before == sleeps && looks < WAKE_AGAIN => {}
                    Some((at, _)) if at == now.replayed && rounds >= 2 => {
                        return Ok(now.replayed.max(now.received.unwrap_or(0)));
                    }
                    other => {
                        let same = other.is_some_and(|(at, before)| at == now.replayed && before != sleeps);
                        rounds = if same { rounds + 1 } else { 0 };
                        seen = Some((now.replayed, sleeps));
                        looks = 0;
                        if let Some(pid) = descendants::pid(pid) {
                            let _ = kill_process(pid, Signal::HUP);
                        }
                    }
                }
            }
            looks += 1;
            sleep(LOOK).await;
        }
    }

    /// The epoch of the last open barrier in the data.
    pub(super) async fn data_epoch(&self, session: &Session) -> Result<Epoch, EngineError> {
        let asked = session.client.query_one("select coalesce(max(epoch), 0) from trine.epoch", &[]).await;
        let epoch: i64 = asked.map_err(EngineError::sql("say which epoch its data is of"))?.get(0);
        Ok(Epoch(epoch.cast_unsigned()))
    }

    /// The position of a standby that nothing flows into.
    pub(super) async fn sealed_position(&self, session: &Session) -> Result<Position, EngineError> {
        let offset = self.replay_to_the_end(session).await?;
        Ok(Position { epoch: self.data_epoch(session).await?, offset })
    }

    /// A sealed standby's descent, up to where it has replayed. Two copies part where their histories do.
    pub(super) async fn own_history(&self, session: &Session) -> Result<History, EngineError> {
        let now = self.replay(session).await?;
        let asked = session.client.query_one("select system_identifier from pg_control_system()", &[]).await;
        let identity: i64 = asked.map_err(EngineError::sql("say whose data it has"))?.get(0);
        let line = self.line_of(now.pid).await?;
        Ok(cut(&line, now.replayed, CopyId(identity.cast_unsigned())))
    }

    /// Along which timelines a standby goes: the one of the file that it reads, else the newest that its data fits.
    pub(super) async fn line_of(&self, startup: Option<u32>) -> Result<Line, EngineError> {
        let wal = self.paths.wal();
        let reading = startup.and_then(descendants::title).and_then(|t| timeline_in_title(&t));
        let found = {
            let wal = wal.clone();
            blocking(move || -> std::io::Result<Option<Line>> {
                if let Some(timeline) = reading
                    && let Some(line) = timeline::read(&wal, timeline)?
                {
                    return Ok(Some(line));
                }
                for timeline in timeline::list(&wal)? {
                    if let Some(line) = timeline::read(&wal, timeline)? {
                        return Ok(Some(line));
                    }
                }
                Ok(None)
            })
            .await
        };
        match found.map_err(EngineError::io("read the timelines in", &wal))? {
            Some(line) => Ok(line),
            // No history file at all: the timeline that its control file names, with no ancestors known.
            None => Ok(Line { timeline: self.control().await?.timeline, forks: Vec::new() }),
        }
    }
}

/// `postgres: startup recovering 000000050000000000000003` says timeline 5.
fn timeline_in_title(title: &str) -> Option<u64> {
    let file = title.split_once("startup recovering ")?.1.trim();
    (file.len() == 24).then(|| u64::from_str_radix(file.get(..8)?, 16).ok()).flatten()
}

/// A line up to a place in it.
fn cut(line: &Line, offset: u64, identity: CopyId) -> History {
    let timeline = line.at(offset);
    let forks = line.forks.iter().take_while(|f| f.epoch.0 != timeline).copied().collect();
    History { identity, forks, epoch: Epoch(timeline), end: offset, rewind_ready: false }
}

/// The processes that take the log in.
pub(super) fn receivers(postmaster: u32) -> BTreeSet<u32> {
    let children = descendants::children(postmaster).into_iter();
    children.filter(|&p| descendants::title(p).is_some_and(|t| t.contains(" walreceiver"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fork;

    #[test]
    fn titles() {
        assert_eq!(timeline_in_title("postgres: startup recovering 0000000A0000000000000003"), Some(10));
        assert_eq!(timeline_in_title("postgres: demo: startup recovering 000000050000000000000003 "), Some(5));
        assert_eq!(timeline_in_title("postgres: startup waiting for 000000050000000000000003"), None);
        assert_eq!(timeline_in_title("postgres: startup recovering \u{e9}0000050000000000000003"), None);
    }

    #[test]
    fn a_line_up_to_a_place() {
        let forks = vec![Fork { epoch: Epoch(1), end: 100 }, Fork { epoch: Epoch(4), end: 200 }];
        let line = Line { timeline: 6, forks };
        assert_eq!(cut(&line, 50, CopyId(1)).epoch, Epoch(1));
        let four = cut(&line, 150, CopyId(1));
        assert_eq!((four.epoch, four.forks.len(), four.end), (Epoch(4), 1, 150));
        assert_eq!(cut(&line, 201, CopyId(1)).epoch, Epoch(6));
    }
}
