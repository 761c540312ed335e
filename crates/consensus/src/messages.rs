//! What the nodes say to each other about consensus. Every message to a voter names its id: the node may have come back as
//! another one, which must not answer for it.

use openraft::raft::{AppendEntriesRequest, VoteRequest};
use serde::{Deserialize, Serialize};
use trine_protocol::{Command, NodeName, Outcome};

use crate::types::{SnapshotMeta, Types, Vote};

pub(crate) const APPEND: &str = "consensus/append";
pub(crate) const VOTE: &str = "consensus/vote";
pub(crate) const SNAPSHOT: &str = "consensus/snapshot";
pub(crate) const PROPOSE: &str = "consensus/propose";
pub(crate) const READ: &str = "consensus/read";
pub(crate) const JOIN: &str = "consensus/join";
pub(crate) const REMOVE: &str = "consensus/remove";
pub(crate) const HELLO: &str = "consensus/hello";

#[derive(Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) to: u64,
    pub(crate) request: AppendEntriesRequest<Types>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub(crate) to: u64,
    pub(crate) request: VoteRequest<u64>,
}

/// The whole state in one message: it is small.
#[derive(Serialize, Deserialize)]
pub(crate) struct Picture {
    pub(crate) to: u64,
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    /// JSON.
    pub(crate) state: String,
}

/// To the leader.
#[derive(Serialize, Deserialize)]
pub(crate) struct Propose {
    pub(crate) command: Command,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Proposed {
    pub(crate) outcome: Outcome,
    /// The entries up to and with the command.
    pub(crate) applied: u64,
}

/// To the leader: how many entries must be applied before a read is not stale?
#[derive(Serialize, Deserialize)]
pub(crate) struct ReadFrom {
    pub(crate) applied: u64,
}

/// To anybody; only the leader does it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) id: u64,
    /// Who; the certificate must say the same.
    pub(crate) name: NodeName,
    /// It is to have a vote.
    pub(crate) voter: bool,
    /// It had one already under this id.
    pub(crate) was_voter: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Joined {
    /// It is what it asked for.
    Done,
    /// Under way, ask again.
    NotYet,
    /// This id was removed, or its name is another's now.
    Replaced,
}

/// To the leader.
#[derive(Serialize, Deserialize)]
pub(crate) struct Remove {
    pub(crate) name: NodeName,
}

/// What a node says of itself to one that may found a group, or may want an election.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) id: u64,
    /// It leads no majority, and has not heard from a leader lately.
    pub(crate) no_leader: bool,
    /// It belongs to a group already.
    pub(crate) member: bool,
}
