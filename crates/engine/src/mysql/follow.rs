//! Following a primary.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::dialect::Dialect;
use super::feed::Feed;
use super::seal::Slave;
use super::session::Session;
use super::state::Mysql;
use crate::{EngineError, Followed, History, Upstream};

/// How long the first bytes are waited for before the agent hears `NotYet`.
const FIRST: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(3);
/// So many transactions are sooner taken with a flush for each than by a connection more.
const FAR: u64 = 100;

impl Mysql {
    pub(super) async fn follow(
        this: &Arc<Self>,
        upstream: &Upstream,
        history: &History,
    ) -> Result<Followed, EngineError> {
        let _turn = this.turn.lock().await;
        this.must_be_standby("follow")?;
        let mut session = this.session().await?;
        let wanted = Some((upstream.node.clone(), history.epoch));
        if this.running().following != wanted {
            let end = match this.begin_to_follow(&mut session, upstream, history).await? {
                Ok(end) => end,
                Err(why) => return Ok(Followed::Diverged(why)),
            };
            Self::take_from(this, &mut session, upstream, history, end).await?;
            this.running().following = wanted;
        } else if let Some(why) = this.go_on(&mut session).await? {
            this.cut(&mut session).await?;
            return Ok(Followed::Diverged(why));
        }
        let settled = async {
            loop {
                let slave = this.slave(&mut session).await?.unwrap_or_default();
                match judge(&slave) {
                    Followed::NotYet => sleep(LOOK).await,
                    settled => return Ok::<_, EngineError>(settled),
                }
            }
        };
        let found = timeout(FIRST, settled).await.unwrap_or(Ok(Followed::NotYet))?;
        if matches!(found, Followed::Diverged(_) | Followed::TooFarBehind(_)) {
            // What it would still receive could never be applied: it must acknowledge nothing more.
            this.cut(&mut session).await?;
        }
        this.give_back(session);
        Ok(found)
    }

    /// It follows already, and perhaps not as it should. `Some`: it has become no part of the primary's log.
    async fn go_on(&self, session: &mut Session) -> Result<Option<String>, EngineError> {
        let Some(slave) = self.slave(session).await? else { return Ok(None) };
        if slave.receiver == "Yes" && slave.applies {
            return Ok(None);
        }
        if let Some(why) = self.errant(session).await? {
            return Ok(Some(why));
        }
        // Somebody has stopped both of them, or one.
        if slave.receiver == "No" && !slave.applies && slave.receiver_error.is_none() && slave.applier_error.is_none() {
            let applied = self.place(session).await?.number;
            if applied < slave.received.number && self.config.dialect == Dialect::MariaDb {
                // Started again as they are, they would throw the received log away; the database, started again, is given it.
                tracing::warn!("somebody has stopped receiver and applier: the database is started again");
                self.guard.kill();
            }
            self.running().following = None;
            return Ok(None);
        }
        if slave.receiver == "No" && slave.receiver_error.is_none() && slave.applies {
            session.run("start its receiver again", self.words().start_receiver).await?;
        }
        if slave.receiver != "No" && slave.applier_error.is_none() && !slave.applies {
            session.run("start its applier again", self.words().start_applier).await?;
        }
        Ok(None)
    }

    /// Compares the two logs: where this one ends, or why it is no part of the primary's.
    async fn begin_to_follow(
        &self,
        session: &mut Session,
        upstream: &Upstream,
        history: &History,
    ) -> Result<Result<u64, String>, EngineError> {
        match self.complete_log_behind(history).await {
            Err(EngineError::StartFailed { why, .. }) => return Ok(Err(why)),
            other => other?,
        }
        // Nothing may come in meanwhile.
        self.cut(session).await?;
        let last = match self.apply_all(session).await {
            Err(EngineError::NeedsRebuild(why)) => return Ok(Err(why)),
            other => other?.number,
        };
        if let Some(why) = self.errant(session).await? {
            return Ok(Err(why));
        }
        let own = self.descent(session, last, None).await?;
        if own.identity != history.identity {
            let (found, expected) = (history.identity, own.identity);
            return Err(EngineError::OtherCluster { what: upstream.node.to_string(), found, expected });
        }
        let fork = own.common(history);
        Ok(match fork {
            Some(fork) if own.end <= fork.end => Ok(own.end),
            Some(fork) => Err(format!(
                "it goes on to {} of epoch {}, {} parted from it at {} of epoch {}",
                own.end, own.epoch, upstream.node, fork.end, fork.epoch
            )),
            None => Err(format!("nothing of its log (epoch {}) is in that of {}", own.epoch, upstream.node)),
        })
    }

    async fn take_from(
        this: &Arc<Self>,
        session: &mut Session,
        upstream: &Upstream,
        history: &History,
        end: u64,
    ) -> Result<(), EngineError> {
        let mut feed = Feed::open(this, upstream.node.clone(), history.epoch).await?;
        let word = feed.first_word().await;
        // One that lags takes what is there already faster without acknowledging it. Not where commits may wait for it, and it would
        // never acknowledge what it has received so: MySQL's is sent that again (`lead_receiver`).
        let begins = history.forks.last().is_some_and(|fork| fork.end == history.end);
        let others = this.config.dialect == Dialect::MySql || word.is_some_and(|w| w.others);
        let far = history.end.saturating_sub(end) > FAR;
        let behind = Some(history.end).filter(|there| (begins && end < *there) || (others && far));
        let acknowledges = word.is_some_and(|w| w.counts) && behind.is_none();
        // Everything that it has received before is applied.
        this.receive_as(session, acknowledges).await?;
        feed.set_acknowledges(acknowledges);
        this.follow_behind(session, feed.address).await?;
        feed.keep(this, behind.unwrap_or(0));
        *this.feed.lock().await = Some(feed);
        Ok(())
    }
}

/// What the receiver's and the applier's complaints mean.
fn judge(slave: &Slave) -> Followed {
    if let Some(error) = &slave.applier_error
        && !slave.applies
    {
        return Followed::Diverged(format!("it can't apply what it receives: {error}"));
    }
    if slave.receiver == "Yes" && slave.applies {
        return Followed::Streaming;
    }
    let Some(error) = &slave.receiver_error else { return Followed::NotYet };
    let any = |texts: &[&str]| texts.iter().any(|t| error.contains(t));
    if any(&["which is not in the master's binlog", "has diverged", "alternate history", "more GTIDs than the source"])
    {
        Followed::Diverged(error.clone())
    } else if any(&[
        "slave state is too old",
        "Could not find GTID state",
        "Could not find first log file name",
        "purged required binary logs",
    ]) {
        Followed::TooFarBehind(error.clone())
    } else {
        Followed::NotYet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slave(receiver: &str, error: &str) -> Slave {
        Slave { receiver: receiver.into(), applies: true, receiver_error: Some(error.into()), ..Slave::default() }
    }

    #[test]
    fn complaints() {
        assert_eq!(judge(&slave("Yes", "")), Followed::Streaming);
        assert_eq!(judge(&slave("Connecting", "error connecting to master: Lost connection")), Followed::NotYet);
        let diverged = "Got fatal error 1236 from master when reading data from binary log: 'Error: connecting slave \
            requested to start from GTID 0-1-5, which is not in the master's binlog. Since the master's binlog contains \
            GTIDs with higher sequence numbers, it probably means that the slave has diverged due to executing extra \
            erroneous transactions'";
        assert!(matches!(judge(&slave("No", diverged)), Followed::Diverged(_)));
        let old = "Got fatal error 1236 from master when reading data from binary log: 'Could not find GTID state \
            requested by slave in any binlog files. Probably the slave state is too old and required binlog files have \
            been purged.'";
        assert!(matches!(judge(&slave("No", old)), Followed::TooFarBehind(_)));
        let errant = Slave {
            receiver: "Yes".into(),
            applier_error: Some("An attempt was made to binlog GTID 0-1-5 which would create an out-of-order".into()),
            ..Slave::default()
        };
        assert!(matches!(judge(&errant), Followed::Diverged(_)));
    }
}
