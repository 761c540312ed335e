//! One run: a cluster comes up, a plan happens to it, everything is mended, and the checker looks at what clients saw.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tracing::Level;
use trine_agent::Ports;
use trine_api::Request;
use turmoil::Sim;

use super::cables::Cables;
use super::client::{Client, Notes, Pad, notes};
use super::clock::SimClock;
use super::database::Database;
use super::disk::SimDisk;
use super::fault::{Fault, Plan, Step, Who};
use super::node::{self, Folders, address, name};
use super::operator::{self, Desk};
use super::story::{self, Story};
use super::world::{MS, Machine, Shared, World, lock};
use super::{entropy, verdict};

/// How long the cluster may take to open at first, in milliseconds.
const OPENS: u64 = 30_000;

/// How long it may take to be whole again when everything is mended, in milliseconds: the slowest way is a rebuild after an
/// alarm that takes 30 s to be raised, and a switchover after that.
const RECOVERS: u64 = 120_000;

/// Clients.
const CLIENTS: usize = 3;

thread_local! {
    static NAMES: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// Which node's code runs at the moment.
pub(super) fn whose_turn() -> String {
    let id = Handle::try_current().map(|h| h.id().to_string()).unwrap_or_default();
    NAMES.with_borrow(|names| names.get(&id).cloned().unwrap_or_default())
}

fn my_turn_is(name: String) {
    let id = Handle::current().id().to_string();
    NAMES.with_borrow_mut(|names| names.insert(id, name));
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What must not be; empty: all is well.
    pub failures: Vec<String>,
    /// What happened: the last few thousand lines of it.
    pub story: String,
    /// A number that two runs share only if all that happened in them is the same.
    pub digest: u64,
    /// How many appends were acknowledged.
    pub acknowledged: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// How much time passed in the simulation, in milliseconds.
    pub simulated_ms: u64,
}

/// Runs a plan, on a thread of its own. Only the first run of a process is the same each time: some libraries count what
/// they make, and draw from the count. See [`Lab`](super::Lab).
///
/// # Errors
/// The thread can't be started, or the folders can't be used.
pub(super) fn run(plan: &Plan, folders: &Folders, level: Level) -> io::Result<Outcome> {
    story::install();
    let run = || {
        entropy::seed_thread(plan.seed);
        folders.begin()?;
        let story = Story::default();
        let listening = story.listen(level);
        let ran = catch_unwind(AssertUnwindSafe(|| Simulation::new(plan, folders, &story).run()));
        drop(listening);
        let mut outcome = ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
            Outcome { failures: vec![format!("a panic: {text}")], ..Outcome::default() }
        });
        (outcome.story, outcome.digest) = (story.text(), story.digest());
        Ok(outcome)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(format!("seed {}", plan.seed)).stack_size(8 << 20);
        thread.spawn_scoped(scope, run)?.join().unwrap_or_else(|_| Err(io::Error::other("a run's thread died")))
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failures.iter().try_for_each(|failure| writeln!(f, "FAILURE: {failure}"))?;
        let (acknowledged, epoch, digest) = (self.acknowledged, self.epoch, self.digest);
        let seconds = self.simulated_ms / 1000;
        write!(f, "{acknowledged} commits acknowledged, epoch {epoch}, {seconds} s, story {digest:016x}")
    }
}

struct Simulation<'a> {
    plan: &'a Plan,
    sim: Sim<'a>,
    world: Shared,
    pad: Pad,
    desk: Desk,
    story: Story,
    cables: Cables,
    hosts: Vec<IpAddr>,
    /// What is wrong at the moment, and until when.
    active: Vec<(u64, Step, usize)>,
    /// Whose agents do not run.
    down: BTreeSet<usize>,
}

impl<'a> Simulation<'a> {
    fn new(plan: &'a Plan, folders: &Folders, story: &Story) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed ^ 0x5EED);
        let time = Arc::new(AtomicU64::new(0));
        let machines = (0..plan.nodes)
            .filter_map(|i| {
                let (offset, ppm) = plan.clocks.get(i).copied().unwrap_or_default();
                Some(Machine {
                    name: name(i)?,
                    clock: SimClock::new(time.clone(), Duration::from_secs(offset), ppm),
                    disk: SimDisk::new(rng.random()),
                    db: Database { slow_flush: plan.sync, ..Database::new() },
                    on: true,
                    agent_frozen: false,
                    frozen: false,
                    late_kill: false,
                })
            })
            .collect();
        let mut world = World::new(StdRng::seed_from_u64(rng.random()), machines, time, story.clone());
        world.cheat = plan.cheat;
        let world: Shared = Arc::new(Mutex::new(world));
        let pad: Pad = Arc::new(Mutex::new(Notes::default()));
        let desk: Desk = Arc::new(Mutex::new(VecDeque::new()));
        let mut sim = turmoil::Builder::new()
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(2))
            .repair_rate(0.2)
            .tcp_capacity(4096)
            .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
            .rng_seed(rng.random())
            .build();
        let mut hosts = Vec::new();
        for i in 0..plan.nodes {
            let Some(config) = folders.config(plan, i) else { continue };
            let world = world.clone();
            hosts.push(address(i));
            sim.host(address(i), move || {
                let (config, world) = (config.clone(), world.clone());
                async move {
                    my_turn_is(config.node.to_string());
                    node::run(config, world, i).await
                }
            });
        }
        let ports = Ports::default();
        let doors = |port| (0..plan.nodes).map(|i| SocketAddr::new(address(i), port)).collect::<Vec<_>>();
        // All on one host: each host costs time, and what reaches one client reaches all.
        let client = |number| Client {
            number,
            world: world.clone(),
            pad: pad.clone(),
            writers: doors(ports.writer),
            readers: doors(ports.reader),
            rng: StdRng::seed_from_u64(plan.seed.wrapping_add(number as u64)),
        };
        let clients: Vec<Client> = (0..CLIENTS).map(client).collect();
        let operator = operator::run(desk.clone(), world.clone(), pad.clone(), folders.ca(), plan.nodes);
        let host = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
        hosts.push(host);
        sim.client(host, async move {
            let clients: Vec<_> = clients.into_iter().map(|c| tokio::spawn(c.run())).collect();
            operator.await;
            for client in clients {
                client.await?;
            }
            Ok(())
        });
        let (active, down, cables) = (Vec::new(), BTreeSet::new(), Cables::default());
        Self { plan, sim, world, pad, desk, story: story.clone(), cables, hosts, active, down }
    }

    fn run(mut self) -> Outcome {
        let failures = match self.story_of_the_plan() {
            Ok(()) => verdict::judge(&lock(&self.world), &notes(&self.pad), self.plan),
            Err(why) => {
                let mut failures = lock(&self.world).violations.clone();
                failures.push(why);
                failures
            }
        };
        let acknowledged = notes(&self.pad).appends.iter().filter(|a| a.span.is_answered()).count() as u64;
        let (epoch, now) = {
            let world = lock(&self.world);
            (world.machines.iter().map(|m| m.db.timeline()).max().unwrap_or(0), world.now)
        };
        for failure in &failures {
            self.story.line(now, "world", &format!("FAILURE: {failure}"));
        }
        Outcome { failures, acknowledged, epoch, simulated_ms: now / MS, ..Outcome::default() }
    }

    fn story_of_the_plan(&mut self) -> Result<(), String> {
        self.until(OPENS, |s| notes(&s.pad).served.len() == CLIENTS && verdict::is_whole(&lock(&s.world)))
            .map_err(|()| format!("it does not open: {}", verdict::condition(&lock(&self.world))))?;
        let opened = lock(&self.world).now;
        let mut steps: VecDeque<Step> = self.plan.steps.iter().copied().collect();
        let end = opened + self.plan.length() * MS;
        while lock(&self.world).now < end {
            let now = lock(&self.world).now;
            while let Some(step) = steps.front().copied().filter(|s| opened + s.at * MS <= now) {
                steps.pop_front();
                self.begin(step);
            }
            self.over(now);
            self.tick()?;
        }
        lock(&self.world).tell("everything is mended");
        self.over(u64::MAX);
        self.sim.set_fail_rate(0.0);
        self.cables.mend(&self.sim);
        let mended = lock(&self.world).now;
        self.until(RECOVERS, |s| {
            let served = notes(&s.pad).served.values().filter(|asked| **asked > mended).count();
            served == CLIENTS && verdict::is_whole(&lock(&s.world))
        })
        .map_err(|()| format!("it does not come back: {}", verdict::condition(&lock(&self.world))))?;
        notes(&self.pad).stop = true;
        let quiet = |s: &mut Self| verdict::is_equal(&lock(&s.world));
        self.until(10_000, quiet).map_err(|()| "the copies do not become equal".to_owned())
    }

    /// Ticks until something is so.
    fn until(&mut self, ms: u64, so: impl Fn(&mut Self) -> bool) -> Result<(), ()> {
        let end = lock(&self.world).now + ms * MS;
        while !so(self) {
            if lock(&self.world).now > end || self.tick().is_err() {
                return Err(());
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), String> {
        let now = {
            let mut world = lock(&self.world);
            world.tick();
            world.now
        };
        self.story.at(now);
        entropy::set_time(now);
        self.sim.step().map(|_| ()).map_err(|e| format!("the simulation ends: {e}"))
    }

    fn who(&self, who: Who) -> usize {
        let world = lock(&self.world);
        let leading = world.machines.iter().enumerate().filter(|(_, m)| m.db.leads());
        let primary = leading.max_by_key(|(_, m)| m.db.epoch).map_or(0, |(i, _)| i);
        match who {
            Who::Node(i) => i,
            Who::Primary => primary,
            Who::Standby(k) => (primary + 1 + k % (self.plan.nodes - 1)) % self.plan.nodes,
        }
    }

    fn begin(&mut self, step: Step) {
        use Fault::{
            AgentFrozen, AgentKilled, AgentsCut, AllOff, DatabaseHangs, DatabaseKilled, Deaf, DiskFull, DiskHangs,
            DiskSlow, Failover, Isolated, Lossy, MachineFrozen, Mute, OneWay, Pair, Paused, PowerOff, Rebuild,
            RefusesStart, SlowNetwork, SlowReplay, Switchover, WaitsCancelled, WallClock, Wiped,
        };
        let i = match step.fault {
            PowerOff(who)
            | Wiped(who)
            | AgentKilled(who)
            | AgentFrozen(who)
            | MachineFrozen(who)
            | DatabaseKilled(who)
            | DatabaseHangs(who)
            | DiskSlow(who, _)
            | DiskHangs(who)
            | DiskFull(who)
            | SlowReplay(who)
            | RefusesStart(who, _)
            | WallClock(who, _)
            | Isolated(who)
            | Deaf(who)
            | Mute(who) => self.who(who),
            _ => 0,
        };
        let text = format!("FAULT for {} ms: {:?} (n{})", step.lasts, step.fault, i + 1);
        let now = {
            let world = lock(&self.world);
            world.tell(text);
            world.now
        };
        match step.fault {
            PowerOff(_) | Wiped(_) => self.power_off(i),
            AllOff(last, later) => {
                (0..self.plan.nodes).for_each(|i| self.power_off(i));
                // The last one is as if its own power had gone off for longer.
                let step = Step { lasts: step.lasts + later, fault: PowerOff(last), ..step };
                self.active.push((now + step.lasts * MS, step, i));
            }
            AgentKilled(_) => self.agent_down(i),
            DatabaseKilled(_) => lock(&self.world).machine(i).db.kill(),
            RefusesStart(_, times) => {
                let mut world = lock(&self.world);
                let db = &mut world.machine(i).db;
                db.habits.refuses = times;
                db.kill();
            }
            WaitsCancelled => {
                for machine in &mut lock(&self.world).machines {
                    machine.db.shown = machine.db.log.len();
                }
            }
            WallClock(_, by) => lock(&self.world).machine(i).clock.set_wall(by),
            Lossy(permille) => self.sim.set_fail_rate(f64::from(permille) / 1000.0),
            Switchover(to) => self.ask(Request::Switchover { to: to.and_then(name) }),
            Failover => self.ask(Request::Failover { to: None }),
            Rebuild(node) => {
                if let Some(node) = name(node) {
                    self.ask(Request::Rebuild { node });
                }
            }
            Paused => self.ask(Request::Pause { reason: "a simulation".to_owned() }),
            AgentFrozen(_) | MachineFrozen(_) | DatabaseHangs(_) | DiskSlow(..) | DiskHangs(_) | DiskFull(_)
            | SlowReplay(_) | Isolated(_) | Deaf(_) | Mute(_) | AgentsCut(_) | Pair(..) | OneWay(..)
            | SlowNetwork(_) => {}
        }
        self.active.push((now + step.lasts * MS, step, i));
        self.settle();
    }

    fn ask(&self, request: Request) {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner).push_back(request);
    }

    /// What has lasted long enough ends.
    fn over(&mut self, now: u64) {
        let (over, active): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.active).into_iter().partition(|(u, ..)| *u <= now);
        self.active = active;
        if over.is_empty() {
            return;
        }
        for (_, step, i) in over {
            lock(&self.world).tell(format!("over: {:?} (n{})", step.fault, i + 1));
            match step.fault {
                Fault::PowerOff(_) => self.power_on(i),
                Fault::Wiped(_) => {
                    let wiped = {
                        let mut world = lock(&self.world);
                        let machine = world.machine(i);
                        // Somebody else may have switched it on meanwhile.
                        let off = !machine.on;
                        if off {
                            machine.disk.wipe();
                            machine.db.wipe();
                        }
                        off
                    };
                    if wiped {
                        self.power_on(i);
                    }
                }
                Fault::AllOff(..) => (0..self.plan.nodes).filter(|k| *k != i).for_each(|i| self.power_on(i)),
                Fault::AgentKilled(_) => self.agent_up(i),
                Fault::Lossy(_) => {
                    self.sim.set_fail_rate(0.0);
                    self.cables.mend(&self.sim);
                }
                Fault::RefusesStart(..) => lock(&self.world).machine(i).db.habits.refuses = 0,
                Fault::Paused => self.ask(Request::Resume),
                _ => {}
            }
        }
        self.settle();
    }

    /// What lasts is as what is active says.
    fn settle(&mut self) {
        let mut world = lock(&self.world);
        let faults: Vec<(Fault, usize)> = self.active.iter().map(|(_, s, i)| (s.fault, *i)).collect();
        let any = |i: usize, is: fn(Fault) -> bool| faults.iter().any(|(f, k)| *k == i && is(*f));
        let mut still = BTreeSet::new();
        for i in 0..self.plan.nodes {
            let agent = any(i, |f| matches!(f, Fault::AgentFrozen(_)));
            let machine = any(i, |f| matches!(f, Fault::MachineFrozen(_)));
            let hung = any(i, |f| matches!(f, Fault::DatabaseHangs(_) | Fault::DiskHangs(_)));
            let full = any(i, |f| matches!(f, Fault::DiskFull(_)));
            let slow = faults.iter().filter_map(|(f, k)| match f {
                Fault::DiskSlow(_, ms) if *k == i => Some(*ms),
                _ => None,
            });
            let slow = slow.max().unwrap_or(1);
            let m = world.machine(i);
            if (agent || machine) != (m.agent_frozen || m.frozen) {
                m.clock.freeze(agent || machine);
            }
            (m.agent_frozen, m.frozen) = (agent, machine);
            m.db.habits.hung = hung;
            m.db.habits.full = full;
            m.db.habits.slow_replay = any(i, |f| matches!(f, Fault::SlowReplay(_)));
            m.db.slow_flush = slow.max(self.plan.sync);
            m.disk.set_full(full);
            m.disk.set_slowness(if any(i, |f| matches!(f, Fault::DiskHangs(_))) { None } else { Some(slow) });
            if agent || machine {
                still.insert(address(i));
            }
        }
        let nodes = self.plan.nodes;
        let mut cut: BTreeSet<(usize, usize)> = BTreeSet::new();
        // Between the agents only.
        let mut apart: BTreeSet<(usize, usize)> = BTreeSet::new();
        // Clients are behind the same cables as the other nodes.
        let all = 0..self.hosts.len();
        for (fault, i) in &faults {
            match *fault {
                Fault::Isolated(_) => {
                    cut.extend(all.clone().filter(|k| k != i).flat_map(|k| [(*i, k), (k, *i)]));
                }
                Fault::Deaf(_) => cut.extend(all.clone().filter(|k| k != i).map(|k| (k, *i))),
                Fault::Mute(_) => cut.extend(all.clone().filter(|k| k != i).map(|k| (*i, k))),
                Fault::AgentsCut(_) => apart.extend((0..nodes).filter(|k| k != i).flat_map(|k| [(*i, k), (k, *i)])),
                Fault::Pair(a, b) => cut.extend([(a, b), (b, a)]),
                Fault::OneWay(a, b) => cut.extend([(a, b)]),
                _ => {}
            }
        }
        let host = |k: usize| self.hosts.get(k).copied();
        let wires = cut.iter().chain(&apart).filter_map(|(a, b)| Some((host(*a)?, host(*b)?))).collect();
        world.cut = cut.into_iter().filter(|(a, b)| *a < nodes && *b < nodes).collect();
        let slowest = faults.iter().filter_map(|(f, _)| match f {
            Fault::SlowNetwork(ms) => Some(*ms),
            _ => None,
        });
        let slowest = slowest.max().unwrap_or(2);
        world.slowest = slowest * 1000;
        drop(world);
        self.sim.set_max_message_latency(Duration::from_millis(slowest));
        self.cables.set(&self.sim, &self.hosts, &wires, &still);
    }

    fn power_off(&mut self, i: usize) {
        self.agent_down(i);
        lock(&self.world).power_off(i);
    }

    fn power_on(&mut self, i: usize) {
        lock(&self.world).machine(i).on = true;
        self.agent_up(i);
    }

    fn agent_down(&mut self, i: usize) {
        if self.down.insert(i) {
            self.sim.crash(address(i));
        }
    }

    fn agent_up(&mut self, i: usize) {
        let on = lock(&self.world).machine(i).on;
        if on && self.down.remove(&i) {
            self.sim.bounce(address(i));
        }
    }
}
