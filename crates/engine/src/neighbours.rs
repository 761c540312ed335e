//! The way from one node's engine to another's, by the agents' own streams.

use std::fmt;
use std::io;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use trine_platform::BoxStream;
use trine_protocol::NodeName;

/// What an engine asks another node's for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The log, as it is written.
    Log,
    /// How far a standby is, and whether it counts for the sync rule.
    Progress,
    /// A copy of the data.
    Copy,
    /// Nothing: whether a stream comes about at all.
    Nothing,
}

/// Opens streams to the engines of the other nodes. Both ends are who they say.
#[async_trait]
pub trait Neighbours: Send + Sync + fmt::Debug + 'static {
    /// Opens a stream on which `node` answers `ask`.
    ///
    /// # Errors
    /// It can't be reached now.
    async fn open(&self, node: &NodeName, ask: Ask) -> io::Result<BoxStream>;
}
