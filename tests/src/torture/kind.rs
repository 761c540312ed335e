//! What can happen to a cluster.

use serde::{Deserialize, Serialize};

/// Whom a fault strikes, as things are when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The node that leads.
    Primary,
    /// One of the others.
    Standby,
    /// All of them, or none in particular.
    Cluster,
}

impl Role {
    /// In a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Cluster => "all",
        }
    }
}

/// One kind of fault, or an order that a person might give at the wrong moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SIGKILL to the database's first process: PostgreSQL's postmaster.
    DatabaseKilled,
    /// SIGKILL to the agent, which is started again when the fault is over.
    AgentKilled,
    /// SIGKILL to the guard.
    GuardKilled,
    /// SIGKILL to one of the database's own processes.
    ProcessKilled,
    /// SIGSTOP to the database's first process.
    DatabaseFrozen,
    /// SIGSTOP to the agent.
    AgentFrozen,
    /// SIGSTOP to the guard.
    GuardFrozen,
    /// SIGSTOP to one of the database's own processes.
    ProcessFrozen,
    /// SIGSTOP to every process of the node.
    NodeFrozen,
    /// SIGKILL to every process of the node, which is started again when the fault is over.
    NodeLost,
    /// Nothing reaches the node, and nothing leaves it.
    Isolated,
    /// As isolated, but clients still reach it.
    CutFromNodes,
    /// Nothing reaches it.
    Deaf,
    /// Nothing that it sends arrives.
    Mute,
    /// It and one other node lose each other.
    PairCut,
    /// One other node hears nothing of it any more.
    HalfPairCut,
    /// Agents don't reach it, its database they do.
    PeersCut,
    /// Databases don't reach it, its agent they do.
    ReplicationCut,
    /// Some of its packets are lost.
    PacketLoss,
    /// Its disk hangs.
    DiskHangs,
    /// Its disk hangs again and again for a moment.
    DiskSlow,
    /// Its disk is full.
    DiskFull,
    /// The file system that its database is on is torn away (a replicated volume's mount).
    MountLost,
    /// `trine switchover`.
    Switchover,
    /// `trine failover`.
    Failover,
    /// `trine node rebuild` of a standby.
    Rebuild,
    /// Every agent is stopped in good order and started again, the primary's last, after a switchover.
    RollingRestart,
    /// No node reaches any other.
    AllCut,
    /// Two nodes are lost: no majority is left.
    TwoLost,
    /// Every process of every node is killed at once.
    PowerOff,
}

/// Kinds that strike one node: each can strike the primary or a standby.
pub const OF_ONE_NODE: [Kind; 23] = [
    Kind::DatabaseKilled,
    Kind::AgentKilled,
    Kind::GuardKilled,
    Kind::ProcessKilled,
    Kind::DatabaseFrozen,
    Kind::AgentFrozen,
    Kind::GuardFrozen,
    Kind::ProcessFrozen,
    Kind::NodeFrozen,
    Kind::NodeLost,
    Kind::Isolated,
    Kind::CutFromNodes,
    Kind::Deaf,
    Kind::Mute,
    Kind::PairCut,
    Kind::HalfPairCut,
    Kind::PeersCut,
    Kind::ReplicationCut,
    Kind::PacketLoss,
    Kind::DiskHangs,
    Kind::DiskSlow,
    Kind::DiskFull,
    Kind::MountLost,
];

/// Orders of a person.
pub const ORDERS: [Kind; 4] = [Kind::Switchover, Kind::Failover, Kind::Rebuild, Kind::RollingRestart];

/// Kinds that take the majority away: writes can't go on, and must after they are over.
pub const OF_ALL: [Kind; 3] = [Kind::AllCut, Kind::TwoLost, Kind::PowerOff];

impl Kind {
    /// Is it asked of the cluster by the command line?
    #[must_use]
    pub fn is_order(self) -> bool {
        ORDERS.contains(&self)
    }

    /// Does a majority live on while it lasts?
    #[must_use]
    pub fn leaves_a_majority(self) -> bool {
        !OF_ALL.contains(&self)
    }

    /// In a few words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::DatabaseKilled => "database killed",
            Self::AgentKilled => "agent killed",
            Self::GuardKilled => "guard killed",
            Self::ProcessKilled => "database's process killed",
            Self::DatabaseFrozen => "database frozen",
            Self::AgentFrozen => "agent frozen",
            Self::GuardFrozen => "guard frozen",
            Self::ProcessFrozen => "database's process frozen",
            Self::NodeFrozen => "node frozen",
            Self::NodeLost => "node lost",
            Self::Isolated => "isolated",
            Self::CutFromNodes => "cut from the nodes only",
            Self::Deaf => "hears nothing",
            Self::Mute => "is not heard",
            Self::PairCut => "cut from one node",
            Self::HalfPairCut => "not heard by one node",
            Self::PeersCut => "agents cut, replication not",
            Self::ReplicationCut => "replication cut, agents not",
            Self::PacketLoss => "packets lost",
            Self::DiskHangs => "disk hangs",
            Self::DiskSlow => "disk slow",
            Self::DiskFull => "disk full",
            Self::MountLost => "mount lost",
            Self::Switchover => "switchover",
            Self::Failover => "failover asked for",
            Self::Rebuild => "rebuild of a standby",
            Self::RollingRestart => "rolling restart",
            Self::AllCut => "all cut from each other",
            Self::TwoLost => "two nodes lost",
            Self::PowerOff => "power-off of all",
        }
    }
}
