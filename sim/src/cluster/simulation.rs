//! One run: a cluster comes up, a plan happens to it, everything is mended, and the checker looks at what clients saw.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tracing::Level;
use trine_agent::Ports;
use turmoil::Sim;

use super::cables::Cables;
use super::client::{Client, Notes, Pad, notes};
use super::clock::SimClock;
use super::database::Database;
use super::disk::SimDisk;
use super::fault::{Plan, Step};
use super::node::{self, Folders, address, name};
use super::operator::{self, Desk};
use super::semisync::epoch_of_log;
use super::story::{self, Story};
use super::world::{MS, Machine, Shared, World, lock};
use super::{entropy, verdict};

/// How long the cluster may take to open at first, in milliseconds.
const OPENS: u64 = 30_000;

/// How long it may take to be whole again when everything is mended, in milliseconds: the slowest way is a rebuild after an
/// alarm that takes 30 s to be raised, and a switchover after that.
const RECOVERS: u64 = 120_000;

/// What a step of turmoil is, in milliseconds: half as many steps take little more than half the time.
const TICK: u64 = 2;

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

pub(super) struct Simulation<'a> {
    pub(super) plan: &'a Plan,
    pub(super) sim: Sim<'a>,
    pub(super) world: Shared,
    pub(super) pad: Pad,
    pub(super) desk: Desk,
    pub(super) story: Story,
    pub(super) cables: Cables,
    pub(super) hosts: Vec<IpAddr>,
    /// What is wrong at the moment, and until when.
    pub(super) active: Vec<(u64, Step, usize)>,
    /// Whose agents do not run.
    pub(super) down: BTreeSet<usize>,
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
                    agent_up: true,
                    agent_frozen: false,
                    frozen: false,
                    late_kill: false,
                })
            })
            .collect();
        let mut world = World::new(StdRng::seed_from_u64(rng.random()), machines, time, story.clone());
        world.cheat = plan.cheat;
        world.product = plan.product;
        let world: Shared = Arc::new(Mutex::new(world));
        let pad: Pad = Arc::new(Mutex::new(Notes::default()));
        let desk: Desk = Arc::new(Mutex::new(VecDeque::new()));
        let mut sim = turmoil::Builder::new()
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(Duration::from_millis(TICK))
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
            let epoch = |db: &Database| match self.plan.product.is_semisync() {
                true => epoch_of_log(&db.log),
                false => db.timeline(),
            };
            (world.machines.iter().map(|m| epoch(&m.db)).max().unwrap_or(0), world.now)
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
            (0..TICK).for_each(|_| world.tick());
            world.now
        };
        self.story.at(now);
        entropy::set_time(now);
        self.sim.step().map(|_| ()).map_err(|e| format!("the simulation ends: {e}"))
    }
}
