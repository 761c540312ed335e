//! A standby: what it has received is one thing, what it has applied another. And what a start makes of the log that is here,
//! above all of the end of a lost primary's, which perhaps nobody has acknowledged.

use rand::Rng;
use trine_engine::History;
use trine_protocol::Epoch;

use super::super::fault::Cheat;
use super::super::product::Product;
use super::super::world::{MS, World};
use super::place;

/// Of the last commits so many may be in the log only: it is enough that one of the two is flushed.
const IN_DOUBT: usize = 2;

/// Of a log that it does not acknowledge a standby flushes so many transactions at once (`sync_relay_log` counts events).
const UNFLUSHED: usize = 200;

/// How long a transaction takes where applying is slow.
const SLOW: u64 = 150 * MS;

impl World {
    /// A standby that runs does what it does in a millisecond.
    pub(in crate::cluster) fn work_as_standby(&mut self, i: usize) {
        let now = self.now;
        let db = &self.machine(i).db;
        let slowest = db.slow_flush;
        let each = db.semi.feed.as_ref().is_none_or(|f| f.acknowledges);
        let left = db.log.len() - db.flushed.min(db.log.len());
        if left > 0 && now >= db.next_flush && (each || left >= UNFLUSHED) {
            let takes = self.rng.random_range(0..=slowest) * MS;
            let db = &mut self.machine(i).db;
            (db.flushed, db.next_flush) = (db.log.len(), now + takes);
        }
        let db = &self.machine(i).db;
        if db.replayed >= db.log.len() || now < db.next_replay {
            return;
        }
        let (upto, takes) = match db.habits.slow_replay {
            true => (db.replayed + 1, SLOW),
            false => (db.log.len(), self.rng.random_range(0..=slowest) * MS),
        };
        let db = &mut self.machine(i).db;
        (db.replayed, db.next_replay) = (upto, now + takes);
        // What is applied is committed there, and on disk.
        db.flushed = db.flushed.max(upto);
    }

    /// The database starts, as a standby that follows nobody. What it has received it still has (MariaDB's agent sets that
    /// aside, and has it applied).
    pub(in crate::cluster) fn start_semisync(&mut self, i: usize) {
        let (now, product, cheat) = (self.now, self.product, self.cheat);
        let doubt = self.rng.random_range(0..=IN_DOUBT);
        let uncut = self.rng.random_bool(0.1);
        let db = &mut self.machine(i).db;
        let replayed = db.replayed.min(db.log.len());
        db.start();
        db.answered = now;
        db.replayed = replayed;
        let mut told = String::new();
        if std::mem::take(&mut db.semi.led) {
            let cut = db.semi.committed.saturating_sub(doubt);
            // MySQL commits all that its log has; so does MariaDB where a table was changed in it.
            if product == Product::MariaDb && db.semi.tail.is_none() && !uncut && cut < db.log.len() {
                let tail = db.log.split_off(cut);
                told = format!(", and {} of its records are set aside", tail.len());
                db.semi.tail = Some(tail).filter(|_| cheat != Some(Cheat::DropsTail));
                db.flushed = db.flushed.min(cut);
            }
            db.replayed = db.log.len();
        }
        if cheat == Some(Cheat::ForgetsReceived) {
            db.log.truncate(db.replayed);
            db.flushed = db.flushed.min(db.replayed);
        }
        let text = format!("the database of {} starts{told}", self.name(i));
        self.tell(text);
    }

    /// What was set aside becomes a part of the log again: all of it, or behind a primary with this history as far as that has it.
    pub(super) fn complete(&mut self, i: usize, behind: Option<&History>) {
        let product = self.product;
        let db = &mut self.machine(i).db;
        let Some(tail) = db.semi.tail.take() else { return };
        let own = db.log.len();
        db.log.extend(tail);
        let Some(history) = behind else { return };
        let last = place::number(product, &db.log);
        let epoch = place::epoch_of(last);
        let fork = history.end_of(Epoch(epoch)).unwrap_or(place::first_of(epoch).saturating_sub(1));
        let goes_too_far = place::number(product, db.log.get(..own).unwrap_or_default()) > fork;
        if last <= fork || goes_too_far {
            return;
        }
        let common = (own..=db.log.len()).rev().find(|n| {
            let part = db.log.get(..*n).unwrap_or_default();
            place::number(product, part) <= fork
        });
        let dropped = db.log.split_off(common.unwrap_or(own));
        let text = format!("{} drops {} records that nobody has acknowledged", self.name(i), dropped.len());
        self.tell(text);
    }
}
