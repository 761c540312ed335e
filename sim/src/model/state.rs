//! Everything that there is at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use trine_protocol::{ClusterState, Copy, Epoch, Lease, Moment, Position, Repair, SyncRule, SyncSetting, Voter};

use super::log::Log;
use super::scope::Budget;
use super::{Cluster, Message};

/// A state of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The replicated state after each command that some node may not have seen yet, oldest first.
    pub(super) history: Vec<Arc<Committed>>,
    pub(super) nodes: Vec<Node>,
    /// On their way to consensus: each arrives at any time, or never.
    pub(super) proposals: BTreeSet<Proposal>,
    /// What each node has last said about the seal of the present epoch. It may be old.
    pub(super) told: [Option<Told>; NODES],
    /// Between agents, about leases.
    pub(super) messages: BTreeSet<Message>,
    /// True time, in nanoseconds.
    pub(super) t: u64,
    /// What may still happen.
    pub(super) left: Budget,
    /// The longest log of which a client was told, or has seen, the end.
    pub(super) committed: Log,
    /// What each primary had when it was promoted.
    pub(super) bases: Arc<BTreeMap<u8, Log>>,
    /// Epochs that have opened: only in those has a client been told or shown anything.
    pub(super) opened: Epochs,
    /// Epochs for which a person has accepted loss.
    pub(super) lossy: Epochs,
    /// What went wrong.
    pub(super) broken: Option<Broken>,
}

/// No search has more nodes.
pub(super) const NODES: usize = 5;

/// A set of epochs: bits. A search does not get to the 64th.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Epochs(u64);

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A primary begins without what was acknowledged, or something is acknowledged that a later primary has not.
    Lost,
    /// Two logs were acknowledged of which neither is a part of the other.
    Contradicted,
    /// An epoch has had two primaries.
    TwoPrimaries,
    /// Two nodes serve at the same time.
    TwoServe,
    /// A node serves that misses what was acknowledged.
    StaleRead,
}

/// A replicated state with its digest, so that the many states that share it need not hash it again.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub(super) state: ClusterState,
    digest: u64,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    /// On disk: the promise, the copy, how much of its log is flushed.
    pub(super) promise: u8,
    pub(super) log: Log,
    pub(super) flushed: u8,
    pub(super) copy: Copy,
    /// It is a member of the group that keeps the replicated state; a wiped machine is not until it has asked.
    pub(super) joined: bool,
    /// How much of the history it has seen.
    pub(super) view: usize,
    pub(super) db: Db,
    pub(super) agent: Option<Agent>,
}

/// What the database does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Db {
    Stopped,
    Sealed,
    Following { epoch: u8, primary: usize },
    Primary(Prime),
}

/// A database that is a primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prime {
    pub(super) epoch: u8,
    /// The length of the log when its first barrier was in it: all that is visible from the start.
    pub(super) base: u8,
    /// What a commit waits for.
    pub(super) setting: Setting,
    /// What it may be waiting for still: the engine is on its way from this one.
    pub(super) former: Option<Setting>,
    /// How far each node says that it has the log durably.
    pub(super) acks: [u8; NODES],
    /// The place of the barrier under way.
    pub(super) barrier: Option<u8>,
    /// When the guard ends it.
    pub(super) guard: Moment,
}

/// What a commit waits for: [`SyncSetting`], small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Setting {
    Wait,
    Alone,
    Any { acks: u8, standbys: u8 },
}

/// A sync rule: [`SyncRule`], small. The standbys are bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub(super) primary: usize,
    pub(super) standbys: u8,
    pub(super) acks: u8,
}

/// What an agent has in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    pub(super) voter: Voter,
    pub(super) lease: Option<Lease>,
    pub(super) sealed: Option<(u8, Option<Position>)>,
    pub(super) led: Option<u8>,
    /// The epoch that it can't lead, or can't go on leading.
    pub(super) failed: Option<u8>,
    pub(super) yielded: Option<u8>,
    pub(super) needs: Option<Repair>,
    pub(super) work: Option<Work>,
}

/// A repair under way: the primary's log was read up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Work {
    pub(super) repair: Repair,
    pub(super) epoch: u8,
    pub(super) upto: u8,
}

/// What a node has said about its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Told {
    pub(super) epoch: u8,
    pub(super) position: Option<Position>,
    pub(super) copy: Copy,
    /// Each lease that it may have granted was over.
    pub(super) leases_over: bool,
}

/// A command that a node has proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proposal {
    /// A barrier of this epoch has passed.
    BarrierPassed {
        /// Who says so.
        by: usize,
        /// Which epoch.
        epoch: u8,
    },
    /// The engine runs this rule.
    RuleRuns {
        /// Who says so.
        by: usize,
        /// Which epoch.
        epoch: u8,
        /// Which rule.
        rule: Rule,
        /// The number of the change.
        number: u64,
    },
    /// A rebuild that was asked for is done.
    RebuildDone {
        /// Whose.
        by: usize,
        /// The number of the wish.
        number: u64,
    },
}

impl Epochs {
    pub(super) fn insert(&mut self, epoch: u8) {
        self.0 |= 1 << epoch;
    }

    pub(super) fn contains(self, epoch: u8) -> bool {
        self.0 & 1 << epoch != 0
    }

    /// Is there one after `from`, up to `to`?
    pub(super) fn any_between(self, from: u8, to: u8) -> bool {
        (from + 1..=to).any(|epoch| self.contains(epoch))
    }
}

impl Committed {
    pub(super) fn new(state: ClusterState) -> Arc<Self> {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        Arc::new(Self { state, digest: hasher.finish() })
    }
}

impl PartialEq for Committed {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.state == other.state
    }
}

impl Eq for Committed {}

impl Hash for Committed {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.digest);
    }
}

impl State {
    pub(super) fn latest(&self) -> &ClusterState {
        &self.history[self.history.len() - 1].state
    }

    /// What this node has applied of the replicated state.
    pub(super) fn view(&self, i: usize) -> &ClusterState {
        &self.history[self.nodes[i].view].state
    }

    pub(super) fn agent(&mut self, i: usize) -> Option<&mut Agent> {
        self.nodes[i].agent.as_mut()
    }

    pub(super) fn epoch(&self) -> u8 {
        small(self.latest().epoch)
    }
}

impl Cluster {
    /// Forgets the part of the history that nobody will look at again, and proposals that can only be refused: states
    /// that differ in nothing else are one.
    pub(super) fn tidy(&self, s: &mut State) {
        // A node that starts may see one state less than it has seen.
        let oldest = s.nodes.iter().map(|n| n.view.saturating_sub(1)).min().unwrap_or(0);
        s.history.drain(..oldest);
        s.nodes.iter_mut().for_each(|n| n.view -= oldest);
        let latest = s.latest();
        let (now, changes, wish) =
            (small(latest.epoch), latest.held().map(|h| h.changes), latest.wish.as_ref().map(|(n, _)| *n));
        let opened = latest.held().is_some_and(|h| h.opened);
        s.proposals.retain(|p| match p {
            Proposal::BarrierPassed { epoch, .. } => *epoch == now && !opened,
            Proposal::RuleRuns { epoch, number, .. } => *epoch == now && changes == Some(*number),
            Proposal::RebuildDone { number, .. } => wish == Some(*number),
        });
        for told in &mut s.told {
            *told = told.filter(|t| t.epoch == now);
        }
    }

    pub(super) fn setting(&self, setting: &SyncSetting) -> Setting {
        match setting {
            SyncSetting::Wait => Setting::Wait,
            SyncSetting::Alone => Setting::Alone,
            SyncSetting::Any { acks, standbys } => {
                Setting::Any { acks: *acks as u8, standbys: self.bits(standbys.iter()) }
            }
        }
    }

    pub(super) fn rule(&self, rule: &SyncRule) -> Rule {
        Rule { primary: self.index(&rule.primary), standbys: self.bits(rule.standbys.iter()), acks: rule.acks as u8 }
    }

    pub(super) fn full_rule(&self, rule: Rule) -> SyncRule {
        let standbys = (0..self.names.len()).filter(|i| rule.standbys & (1 << i) != 0);
        SyncRule {
            primary: self.names[rule.primary].clone(),
            standbys: standbys.map(|i| self.names[i].clone()).collect(),
            acks: rule.acks.into(),
        }
    }

    fn bits<'a>(&self, names: impl Iterator<Item = &'a trine_protocol::NodeName>) -> u8 {
        names.fold(0, |bits, name| bits | 1 << self.index(name))
    }

    pub(super) fn index(&self, name: &trine_protocol::NodeName) -> usize {
        self.names.iter().position(|n| n == name).unwrap_or_default()
    }
}

/// An epoch's number in few bits: a search does not get far beyond ten.
pub(super) fn small(epoch: Epoch) -> u8 {
    u8::try_from(epoch.0).unwrap_or(u8::MAX)
}
