//! Names and numbers: nodes, epochs, positions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's name, unique in its cluster: 1 to 40 of `a-z`, `0-9` and `-`, beginning with a letter and not ending with `-`.
///
/// So it is a DNS label, and can stand in a certificate, in a PostgreSQL `application_name` and in a slot's name (`-` becomes `_` there).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// What is wrong with a node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no node name: use 1 to 40 of a-z, 0-9 and '-', beginning with a letter and not ending with '-'")]
pub struct BadNodeName(String);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = BadNodeName;

    fn from_str(s: &str) -> Result<Self, BadNodeName> {
        let letter_first = s.starts_with(|c: char| c.is_ascii_lowercase());
        let all = s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if letter_first && all && s.len() <= 40 && !s.ends_with('-') {
            Ok(Self(s.to_owned()))
        } else {
            Err(BadNodeName(s.to_owned()))
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadNodeName;

    fn try_from(s: String) -> Result<Self, BadNodeName> {
        s.parse()
    }
}

impl From<NodeName> for String {
    fn from(n: NodeName) -> Self {
        n.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number; each epoch has at most one primary. 0: the cluster has not yet had one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// How far a node's data reaches: the epoch whose primary wrote its last entry, then the place in that primary's log.
///
/// The data epoch comes first: a longer log of an older epoch is *behind*, because its end was never acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The epoch of the last entry: in the data itself, never only in a note beside it.
    pub epoch: Epoch,
    /// The place in the log, in the engine's unit (PostgreSQL: the LSN in bytes).
    pub offset: u64,
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:X}", self.epoch, self.offset)
    }
}

/// For people: the offset in two halves, as PostgreSQL writes an LSN.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} at {:X}/{:08X}", self.epoch, self.offset >> 32, self.offset & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_a_dns_label() {
        for good in ["a", "n1", "db-1", "a--b", &"a".repeat(40)] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in ["", "-", "1n", "-a", "n1-", "a-", "N1", "n_1", "n.1", "n 1", "\u{e4}", &"a".repeat(41)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_position_for_people() {
        assert_eq!(Position { epoch: Epoch(4), offset: 0x1_0300_00AB }.to_string(), "epoch 4 at 1/030000AB");
    }
}
