//! A primary's commits: they are written to its log in groups, flushed, and wait until a standby has acknowledged them.

use rand::Rng;
use trine_protocol::SyncSetting;

use super::super::database::{Database, Kind};
use super::super::fault::Cheat;
use super::super::product::Product;
use super::super::world::{MS, World};
use super::place;

/// MariaDB writes so many groups of commits that wait: the second waits for the first to be released, and holds the log.
const GROUPS: usize = 2;

/// The open barrier, while it is under way. It goes on when nobody asks any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    pub(super) epoch: u64,
    /// After how many changes of the sync rule it was asked for: it proves something about the last only.
    pub(super) changes: u64,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It begins then, if somebody is there to acknowledge it.
    Asked(u64),
    /// The record stands at this place of the log.
    Written(usize),
    Passed,
    /// Somebody has ended its wait.
    Cancelled,
}

/// A commit that the agent makes for a standby that comes in: what that had received before it never acknowledges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nudge {
    pub(super) epoch: u64,
    pub(super) stage: Stage,
}

impl Database {
    /// Is that record's wait over? `Some(false)`: ended by somebody, and nobody has acknowledged it.
    fn is_over(&self, place: usize) -> Option<bool> {
        match (self.released >= place, self.shown >= place) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }

    /// A barrier of this epoch holds the epoch's row, or its name, until its own wait is over.
    fn has_barrier_under_way(&self, epoch: u64) -> bool {
        let waiting = self.log.get(self.released.max(self.shown)..).unwrap_or_default();
        waiting.iter().chain(&self.semi.pending).any(|e| e.kind == Kind::Barrier(epoch))
    }
}

impl World {
    /// A primary that runs does what it does in a millisecond.
    pub(in crate::cluster) fn work_as_primary(&mut self, i: usize) {
        let machine = self.machine(i);
        if machine.agent_up && !machine.agent_frozen {
            self.pass_barrier(i);
            self.nudge(i);
        }
        self.write_commits(i);
    }

    fn pass_barrier(&mut self, i: usize) {
        let (now, someone) = (self.now, self.is_acknowledged(i) || self.cheat == Some(Cheat::BarrierAtOnce));
        let db = &mut self.machine(i).db;
        let Some(mut barrier) = db.semi.barrier else { return };
        let nobody_has_to = db.settings.last() == Some(&SyncSetting::Alone);
        match barrier.stage {
            Stage::Asked(at) if now >= at && (someone || nobody_has_to) && !db.has_barrier_under_way(barrier.epoch) => {
                barrier.stage = Stage::Written(self.append(i, Kind::Barrier(barrier.epoch)));
            }
            Stage::Written(place) => match db.is_over(place) {
                Some(true) => {
                    barrier.stage = Stage::Passed;
                    db.semi.open = true;
                }
                Some(false) => barrier.stage = Stage::Cancelled,
                None => {}
            },
            Stage::Asked(_) | Stage::Passed | Stage::Cancelled => {}
        }
        self.machine(i).db.semi.barrier = Some(barrier);
    }

    /// Writes a row for each standby that came in, and removes it again.
    fn nudge(&mut self, i: usize) {
        let nudges = std::mem::take(&mut self.machine(i).db.semi.nudges);
        let mut left = Vec::new();
        for mut nudge in nudges {
            match nudge.stage {
                Stage::Asked(at) if self.now < at => left.push(nudge),
                Stage::Asked(_) => {
                    // The first that waits is the barrier.
                    let begun = place::epoch_of(self.own_place(i)) == nudge.epoch || self.commits_wait(i);
                    // MySQL can't while it begins a new file of its log.
                    let could = self.product == Product::MariaDb || !self.rng.random_bool(0.1);
                    if begun && could && self.machine(i).db.epoch == nudge.epoch {
                        nudge.stage = Stage::Written(self.append(i, Kind::Nudge));
                        left.push(nudge);
                    }
                }
                Stage::Written(place) => match self.machine(i).db.is_over(place) {
                    Some(_) => {
                        self.append(i, Kind::Nudge);
                    }
                    None => left.push(nudge),
                },
                Stage::Passed | Stage::Cancelled => {}
            }
        }
        self.machine(i).db.semi.nudges = left;
    }

    fn write_commits(&mut self, i: usize) {
        let (now, product) = (self.now, self.product);
        let db = &mut self.machine(i).db;
        if db.flushed < db.log.len() && now >= db.next_flush {
            db.flushed = db.log.len();
        }
        db.semi.waits_for_room = db.habits.full && !db.semi.pending.is_empty();
        if db.semi.pending.is_empty() || db.habits.full || db.flushed < db.log.len() {
            return;
        }
        // One who copies MariaDB's data holds its commits up for a moment.
        if product == Product::MariaDb && (db.semi.groups.len() >= GROUPS || now < db.semi.held_up) {
            return;
        }
        let Database { log, semi, .. } = db;
        log.extend(semi.pending.drain(..));
        semi.groups.push_back(log.len());
        let slowest = db.slow_flush;
        let takes = self.rng.random_range(0..=slowest) * MS;
        self.machine(i).db.next_flush = now + takes;
    }

    /// Commits that a standby that counts has received are done.
    pub(in crate::cluster) fn release_acknowledged(&mut self, i: usize) {
        let alone = self.cheat == Some(Cheat::CommitsAlone);
        let machine = self.machine(i);
        if !machine.on || machine.frozen || !machine.db.leads() || machine.db.habits.hung {
            return;
        }
        let db = &mut machine.db;
        let waits = db.settings.last() != Some(&SyncSetting::Alone) && !alone;
        let done = if waits { db.semi.acked.min(db.flushed) } else { db.flushed };
        db.released = db.released.max(done);
        let over = db.released.max(db.shown);
        while db.semi.groups.front().is_some_and(|end| *end <= over) {
            db.semi.groups.pop_front();
        }
    }
}
