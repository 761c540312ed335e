//! What openraft is told about our types, and what others are told about consensus.

use std::collections::BTreeSet;
use std::io::Cursor;

use serde::{Deserialize, Serialize};
use trine_protocol::{ClusterState, Command, NodeName, Outcome};

openraft::declare_raft_types!(
    /// The replicated state machine: commands in, outcomes out. A voter's id is random (see the crate's page), its node's
    /// name stands in the node's data.
    pub(crate) Types:
        D = Command,
        R = Option<Outcome>,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, openraft::BasicNode>;
pub(crate) type State = ClusterState;

/// The number after that of the last entry: how many entries there have ever been.
pub(crate) fn after(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

/// The name of a member by its id.
pub(crate) fn name_of(membership: &StoredMembership, id: u64) -> Option<NodeName> {
    membership.membership().get_node(&id).and_then(|n| n.addr.parse().ok())
}

/// What this node is in the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Not a member yet: it asks the others to take it.
    Joining,
    /// It gets the state, and has no vote (yet).
    Learner,
    /// It has a vote, and the change that gave it is through.
    Voter,
    /// It was a voter, and the others have removed it, or another node of its name has taken its place. It never votes again:
    /// it comes back only with its state wiped, as a new one.
    Replaced,
    /// Its log could not be read or written, so it stopped; the text says why. A restart may help, if the disk does.
    Failed(String),
}

/// Where consensus stands, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusStatus {
    /// This node's random id.
    pub id: u64,
    /// What it is in the group.
    pub standing: Standing,
    /// The term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeName>,
    /// Entries ever logged here.
    pub logged: u64,
    /// Entries ever applied here.
    pub applied: u64,
    /// The nodes with a vote.
    pub voters: BTreeSet<NodeName>,
    /// The members without.
    pub learners: BTreeSet<NodeName>,
    /// The voters are being changed: until it is through, a majority of the old ones is needed and one of the new ones.
    pub changing: bool,
}
