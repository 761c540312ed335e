//! Ending a database in good order.

use trine_engine::EngineError;

use super::super::product::Product;
use super::super::world::{MS, World};
use super::engine::SemiSyncEngine;

/// How long commits under way may hold up a stop, as the database's `lock_wait_timeout`.
const CLOSE: u64 = 2000 * MS;

impl SemiSyncEngine {
    /// Where commits are taken no longer, those under way are acknowledged first.
    async fn take_no_more_writes(&self, life: u64) -> Result<(), EngineError> {
        let began = self.hand.with(|w, i| {
            w.machine(i).db.stopping = true;
            w.now
        });
        let over = |w: &mut World, i: usize| {
            let (now, db) = (w.now, &w.machine(i).db);
            let done = db.semi.pending.is_empty() && db.visible() == db.log.len();
            (done && !db.habits.hung).then_some(true).or((now > began + CLOSE).then_some(false))
        };
        if self.hand.wait(life, over).await? {
            return Ok(());
        }
        self.hand.with(|w, i| w.machine(i).db.stopping = false);
        Err(EngineError::StopFailed("its commits wait".to_owned()))
    }

    /// Ends it cleanly: there is nothing in its log that is not committed.
    fn end(&self, life: u64) {
        self.hand.with(|w, i| {
            let db = &mut w.machine(i).db;
            if db.life == life {
                db.flushed = db.log.len();
                db.kill();
                db.semi.led = false;
                w.tell(format!("the database of {} stops", w.name(i)));
            }
        });
    }

    pub(super) async fn end_cleanly(&self) -> Result<(), EngineError> {
        self.hand.works(1, 20).await;
        let (runs, leads, life) = self.hand.with(|w, i| {
            let db = &w.machine(i).db;
            (db.runs(), db.leads(), db.life)
        });
        if !runs {
            return Ok(());
        }
        if leads {
            self.take_no_more_writes(life).await?;
        } else {
            self.hand.with(|w, i| w.machine(i).db.semi.feed = None);
        }
        self.hand.works(1, 50).await;
        self.end(life);
        Ok(())
    }

    /// Ends a primary whose place another one takes.
    pub(super) async fn give_way(&self) -> Result<(), EngineError> {
        let (leads, life, product) = self.hand.with(|w, i| (w.machine(i).db.leads(), w.machine(i).db.life, w.product));
        if !leads || product == Product::MariaDb {
            return self.end_cleanly().await;
        }
        self.take_no_more_writes(life).await?;
        // Its clean end takes over a second. Every commit of its log has been acknowledged.
        self.hand.kill();
        Ok(())
    }
}
