//! What comes of comparing the copies' content with each other.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use trine_protocol::NodeName;

/// How far a comparison is, and what it has found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verification {
    /// Bytes of content that were compared.
    pub done: u64,
    /// Of how many there were when it began.
    pub total: u64,
    /// Of so many copies; of some part, of fewer than of others: the fewest. `None`: of no part yet.
    pub copies: Option<usize>,
    /// What differs, or did: the first [`Verification::SHOWN`] of them.
    pub differences: Vec<Difference>,
    /// How many more there are.
    pub more: u64,
}

impl Verification {
    /// So many differences are told one by one: a disk that has lost all it had differs everywhere.
    pub const SHOWN: usize = 20;
}

/// A part of the data that is not the same in all copies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// Which part, for people.
    pub what: String,
    /// Whose copies differ from the others.
    pub nodes: BTreeSet<NodeName>,
    /// What became of it.
    pub outcome: Remedy,
}

/// What became, or has to become, of a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// What most copies have was written over it.
    Repaired,
    /// It is in the primary's own copy: what is right is on the others, and one of them has to lead.
    Primary,
    /// Names or attributes differ: the copy has to be made anew.
    Rebuild,
    /// There is no majority that would say what is right.
    Undecided,
    /// It changed again and again: the next comparison looks at it.
    Busy,
}
