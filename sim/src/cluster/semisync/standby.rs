//! A standby: what it has received is one thing, what it has applied another.

use rand::Rng;

use super::super::world::{MS, World};

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
}
