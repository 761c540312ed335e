//! Following a primary.

use tokio::time::sleep;
use trine_engine::{EngineError, Followed, History, Role, Upstream};

use super::super::fault::Cheat;
use super::super::handle::LOOK;
use super::super::product::Product;
use super::engine::SemiSyncEngine;
use super::feed::Feed;
use super::place;

/// How long the first bytes are waited for before the agent hears [`Followed::NotYet`], in looks.
const FIRST: u32 = 300;
/// How many transactions are much. (The engine says 100, of databases that write more.)
const FAR: u64 = 5;

impl SemiSyncEngine {
    pub(super) async fn follow_behind(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        self.hand.takes(0, 10).await;
        let life = self.hand.running_as(Role::Standby, "follow")?;
        let up = self.hand.with(|w, _| w.index(&upstream.node)).ok_or(EngineError::NotRunning)?;
        let epoch = history.epoch.0;
        if self.hand.with(|w, i| w.machine(i).db.semi.upstream()) != Some((up, epoch)) {
            self.complete_log(life, Some(history)).await?;
            self.hand.with(|w, i| w.machine(i).db.semi.feed = None);
            let end = self.apply_all(life).await?;
            let own = self.hand.with(|w, i| {
                let product = w.product;
                let db = &w.machine(i).db;
                place::descent(product, &db.log, db.id, u64::MAX)
            });
            if own.identity != history.identity {
                let (found, expected) = (own.identity, history.identity);
                return Err(EngineError::OtherCluster { what: "data".to_owned(), found, expected });
            }
            let unnoticed = self.hand.with(|w, _| w.cheat == Some(Cheat::TailUnnoticed));
            if let Some(why) = place::parts_from(&own, history).filter(|_| !unnoticed) {
                return Ok(Followed::Diverged(why));
            }
            // One that lags takes what is there already without acknowledging it: not where commits may wait for it, and it would
            // never acknowledge what it has received so.
            let begins = history.forks.last().is_some_and(|fork| fork.end == history.end);
            let others = self.hand.with(|w, i| w.product == Product::MySql || w.is_acknowledged_without(up, i));
            let far = history.end.saturating_sub(end) > FAR;
            let behind = Some(history.end).filter(|there| (begins && end < *there) || (others && far));
            self.hand.takes(1, 5).await;
            self.hand.with(|w, i| {
                let now = w.now;
                let reached = w.reaches(up, i);
                let primary = &w.machine(up).db;
                let counts = reached && primary.leads() && primary.epoch == epoch && primary.semi.counted.contains(&i);
                let feed = Feed::new(up, epoch, counts && behind.is_none(), behind.unwrap_or(0), now);
                let db = &mut w.machine(i).db;
                if db.life == life {
                    db.semi.feed = Some(feed);
                }
            });
        }
        for _ in 0..FIRST {
            if self.hand.with(|w, i| w.machine(i).db.semi.streams()) {
                return Ok(Followed::Streaming);
            }
            if self.hand.with(|w, i| w.machine(i).db.life != life) {
                return Err(EngineError::NotRunning);
            }
            sleep(LOOK).await;
        }
        Ok(Followed::NotYet)
    }
}
