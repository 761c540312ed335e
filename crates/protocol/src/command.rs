//! What can be proposed to consensus, and the events that it leaves behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeName, Position, SyncRule};

/// What a decision was made on: names and values, for people.
pub type Evidence = BTreeMap<String, String>;

/// A change with who asks for it and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The node that proposes it.
    pub by: NodeName,
    /// Its wall clock, in milliseconds since the Unix epoch: for people's eyes, no rule reads it.
    pub at_ms: u64,
    /// What is to change.
    pub change: Change,
}

/// A change of the replicated state. Each names the epoch that it belongs to, so one that comes late is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The cluster begins: proposed once, by the seed.
    Create {
        /// Its name.
        cluster: String,
        /// Its identity, which the certificates carry too.
        cluster_id: String,
        /// `postgres`, …
        engine: String,
        /// How it behaves.
        settings: Settings,
        /// Its nodes.
        members: BTreeMap<NodeName, Member>,
        /// The node that has the first copy of the data.
        seed: NodeName,
    },
    /// A person has given up the majority of the voters: a new consensus group begins with this state, and with the
    /// proposer as its only voter. Proposed once, by that node, as the group's first command.
    Reform {
        /// The state as that node last had it.
        state: Box<crate::ClusterState>,
    },
    /// A member gets its vote back: it has joined the group that was reformed.
    Readmit {
        /// Which.
        node: NodeName,
    },
    /// The epoch before is over; all seal.
    BeginEpoch {
        /// The epoch that the proposer saw.
        from: Epoch,
        /// The new one: greater.
        epoch: Epoch,
        /// Why.
        because: String,
        /// Who should win among equals.
        prefer: Option<NodeName>,
        /// A person accepts that acknowledged data may be lost.
        accept_loss: bool,
        /// Whose copy is left out of the election, whatever it has: the primary that nobody can take the log from. What
        /// the others have must be safe without it.
        #[serde(default)]
        without: Option<NodeName>,
        /// On what.
        evidence: Evidence,
    },
    /// The primary of an epoch.
    Elect {
        /// Which epoch.
        epoch: Epoch,
        /// Who.
        primary: NodeName,
        /// Its first sync rule.
        rule: SyncRule,
        /// It only hands its data on (priority 0) and does not open.
        interim: bool,
        /// How far its data reached when it was elected: it leads only with that much.
        #[serde(default)]
        position: Position,
        /// On what.
        evidence: Evidence,
    },
    /// One commit of this epoch has passed through the whole sync rule: the writer endpoint may open.
    BarrierPassed {
        /// Which epoch.
        epoch: Epoch,
    },
    /// A new sync rule, which binds together with those before it until the engine runs it.
    ChangeRule {
        /// Which epoch.
        epoch: Epoch,
        /// The rule to come.
        rule: SyncRule,
        /// Why.
        because: String,
    },
    /// The engine runs this rule, and a barrier has passed through it: the ones before it bind no more.
    RuleRuns {
        /// Which epoch.
        epoch: Epoch,
        /// The rule that runs.
        rule: SyncRule,
        /// [`Held::changes`](crate::Held::changes) as the proposer saw it while the engine ran this rule and no other: a
        /// proposal that was long on its way must not end a later change that happens to lead to the same rule.
        number: u64,
    },
    /// A person (or the console) asks for something: see [`ClusterState::asking`](crate::ClusterState::asking). Refused when
    /// the cluster has moved on from what he saw, so that a proposal that is made again because its answer was lost does not
    /// move the primary twice.
    Ask {
        /// What.
        wish: Wish,
        /// The epoch that he saw.
        epoch: Epoch,
        /// The number of the latest wish that he saw.
        after: u64,
    },
    /// A planned change of the primary begins: its node drains and stops.
    StartSwitchover {
        /// Which epoch ends.
        epoch: Epoch,
        /// Who is to follow.
        target: NodeName,
    },
    /// What was asked for has ended.
    EndWish {
        /// The wish's number.
        number: u64,
        /// Done, or why not.
        outcome: Result<(), String>,
    },
    /// Automatic repair stops until a person resumes it.
    Pause {
        /// Why.
        reason: String,
    },
    /// Automatic repair goes on.
    Resume,
    /// Something a person should look at.
    RaiseAlarm {
        /// Its name, one at a time of each.
        alarm: String,
        /// What it is about.
        text: String,
        /// On what.
        evidence: Evidence,
    },
    /// It is over.
    ClearAlarm {
        /// Its name.
        alarm: String,
    },
    /// A node tells what it did: kept with the other events, changes nothing.
    Tell {
        /// Its kind.
        kind: EventKind,
        /// What.
        text: String,
        /// On what.
        evidence: Evidence,
    },
}

/// What a person asks the cluster for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Wish {
    /// A planned change of the primary.
    Switchover {
        /// To whom; `None`: the best standby.
        to: Option<NodeName>,
    },
    /// The primary is to be replaced now, whatever it says.
    Failover {
        /// To whom among equals.
        to: Option<NodeName>,
        /// Even if acknowledged data may be lost.
        accept_loss: bool,
    },
    /// A standby's copy is to be made anew.
    Rebuild {
        /// Whose.
        node: NodeName,
    },
}

/// How the cluster behaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// How long a lease lasts, in milliseconds.
    pub lease_ms: u64,
    /// How often it is renewed, in milliseconds.
    pub heartbeat_ms: u64,
    /// A primary whose lease no majority has renewed for so long is suspected, in milliseconds.
    pub suspect_ms: u64,
    /// How many standbys must have a commit.
    pub acks: usize,
    /// What happens when too few standbys are left.
    pub durability: Durability,
    /// After how long without its stream a standby leaves the sync rule, in milliseconds.
    pub grace_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: 1000,
            heartbeat_ms: 100,
            suspect_ms: 600,
            acks: 1,
            durability: Durability::Strict,
            grace_ms: 5000,
        }
    }
}

/// What happens when fewer standbys than `acks` are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Commits wait.
    #[default]
    Strict,
    /// After the grace the primary goes on alone, once consensus knows it.
    Available,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its zone: what fails together.
    pub zone: String,
    /// Its IP address.
    pub address: String,
    /// Does it vote?
    pub voter: bool,
    /// Who leads among equals: the higher. 0: never.
    pub priority: u32,
}

/// What an event is about. The words are those of RDS's event categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The cluster came into being.
    Creation,
    /// A primary was lost or replaced.
    Failover,
    /// The writer endpoint opened or closed.
    Availability,
    /// The sync rule, a member or a setting changed.
    ConfigurationChange,
    /// A copy was rewound, rebuilt or caught up.
    Recovery,
    /// Something went wrong.
    Failure,
    /// A person asked, paused or resumed.
    Notification,
}

/// A decision with its evidence, numbered by consensus: no gaps, the same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1.
    pub number: u64,
    /// The proposer's wall clock, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What it is about.
    pub kind: EventKind,
    /// The epoch after it.
    pub epoch: Epoch,
    /// Who proposed it.
    pub node: NodeName,
    /// What happened, in one sentence.
    pub text: String,
    /// On what.
    pub evidence: Evidence,
}
