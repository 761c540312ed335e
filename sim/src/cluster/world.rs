//! What the agents do not see of each other: the machines, their databases, the cables between them, and the time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use rand::rngs::StdRng;
use trine_engine::{CopyId, History, Process, Role};
use trine_protocol::{Epoch, NodeName};

use super::clock::SimClock;
use super::database::{Database, Entry, Kind};
use super::disk::SimDisk;
use super::fault::Cheat;
use super::product::Product;
use super::story::Story;

/// A millisecond, in nanoseconds.
pub(super) const MS: u64 = 1_000_000;

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: NodeName,
    pub(super) clock: SimClock,
    pub(super) disk: SimDisk,
    pub(super) db: Database,
    /// It has power.
    pub(super) on: bool,
    /// Its agent runs.
    pub(super) agent_up: bool,
    /// Its agent gets no processor time.
    pub(super) agent_frozen: bool,
    /// Nothing on it gets any.
    pub(super) frozen: bool,
    /// What the frozen agent did just before: it takes effect when it runs again.
    pub(super) late_kill: bool,
}

/// Everything but the agents.
#[derive(Debug)]
pub(super) struct World {
    /// The time, in nanoseconds since the beginning.
    pub(super) now: u64,
    pub(super) rng: StdRng,
    pub(super) machines: Vec<Machine>,
    /// From whom to whom nothing gets through.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Between whose agents no stream can be opened, this way. Those that are open go on.
    pub(super) apart: BTreeSet<(usize, usize)>,
    /// What a packet takes at most, in microseconds.
    pub(super) slowest: u64,
    pub(super) story: Story,
    /// What must never be, and was.
    pub(super) violations: Vec<String>,
    pub(super) cheat: Option<Cheat>,
    /// Whose habits the databases have.
    pub(super) product: Product,
    /// The machines' names, at hand without another look at them: it is asked for them each millisecond.
    names: Arc<[NodeName]>,
    time: Arc<AtomicU64>,
    next_id: u64,
    /// Who was ever the primary of which epoch, and the last record that it had then.
    led: Vec<(u64, usize, Option<u64>)>,
}

/// The world, shared by all that is simulated. One thread only: nobody ever waits for the lock.
pub(super) type Shared = Arc<Mutex<World>>;

/// The world, for a moment in which nothing else happens.
pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(rng: StdRng, machines: Vec<Machine>, time: Arc<AtomicU64>, story: Story) -> Self {
        let names = machines.iter().map(|m| m.name.clone()).collect();
        Self {
            now: 0,
            rng,
            machines,
            cut: BTreeSet::new(),
            apart: BTreeSet::new(),
            slowest: 1000,
            story,
            violations: Vec::new(),
            cheat: None,
            product: Product::default(),
            names,
            time,
            next_id: 0,
            led: Vec::new(),
        }
    }

    #[allow(clippy::indexing_slicing, reason = "the machines are counted from 0 and never go")]
    pub(super) fn machine(&mut self, i: usize) -> &mut Machine {
        &mut self.machines[i]
    }

    pub(super) fn name(&self, i: usize) -> String {
        self.machines.get(i).map(|m| m.name.to_string()).unwrap_or_default()
    }

    pub(super) fn index(&self, name: &NodeName) -> Option<usize> {
        self.machines.iter().position(|m| m.name == *name)
    }

    pub(super) fn linked(&self, from: usize, to: usize) -> bool {
        let alive = |i: usize| self.machines.get(i).is_some_and(|m| m.on && !m.frozen);
        alive(from) && alive(to) && !self.cut.contains(&(from, to))
    }

    /// What a packet takes, in nanoseconds.
    pub(super) fn latency(&mut self) -> u64 {
        self.rng.random_range(100..=self.slowest.max(200)) * 1000
    }

    /// A time between the two, in milliseconds.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        self.rng.random_range(least..=most)
    }

    pub(super) fn tell(&self, text: impl AsRef<str>) {
        self.story.line(self.now, "world", text.as_ref());
    }

    pub(super) fn broken(&mut self, text: String) {
        self.tell(format!("VIOLATION: {text}"));
        self.violations.push(text);
    }

    /// Appends a record, and says how long the log is with it. (MariaDB and MySQL write it a little later.)
    pub(super) fn append(&mut self, i: usize, kind: Kind) -> usize {
        self.next_id += 1;
        let id = self.next_id;
        let semisync = self.product.is_semisync();
        let db = &mut self.machine(i).db;
        if semisync {
            db.semi.pending.push_back(Entry { id, kind });
        } else {
            db.log.push(Entry { id, kind });
        }
        db.log.len() + db.semi.pending.len()
    }

    /// The history of a primary's log.
    pub(super) fn history_of(&mut self, i: usize) -> History {
        let db = &self.machine(i).db;
        History {
            identity: CopyId(db.id.unwrap_or(0)),
            forks: db.history(),
            epoch: Epoch(db.timeline()),
            end: db.flushed as u64,
            rewind_ready: true,
        }
    }

    /// A database has become the primary of an epoch.
    pub(super) fn leads(&mut self, i: usize, epoch: u64) {
        // A promotion of MariaDB or MySQL writes nothing. A node that restarts before anything is written may become the primary of
        // its epoch again, with the very log that it was elected with.
        let last = self.machine(i).db.log.last().map(|e| e.id);
        let again = |(_, who, had): &(u64, usize, Option<u64>)| self.product.is_semisync() && (*who, *had) == (i, last);
        if self.led.iter().any(|led| led.0 == epoch && !again(led)) {
            let text = format!("epoch {epoch} has had a primary, and {} becomes another", self.name(i));
            self.broken(text);
        }
        self.led.push((epoch, i, last));
        let text = format!("the database of {} is the primary of epoch {epoch}", self.name(i));
        self.tell(text);
    }

    /// A millisecond passes.
    pub(super) fn tick(&mut self) {
        let semisync = self.product.is_semisync();
        self.now += MS;
        self.time.store(self.now, Relaxed);
        for i in 0..self.machines.len() {
            let now = self.now;
            let machine = self.machine(i);
            if !machine.on || machine.frozen {
                continue;
            }
            if machine.late_kill && !machine.agent_frozen {
                machine.late_kill = false;
                machine.db.kill();
            }
            let clock = machine.clock.read();
            let db = &mut machine.db;
            if db.guard.is_some_and(|deadline| clock >= deadline) {
                db.kill();
                let text = format!("the guard of {} ends its database: the lease is over", self.name(i));
                self.tell(text);
                continue;
            }
            if !db.runs() || db.habits.hung {
                continue;
            }
            if semisync {
                match db.role {
                    Role::Primary => self.work_as_primary(i),
                    Role::Standby => self.work_as_standby(i),
                }
                continue;
            }
            if db.flushed < db.log.len() && now >= db.next_flush {
                db.flushed = db.log.len();
                let slowest = db.slow_flush;
                let pause = self.rng.random_range(0..=slowest) * MS;
                self.machine(i).db.next_flush = now + pause;
            }
            self.replay(i);
        }
        for i in 0..self.machines.len() {
            if semisync {
                self.keep_feed(i);
                self.flow_to(i);
            } else {
                self.stream(i);
            }
        }
        for i in 0..self.machines.len() {
            if semisync {
                self.release_acknowledged(i);
            } else {
                self.release(i);
            }
        }
    }

    fn replay(&mut self, i: usize) {
        let now = self.now;
        let db = &mut self.machine(i).db;
        if !db.habits.slow_replay {
            db.replayed = db.flushed;
        } else if now >= db.next_replay && db.replayed < db.flushed {
            db.replayed += 1;
            db.next_replay = now + 40 * MS;
        }
        db.replayed = db.replayed.min(db.log.len());
    }

    /// Commits that the standbys have are done. Any setting will do that some session may still run by.
    fn release(&mut self, i: usize) {
        let names = self.names.clone();
        let index = |n: &NodeName| names.iter().position(|m| m == n);
        let alone = self.cheat == Some(Cheat::CommitsAlone);
        let machine = self.machine(i);
        if !machine.on || machine.frozen || !machine.db.leads() || machine.db.habits.hung {
            return;
        }
        if alone {
            machine.db.released = machine.db.flushed;
        }
        let db = &mut machine.db;
        let mut released = db.released;
        while released < db.log.len() && db.settings.iter().any(|s| db.is_met(s, released + 1, index)) {
            released += 1;
        }
        db.released = released;
    }

    /// The power goes off.
    pub(super) fn power_off(&mut self, i: usize) {
        let kept = if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(0..4) };
        let machine = self.machine(i);
        machine.on = false;
        machine.disk.lose_power();
        machine.db.lose_power(kept);
    }

    /// The database of `i`, if it runs as anything.
    pub(super) fn process(&self, i: usize) -> Process {
        self.machines.get(i).map_or(Process::Stopped, |m| *m.db.process.borrow())
    }
}
