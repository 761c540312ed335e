//! What the controller tells every node about all of them, so that any node can answer for the whole cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trine_api::NodeStatus;
use trine_protocol::{Moment, NodeName, Report};

/// A node's account of itself: for the rules, and for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) report: Report,
    pub(crate) status: NodeStatus,
    /// May the reader endpoints lead here?
    pub(crate) readable: bool,
}

/// The accounts that the controller has, as it answers each node's own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Digest {
    /// The controller's node.
    pub(crate) from: Option<NodeName>,
    /// The latest account of each node that it still hears.
    pub(crate) accounts: BTreeMap<NodeName, Account>,
    /// When it arrived here.
    #[serde(skip)]
    pub(crate) at: Option<Moment>,
}
