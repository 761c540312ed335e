//! What the small world is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proptest::prelude::*;
use trine_protocol::{
    Change, Controller, Copy, Durability, Epoch, Grant, Heard, Lease, Moment, NodeName, Position, Repair, Report,
    SyncRule, SyncSetting, Voter,
};

pub(crate) const LEASE_MS: u64 = 400;
pub(crate) const SUSPECT_MS: u64 = 240;
pub(crate) const GRACE_MS: u64 = 300;
/// How much time a round takes.
pub(crate) const ROUND_MS: u64 = 50;

/// One entry of a database's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) epoch: Epoch,
    pub(crate) id: u32,
    /// The row that names the epoch.
    pub(crate) barrier: bool,
}

/// A log's own numbering before any epoch (PostgreSQL: a fresh copy is on timeline 1).
pub(crate) const BEFORE: Epoch = Epoch(1);

/// The position that a log proves: nothing beside the log says which epoch it is of.
pub(crate) fn position_of(log: &[Entry]) -> Position {
    let epoch = log.iter().rev().find(|e| e.barrier).map_or(Epoch::ZERO, |e| e.epoch);
    Position { epoch, offset: log.len() as u64 }
}

/// A clock with its own offset and rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) offset_ms: u64,
    /// How much faster than true time it runs, in parts of a million.
    pub(crate) ppm: i64,
}

impl Clock {
    /// What it shows at the true time `t`, in nanoseconds.
    pub(crate) fn at(self, t: u64) -> Moment {
        let drift = i128::from(t) * i128::from(self.ppm) / 1_000_000;
        let shown = i128::from(self.offset_ms) * 1_000_000 + i128::from(t) + drift;
        Moment::from_nanos(u64::try_from(shown).unwrap())
    }
}

/// One machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) clock: Clock,
    /// On disk: the promise, the copy, how much of its log is flushed.
    pub(crate) promise: Epoch,
    pub(crate) log: Vec<Entry>,
    pub(crate) flushed: usize,
    pub(crate) copy: Copy,
    /// The oldest state that it may see: where it joined. `None`: wiped, and not yet back in consensus.
    pub(crate) joined: Option<usize>,
    /// The view that it had when its agent stopped.
    pub(crate) seen: usize,
    pub(crate) db: Db,
    pub(crate) agent: Option<Agent>,
}

/// What the database does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Db {
    Stopped,
    Sealed,
    Following { epoch: Epoch, primary: usize },
    Primary(Prime),
}

/// A database that is a primary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prime {
    pub(crate) epoch: Epoch,
    /// The length of the log when its first barrier was in it: all that is visible from the start.
    pub(crate) base: usize,
    /// What a commit may be waiting for by now: the engine is on its way from the first to the last.
    pub(crate) settings: Vec<SyncSetting>,
    /// How far each node says that it has the log durably.
    pub(crate) acks: Vec<usize>,
    /// The barrier under way: for which rule, and its place.
    pub(crate) barrier: Option<(SyncRule, usize)>,
    /// When the guard ends it.
    pub(crate) guard: Moment,
}

/// What an agent has in memory.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) voter: Voter,
    pub(crate) view: usize,
    pub(crate) lease: Option<Lease>,
    pub(crate) sealed: Option<(Epoch, Option<Position>)>,
    pub(crate) led: Option<Epoch>,
    pub(crate) failed: Option<(Epoch, String)>,
    pub(crate) yielded: Option<Epoch>,
    pub(crate) needs: Option<Repair>,
    pub(crate) work: Option<Work>,
    pub(crate) controller: Controller,
    pub(crate) heard: BTreeMap<NodeName, Heard>,
}

/// A repair under way: the primary's log was read up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) repair: Repair,
    pub(crate) epoch: Epoch,
    pub(crate) upto: usize,
}

/// What is on its way.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Renew { from: usize, to: usize, epoch: Epoch, sent: Moment },
    Granted { from: usize, to: usize, epoch: Epoch, sent: Moment, grant: Grant },
    Release { from: usize, to: usize, epoch: Epoch },
    Report { from: usize, to: usize, report: Box<Report> },
    Ack { from: usize, to: usize, epoch: Epoch, length: usize },
    Propose { by: usize, change: Box<Change> },
}

/// A safeguard that is taken away, to see that the tests would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    PositionBeforeCut,
    LeaseNotWaitedOut,
    OldRuleDroppedAtOnce,
    GuardingForgotten,
    IncompleteCounts,
    OpenWithoutBarrier,
    DataEpochIgnored,
    NoMajorityOfPromises,
    StaleRuleRuns,
    FollowWhileRebuilding,
    PrimaryRestartedInPlace,
    ReleaseWhileServing,
    BarrierBeforeSetting,
    PromiseNotOnDisk,
    RestartForgetsLeases,
    LeaseFromTheAnswer,
    AcksBeforeFlush,
    NoRebuildWhenStuck,
    BootstrapFromOldView,
    WipedVoterDoesNotAsk,
    LeadsWithLess,
}

/// How a world begins.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) clocks: Vec<Clock>,
    pub(crate) priorities: Vec<u32>,
    pub(crate) acks: usize,
    pub(crate) durability: Durability,
    pub(crate) mutant: Mutant,
    /// Clocks keep to the bound, so leases are checked too.
    pub(crate) bounded: bool,
}

impl fmt::Debug for Setup {
    /// In one line, also where a failed test asks for many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clocks: Vec<(u64, i64)> = self.clocks.iter().map(|c| (c.offset_ms, c.ppm)).collect();
        let text = format!("clocks {clocks:?}, priorities {:?}, acks {}", self.priorities, self.acks);
        write!(f, "{text}, {:?}, {:?}", self.durability, self.mutant)
    }
}

/// What happens, in order.
#[derive(Clone)]
pub(crate) struct History(pub(crate) Vec<Action>);

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(", "))
    }
}

/// A point that the world runs to, if nothing is in the way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point {
    /// An epoch is vacant.
    Vacant,
    /// And someone's position has been read.
    Sealed,
    /// It has its primary.
    Elected,
    /// Whose database is promoted.
    Promoted,
    /// A sync rule is to change.
    Changing,
    /// The engine is on its way to it.
    Setting,
    /// A copy is under repair.
    Repairing,
    /// Clients can write.
    Open,
}

/// One thing that happens. Nodes and messages are numbers, taken modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Rounds(u8),
    Until(Point),
    Tick(u8),
    See(u8, u8),
    Renew(u8),
    Tell(u8, u8),
    Control(u8),
    Deliver(u16),
    Drop(u16),
    Duplicate(u16),
    /// It is held up, for any time.
    Hold(u16),
    /// One that was held up arrives, and may arrive again.
    Late(u16),
    Advance(u16),
    Write(u8),
    Flush(u8),
    Replicate(u8, u8),
    KillDatabase(u8),
    KillAgent(u8),
    Crash(u8, u8),
    Start(u8, u8),
    StartAll,
    Cut(u8, u8),
    Isolate(u8),
    Mend,
    /// No other node gets a connection to the primary's database; all agents reach each other.
    UnreachPrimary,
    /// Or to this one's.
    Unreach(u8),
    LoseData(u8),
    /// Half of its log is lost.
    TearData(u8),
    Wipe(u8),
    Switchover(Option<u8>),
    Failover(Option<u8>, bool),
    Rebuild(u8),
    /// The primary's machine crashes, whichever it is.
    CrashPrimary,
    /// The primary is cut off from all others.
    IsolatePrimary,
    /// An agent stops where it is; its database goes on.
    Freeze(u8),
    FreezePrimary,
    Thaw,
    /// A link to the primary is cut, in one direction or the other.
    CutPrimary(u8, bool),
    /// A standby of the primary is to be rebuilt.
    RebuildStandby(u8),
    /// The latest proposal is held up.
    HoldProposal,
    /// The sync rule is to be this standby's, and those after it: as a controller might say that hears nobody else.
    ChooseStandby(u8),
    /// Rounds that take no time.
    Spin(u8),
    /// All that is on its way arrives, and the answers to it.
    DeliverAll,
}

fn point() -> impl Strategy<Value = Point> {
    prop_oneof![
        Just(Point::Vacant),
        Just(Point::Sealed),
        Just(Point::Elected),
        Just(Point::Promoted),
        Just(Point::Changing),
        Just(Point::Setting),
        Just(Point::Repairing),
        Just(Point::Open),
    ]
}

pub(crate) fn action() -> impl Strategy<Value = Action> {
    let n = 0..5u8;
    prop_oneof![
        6 => (1..12u8).prop_map(Action::Rounds),
        14 => point().prop_map(Action::Until),
        4 => n.clone().prop_map(Action::Tick),
        3 => (n.clone(), 0..6u8).prop_map(|(n, k)| Action::See(n, k)),
        2 => n.clone().prop_map(Action::Renew),
        3 => (n.clone(), n.clone()).prop_map(|(n, k)| Action::Tell(n, k)),
        3 => n.clone().prop_map(Action::Control),
        3 => any::<u16>().prop_map(Action::Deliver),
        2 => any::<u16>().prop_map(Action::Drop),
        2 => any::<u16>().prop_map(Action::Duplicate),
        4 => any::<u16>().prop_map(Action::Hold),
        4 => any::<u16>().prop_map(Action::Late),
        3 => (1..600u16).prop_map(Action::Advance),
        5 => n.clone().prop_map(Action::Write),
        2 => n.clone().prop_map(Action::Flush),
        4 => (n.clone(), 1..4u8).prop_map(|(n, k)| Action::Replicate(n, k)),
        2 => n.clone().prop_map(Action::KillDatabase),
        2 => n.clone().prop_map(Action::KillAgent),
        2 => (n.clone(), 0..3u8).prop_map(|(n, k)| Action::Crash(n, k)),
        5 => (n.clone(), 0..12u8).prop_map(|(n, k)| Action::Start(n, k)),
        2 => Just(Action::StartAll),
        2 => (n.clone(), n.clone()).prop_map(|(n, k)| Action::Cut(n, k)),
        2 => n.clone().prop_map(Action::Isolate),
        4 => Just(Action::Mend),
        3 => Just(Action::UnreachPrimary),
        1 => n.clone().prop_map(Action::Unreach),
        1 => n.clone().prop_map(Action::LoseData),
        1 => n.clone().prop_map(Action::TearData),
        1 => n.clone().prop_map(Action::Wipe),
        1 => proptest::option::of(n.clone()).prop_map(Action::Switchover),
        1 => (proptest::option::of(n.clone()), prop::bool::weighted(0.1)).prop_map(|(n, l)| Action::Failover(n, l)),
        1 => n.clone().prop_map(Action::Rebuild),
        3 => Just(Action::CrashPrimary),
        3 => Just(Action::IsolatePrimary),
        1 => n.clone().prop_map(Action::Freeze),
        3 => Just(Action::FreezePrimary),
        3 => Just(Action::Thaw),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, d)| Action::CutPrimary(n, d)),
        2 => n.clone().prop_map(Action::RebuildStandby),
        2 => Just(Action::HoldProposal),
        3 => n.clone().prop_map(Action::ChooseStandby),
        2 => Just(Action::DeliverAll),
        3 => (1..6u8).prop_map(Action::Spin),
    ]
}

/// Any cluster of `nodes`, whose clocks' rates are off by at most `ppm`.
pub(crate) fn setup(nodes: usize, ppm: i64, mutant: Mutant) -> impl Strategy<Value = Setup> {
    let clock = (0..5_000u64, prop_oneof![Just(-ppm), Just(ppm), -ppm..=ppm])
        .prop_map(|(offset_ms, ppm)| Clock { offset_ms, ppm });
    let priority = prop_oneof![1 => Just(0u32), 5 => Just(100), 2 => 1..200u32];
    let durability = prop_oneof![3 => Just(Durability::Strict), 1 => Just(Durability::Available)];
    (proptest::collection::vec(clock, nodes), proptest::collection::vec(priority, nodes), durability).prop_map(
        move |(clocks, mut priorities, durability)| {
            // Somebody may lead, whichever minority is away.
            let able: BTreeSet<usize> = (0..nodes).filter(|i| priorities[*i] > 0).collect();
            for (i, p) in priorities.iter_mut().enumerate() {
                if able.len() <= nodes / 2 && !able.contains(&i) {
                    *p = 50;
                }
            }
            Setup { clocks, priorities, acks: nodes / 2, durability, mutant, bounded: ppm < 10_000 }
        },
    )
}
