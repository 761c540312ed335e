//! What goes wrong, and when: drawn from a seed before the run begins, so that it can be told, shortened and had again.

use std::fmt;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::product::Product;

/// Whom a fault hits. The last two are looked up when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// This node.
    Node(usize),
    /// The node whose database is the newest primary.
    Primary,
    /// Another one than that.
    Standby(usize),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The power goes off, and comes back.
    PowerOff(Who),
    /// Of all, at once; this one comes back so many milliseconds after the others.
    AllOff(Who, u64),
    /// The power goes off, and the machine comes back with new disks.
    Wiped(Who),
    /// SIGKILL of the agent; it is started again.
    AgentKilled(Who),
    /// The agent gets no processor time; its guard and its database do.
    AgentFrozen(Who),
    /// Nothing on the machine gets any.
    MachineFrozen(Who),
    /// SIGKILL of the database.
    DatabaseKilled(Who),
    /// The database does not move.
    DatabaseHangs(Who),
    /// The disk takes up to so many milliseconds for a call.
    DiskSlow(Who, u64),
    /// No call comes back.
    DiskHangs(Who),
    /// Nothing can be written.
    DiskFull(Who),
    /// The standby applies the log slowly.
    SlowReplay(Who),
    /// The database refuses to start, so many times.
    RefusesStart(Who, u32),
    /// Somebody cancels the commits that wait.
    WaitsCancelled,
    /// The wall clock is set wrong by so many milliseconds.
    WallClock(Who, i64),
    /// Nothing gets in or out.
    Isolated(Who),
    /// Nothing gets in.
    Deaf(Who),
    /// Nothing gets out.
    Mute(Who),
    /// No other agent is reached, nor does any reach this one; clients and the databases' streams do.
    AgentsCut(Who),
    /// No database reaches this one's, nor does it reach any; agents and clients do.
    ReplicationCut(Who),
    /// These two lose only each other.
    Pair(usize, usize),
    /// Nothing gets from the first to the second.
    OneWay(usize, usize),
    /// Packets take up to so many milliseconds.
    SlowNetwork(u64),
    /// Of a thousand packets so many break a link for a while.
    Lossy(u32),
    /// A person asks for a switchover, to anybody or to this node.
    Switchover(Option<usize>),
    /// A person asks for a failover.
    Failover,
    /// A person asks for this node's copy to be made anew.
    Rebuild(usize),
    /// A person pauses automatic repair, and resumes it.
    Paused,
}

/// One thing of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, in milliseconds since the cluster first opened.
    pub at: u64,
    /// How long, in milliseconds.
    pub lasts: u64,
    /// What.
    pub fault: Fault,
}

/// A database that does not do what trine asks of it: the checkers must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cheat {
    /// Commits wait for nobody but the primary's own disk.
    CommitsAlone,
    /// A standby says that it has on disk what it has only received.
    ConfirmsUnsynced,
    /// The last node, as a sealed standby, goes on taking the log.
    StreamsOn,
    /// The acknowledgement of any standby counts, whomever the rule names. (This and those below are of MariaDB and MySQL.)
    AnybodyAcknowledges,
    /// The open barrier is written though nobody is there to acknowledge it.
    BarrierAtOnce,
    /// What a standby has received and not applied is thrown away when it is promoted.
    DropsReceived,
    /// The same, when it is started again.
    ForgetsReceived,
    /// What a lost primary had not committed is cut off, and not set aside (MariaDB).
    DropsTail,
    /// Nobody looks whether a lost primary's log parts from the new one's.
    TailUnnoticed,
}

/// A cluster and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Of everything that is not in the plan: latencies, durations, order.
    pub seed: u64,
    /// Whose habits the databases have.
    #[serde(default)]
    pub product: Product,
    /// How many nodes.
    pub nodes: usize,
    /// How many standbys must have a commit.
    pub acks: usize,
    /// Goes on alone when there are too few, after the grace.
    pub available: bool,
    /// Each node's priority.
    pub priorities: Vec<u32>,
    /// Each node's clock: what it showed at the beginning, in seconds, and its error, in millionths.
    pub clocks: Vec<(u64, i64)>,
    /// What a sync of a database's disk takes at most, in milliseconds.
    pub sync: u64,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What its databases do wrong, to see whether that is noticed.
    pub cheat: Option<Cheat>,
}

/// How long a plan goes on after its last fault is over, in milliseconds.
const AFTER: u64 = 300;

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let nodes = if rng.random_bool(0.15) { 5 } else { 3 };
        let acks = if rng.random_bool(0.2) { 2 } else { 1 };
        let priority = |rng: &mut StdRng| match rng.random_range(0..10) {
            0 => 0,
            1 => 50,
            _ => 100,
        };
        let mut priorities: Vec<u32> = (0..nodes).map(|_| priority(rng)).collect();
        if priorities.iter().all(|p| *p == 0) {
            priorities = vec![100; nodes];
        }
        // Within the bound that leases allow for: 1 %.
        let clocks = (0..nodes).map(|_| (rng.random_range(0..1_000_000), rng.random_range(-9_900..=9_900))).collect();
        let sync = if rng.random_bool(0.2) { rng.random_range(10..80) } else { 3 };
        let mut at = 0;
        let available = rng.random_bool(0.15);
        // What a primary alone has is lost with it: whoever goes on alone accepts that.
        let mut wiped = available;
        let mut steps: Vec<Step> = (0..rng.random_range(2..=9))
            .map(|_| {
                at += if rng.random_bool(0.3) { rng.random_range(0..100) } else { rng.random_range(0..3000) };
                let lasts = match rng.random_range(0..3) {
                    0 => rng.random_range(10..400),
                    1 => rng.random_range(400..2500),
                    _ => rng.random_range(1000..7000),
                };
                let fault = loop {
                    let fault = draw(nodes, rng);
                    // One copy may be lost; two would be more than any rule can make up for.
                    if !matches!(fault, Fault::Wiped(_)) || !std::mem::replace(&mut wiped, true) {
                        break fault;
                    }
                };
                Step { at, lasts, fault }
            })
            .collect();
        steps.extend(replication_cut(seed, nodes));
        steps.sort_by_key(|s| s.at);
        let product = Product::Postgres;
        Self { seed, product, nodes, acks, available, priorities, clocks, sync, steps, cheat: None }
    }

    /// The same with databases of this product. MariaDB and MySQL are made to wait for one acknowledgement only.
    #[must_use]
    pub fn with(self, product: Product) -> Self {
        let acks = if product.is_semisync() { 1 } else { self.acks };
        Self { product, acks, ..self }
    }

    /// When the last of it is over, in milliseconds.
    #[must_use]
    pub fn length(&self) -> u64 {
        let end = |s: &Step| match s.fault {
            Fault::AllOff(_, later) => s.at + s.lasts + later,
            _ => s.at + s.lasts,
        };
        self.steps.iter().map(end).max().unwrap_or(0) + AFTER
    }
}

/// What some plans have besides, drawn on its own, so that the others are as they were before there was this fault. It has to
/// last for some seconds to be more than a hiccup.
fn replication_cut(seed: u64, nodes: usize) -> Option<Step> {
    let rng = &mut StdRng::seed_from_u64(seed ^ 0x7265_706c);
    let who = if rng.random_bool(0.8) { Who::Primary } else { Who::Node(rng.random_range(0..nodes)) };
    let step =
        Step { at: rng.random_range(0..8000), lasts: rng.random_range(500..14_000), fault: Fault::ReplicationCut(who) };
    rng.random_bool(0.25).then_some(step)
}

fn draw(nodes: usize, rng: &mut StdRng) -> Fault {
    let who = match rng.random_range(0..4) {
        0 => Who::Node(rng.random_range(0..nodes)),
        1 => Who::Standby(rng.random_range(0..nodes)),
        _ => Who::Primary,
    };
    let node = rng.random_range(0..nodes);
    let other = (node + rng.random_range(1..nodes)) % nodes;
    match rng.random_range(0..33) {
        0 | 1 => Fault::PowerOff(who),
        2 => Fault::AllOff(who, rng.random_range(0..6000)),
        3 => Fault::Wiped(who),
        4 | 5 => Fault::AgentKilled(who),
        6 | 7 => Fault::AgentFrozen(who),
        8 | 9 => Fault::MachineFrozen(who),
        10 => Fault::DatabaseKilled(who),
        11 => Fault::DatabaseHangs(who),
        12 => Fault::DiskSlow(who, rng.random_range(5..300)),
        13 => Fault::DiskHangs(who),
        14 => Fault::DiskFull(who),
        15 => Fault::SlowReplay(who),
        16 => Fault::RefusesStart(who, rng.random_range(1..8)),
        17 => Fault::WaitsCancelled,
        18 => Fault::WallClock(who, rng.random_range(-100_000..100_000)),
        19 | 20 => Fault::Isolated(who),
        21 => Fault::Deaf(who),
        22 => Fault::Mute(who),
        23 => Fault::Pair(node, other),
        24 => Fault::OneWay(node, other),
        25 => match rng.random_bool(0.5) {
            true => Fault::SlowNetwork(rng.random_range(5..200)),
            false => Fault::Lossy(rng.random_range(1..20)),
        },
        26 | 27 => Fault::Switchover(rng.random_bool(0.5).then_some(node)),
        28 => Fault::Failover,
        29..=31 => Fault::AgentsCut(who),
        _ => match rng.random_bool(0.6) {
            true => Fault::Rebuild(node),
            false => Fault::Paused,
        },
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:>6} ms for {:>5} ms: {:?}", self.at, self.lasts, self.fault)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, acks) = (self.nodes, self.acks);
        let of = if self.product.is_semisync() { format!(" of {}", self.product) } else { String::new() };
        let durability = if self.available { "available" } else { "strict" };
        writeln!(
            f,
            "seed {}{of}: {n} nodes, {acks} of the standbys, {durability}, priorities {:?}",
            self.seed, self.priorities
        )?;
        self.steps.iter().try_for_each(|s| writeln!(f, "  {s}"))
    }
}
