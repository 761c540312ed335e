//! Consensus, as the rest of the agent uses it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use trine_protocol::{ClusterState, Command, NodeName, Outcome};
use trine_transport::CallRefused;

use crate::errors::ConsensusError;
use crate::types::{ConsensusStatus, Standing};

/// One small state, the same on every voter.
#[async_trait]
pub trait Consensus: Send + Sync + fmt::Debug + 'static {
    /// Commits a command and gives its outcome. Done by the leader; elsewhere it is forwarded, and repeated if the leader
    /// changes meanwhile. So a command may be applied twice: it must carry its own condition, and a refusal after a change of
    /// leader may mean that it was applied before.
    ///
    /// When it returns, this node's own [`Consensus::state`] has it, unless this node lags by more than a quarter of a second.
    ///
    /// # Errors
    /// [`ConsensusError::NoLeader`] (not done), [`ConsensusError::Unknown`] (perhaps done), [`ConsensusError::Stopped`].
    async fn propose(&self, command: Command, within: Duration) -> Result<Outcome, ConsensusError>;

    /// The state, with everything that was committed anywhere before the call.
    ///
    /// # Errors
    /// As [`Consensus::propose`].
    async fn read(&self, within: Duration) -> Result<Arc<ClusterState>, ConsensusError>;

    /// Takes a node's vote and its membership. A node that has neither is no error.
    ///
    /// # Errors
    /// As [`Consensus::propose`], and [`ConsensusError::Members`] for the last voter.
    async fn remove_voter(&self, name: &NodeName, within: Duration) -> Result<(), ConsensusError>;

    /// The state as far as it was applied here: told at once after each change. After a restart it may be older than before
    /// it, until the leader has spoken.
    fn state(&self) -> watch::Receiver<Arc<ClusterState>>;

    /// The leader's node, as this one knows it. A leader that has lost its majority is `None` to itself.
    fn leader(&self) -> watch::Receiver<Option<NodeName>>;

    /// What this node is in the group.
    fn standing(&self) -> watch::Receiver<Standing>;

    /// Is this node the leader?
    fn is_leader(&self) -> bool;

    /// Where consensus stands. Cheap.
    fn status(&self) -> ConsensusStatus;

    /// Answers a call of another node whose method begins with `consensus/`.
    ///
    /// # Errors
    /// What the caller is told.
    async fn handle_call(&self, from: &NodeName, method: &str, body: Bytes) -> Result<Bytes, CallRefused>;

    /// Stops, and lets go of the log.
    async fn shutdown(&self);
}
