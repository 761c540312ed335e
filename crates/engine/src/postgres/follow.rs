//! Following a primary.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Postgres;
use super::config::Live;
use super::session::Session;
use crate::guard::{blocking, tail};
use crate::{EngineError, Followed, History, Role, Upstream};

/// How long the first bytes are waited for before the agent hears `NotYet`.
const FIRST: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(3);
/// How much of the log's end is read for the receiver's last word.
const LOG_END: u64 = 32 << 10;

/// Whether the primary has agreed to send. The receiver calls itself streaming as soon as it has connected; only after
/// that does it wait in its main loop, or get a message (until then both times are the one at which it started).
const STREAMS: &str = "select exists (select from pg_stat_wal_receiver r left join pg_stat_activity a using (pid) \
    where r.status = 'streaming' and (r.last_msg_send_time is distinct from r.last_msg_receipt_time \
    or a.wait_event = 'WalReceiverMain'))";

impl Postgres {
    pub(super) async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        let _turn = self.turn.lock().await;
        let session = self.session().await?;
        let found = self.follow_with(&session, upstream, history).await?;
        self.give_back(session);
        Ok(found)
    }

    async fn follow_with(
        &self,
        session: &Session,
        upstream: &Upstream,
        history: &History,
    ) -> Result<Followed, EngineError> {
        if self.primary(session).await?.is_some() {
            let (found, needed) = (Role::Primary, Role::Standby);
            return Err(EngineError::WrongRole { operation: "follow", found, needed });
        }
        if !self.live().upstream.is_some_and(|(u, _)| u == *upstream) {
            // Nothing may come in while the two logs are compared.
            self.cut().await?;
            self.replay_to_the_end(session).await?;
            if let Some(why) = self.diverged(session, upstream, history).await? {
                return Ok(Followed::Diverged(why));
            }
            let live = self.link(upstream)?;
            self.log_mark.store(self.log_length(), std::sync::atomic::Ordering::Relaxed);
            self.write_live(&live)?;
            self.reload()?;
        }
        let streams = async {
            while !self.streams(session).await? {
                sleep(LOOK).await;
            }
            Ok::<_, EngineError>(Followed::Streaming)
        };
        match timeout(FIRST, streams).await {
            Ok(done) => done,
            Err(_) => Ok(self.receiver_error().await.map_or(Followed::NotYet, |e| judge(&e))),
        }
    }

    async fn diverged(
        &self,
        session: &Session,
        upstream: &Upstream,
        history: &History,
    ) -> Result<Option<String>, EngineError> {
        let own = self.own_history(session).await?;
        if own.identity != history.identity {
            return Err(EngineError::OtherCluster {
                what: upstream.node.to_string(),
                found: history.identity,
                expected: own.identity,
            });
        }
        Ok(parts(&own, history, upstream))
    }

    /// The settings for following, with credentials of their own: see [`Postgres::cut`].
    pub(super) fn link(&self, upstream: &Upstream) -> Result<Live, EngineError> {
        let name = format!("link-{}", self.clock.wall().as_nanos());
        let folder = self.paths.sockets.join(&name);
        self.account.make_dir(&folder)?;
        self.copy_certificates(&folder)?;
        Ok(Live { upstream: Some((upstream.clone(), name)), ..self.live() })
    }

    async fn streams(&self, session: &Session) -> Result<bool, EngineError> {
        let row = session.client.query_one(STREAMS, &[]).await.map_err(EngineError::sql("say whether it streams"))?;
        Ok(row.get(0))
    }

    /// What the receiver last complained of since it was told whom to follow.
    pub(super) async fn receiver_error(&self) -> Option<String> {
        let mark = self.log_mark.load(std::sync::atomic::Ordering::Relaxed);
        let log = self.paths.log.clone();
        let length = blocking(move || std::fs::metadata(log).map_or(0, |m| m.len())).await;
        let new = length.saturating_sub(mark).min(LOG_END);
        if new == 0 { None } else { last_complaint(&tail(&self.paths.log, new).await) }
    }
}

/// The receiver's last error in a piece of the database's log, with its detail.
fn last_complaint(log: &str) -> Option<String> {
    let is_one = |l: &&str| {
        l.contains("walreceiver FATAL:")
            || l.contains("walreceiver ERROR:")
            || l.contains("before current recovery point")
    };
    let mut lines = log.lines().skip_while(|l| !is_one(l));
    let mut last = None;
    while let Some(line) = lines.next() {
        if !is_one(&line) {
            continue;
        }
        let text = line.split_once("  ").map_or(line, |(_, t)| t);
        let detail = lines.clone().next().and_then(|l| l.trim().strip_prefix("DETAIL:")).map(str::trim);
        last = Some(detail.map_or_else(|| text.to_owned(), |d| format!("{text} {d}")));
    }
    last
}

/// From PostgreSQL 18 on a member whose slot has lost its log is turned away with this; before, it was let in and then told
/// that the log had been removed.
const LOST_SLOT: &str = "invalidated due to \"wal_removed\"";

/// What the receiver's complaint means.
pub(super) fn judge(error: &str) -> Followed {
    let any = |texts: &[&str]| texts.iter().any(|t| error.contains(t));
    if any(&[
        "is not in this server's history",
        "before current recovery point",
        "is ahead of the WAL flush position",
        "is behind recovery timeline",
    ]) {
        Followed::Diverged(error.to_owned())
    } else if any(&["has already been removed", LOST_SLOT]) {
        Followed::TooFarBehind(error.to_owned())
    } else {
        Followed::NotYet
    }
}

/// Why `own`, up to its end, is no part of `other`; `None` when it is.
pub(super) fn parts(own: &History, other: &History, upstream: &Upstream) -> Option<String> {
    use super::control::lsn;
    match own.common(other) {
        Some(fork) if own.end <= fork.end => None,
        Some(fork) => Some(format!(
            "it goes on to {} of epoch {}, {} parted from it at {} of epoch {}",
            lsn(own.end),
            own.epoch,
            upstream.node,
            lsn(fork.end),
            fork.epoch
        )),
        None => Some(format!("nothing of its log (epoch {}) is in that of {}", own.epoch, upstream.node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_last_word() {
        let log = "2026-01-01 00:00:00.000 UTC [7] walreceiver FATAL:  could not connect to the primary server: x\n\
            2026-01-01 00:00:01.000 UTC [1] startup LOG:  waiting\n\
            2026-01-01 00:00:02.000 UTC [8] walreceiver FATAL:  could not start WAL streaming: ERROR:  requested \
            starting point 0/4000000 on timeline 5 is not in this server's history\n\
            \tDETAIL:  This server's history forked from timeline 5 at 0/3000148.\n";
        let word = last_complaint(log).unwrap();
        assert!(word.starts_with("could not start WAL streaming"), "{word}");
        assert!(word.ends_with("at 0/3000148."), "{word}");
        assert!(matches!(judge(&word), Followed::Diverged(_)));
        assert_eq!(judge("could not connect"), Followed::NotYet);
        assert!(matches!(judge("requested WAL segment 01 has already been removed"), Followed::TooFarBehind(_)));
        let lost = "could not start WAL streaming: ERROR:  can no longer access replication slot \"trine_n2\" This \
            replication slot has been invalidated due to \"wal_removed\".";
        assert!(matches!(judge(lost), Followed::TooFarBehind(_)));
        assert_eq!(last_complaint("nothing\n"), None);
    }
}
