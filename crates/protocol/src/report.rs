//! What a node says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Epoch, NodeName, Position};

/// A node's own account, which the controller asks each node for again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The newest epoch that this voter has promised, on its disk.
    pub promised: Epoch,
    /// The newest epoch that it knows to have a primary: `silence` is about that one. While it knows of none, 0.
    pub seen: Epoch,
    /// For how long no lease of the present epoch was renewed here.
    pub silence: Duration,
    /// The seal that it has given or works on; `None` when it follows or leads.
    pub seal: Option<Seal>,
    /// Its copy of the data.
    pub data: Copy,
    /// The database that runs on it.
    pub database: Database,
    /// The newest epoch in its log's own numbering; an epoch to come must be greater.
    pub floor: Epoch,
    /// How far its data reaches, as it knows now.
    pub position: Option<Position>,
    /// How much it has received and not replayed, in bytes.
    pub replay_lag: u64,
    /// It can't lead the epoch that it should lead, or can't go on: which epoch, and why.
    pub failed: Option<(Epoch, String)>,
    /// It has drained and stopped as the primary of this epoch, for a switchover.
    pub yielded: Option<Epoch>,
    /// Its copy can't follow the primary as it is: what it needs.
    pub needs: Option<Repair>,
    /// On a primary: how far each standby that is connected has it durably.
    pub standbys: BTreeMap<NodeName, Position>,
    /// On a standby that follows and does not stream: the members to whose databases it got a connection just now.
    #[serde(default)]
    pub reaches: BTreeSet<NodeName>,
}

/// A node's copy of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Copy {
    /// There is none.
    Missing,
    /// It is lost, half-made or half-rewound: it proves nothing.
    Incomplete,
    /// It has all that it ever had.
    Complete,
}

/// What the database on a node does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Database {
    /// It does not run.
    Stopped,
    /// It starts, or a copy is being made.
    Starting,
    /// A standby that takes nothing from anyone.
    Sealed,
    /// A standby of an epoch's primary.
    Following {
        /// Which.
        epoch: Epoch,
        /// Is it connected and receiving?
        streaming: bool,
    },
    /// The primary of an epoch.
    Primary {
        /// Which.
        epoch: Epoch,
    },
}

/// For people.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Starting => f.write_str("starting"),
            Self::Sealed => f.write_str("sealed"),
            Self::Following { epoch, streaming: true } => write!(f, "streams epoch {epoch}"),
            Self::Following { epoch, streaming: false } => write!(f, "follows epoch {epoch}, not connected"),
            Self::Primary { epoch } => write!(f, "primary of epoch {epoch}"),
        }
    }
}

/// How far a node has come in sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The promise.
    pub epoch: Epoch,
    /// How long until every lease that it may have granted is over.
    pub lease_left: Duration,
    /// Read after replication was cut; `None` when it is not yet cut, or there is no copy to read.
    pub position: Option<Position>,
}

/// What a copy needs before it can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Repair {
    /// Its end is cut off and replaced.
    Rewind,
    /// A fresh copy beside it.
    Rebuild,
}
