//! How consensus runs on a node.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use trine_protocol::NodeName;

use crate::errors::ConsensusError;

/// What a node does that has no log yet. One that has goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// It joins the others.
    Join,
    /// It founds the group, unless one of the others that answers now belongs to one: then it joins. For one node, at its very
    /// first start, only.
    Found,
    /// It founds a group, whatever the others say: a person has given up the old one, whose majority is lost.
    FoundAnyway,
}

/// How consensus runs on this node.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// This node.
    pub me: NodeName,
    /// Its cluster: a log of another one is refused.
    pub cluster_id: String,
    /// What it does when it has no log yet.
    pub founding: Founding,
    /// It is to have a vote; otherwise it only gets the state.
    pub voter: bool,
    /// How often the leader is heard. A call to a voter may take as long.
    pub heartbeat: Duration,
    /// After how long without a leader the others elect one, at most (a random time from three quarters of this on).
    pub election: Duration,
    /// A snapshot is made after so many entries.
    pub snapshot_every: u64,
}

impl ConsensusConfig {
    /// The usual timings: 200 ms, 600 ms, 2,000 entries.
    #[must_use]
    pub fn new(me: NodeName, cluster_id: impl Into<String>) -> Self {
        Self {
            me,
            cluster_id: cluster_id.into(),
            founding: Founding::Join,
            voter: true,
            heartbeat: Duration::from_millis(200),
            election: Duration::from_millis(600),
            snapshot_every: 2000,
        }
    }

    /// openraft's followers wait for `election_timeout_max` plus a random time between the two: so half of ours is its longest,
    /// a quarter its shortest.
    pub(crate) fn for_openraft(&self) -> Result<Config, ConsensusError> {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let election = millis(self.election);
        let config = Config {
            cluster_name: self.cluster_id.clone(),
            heartbeat_interval: millis(self.heartbeat),
            // openraft wants it above the heartbeat.
            election_timeout_min: (election / 4).max(millis(self.heartbeat) + 1),
            election_timeout_max: election / 2,
            // The whole snapshot goes in one call, and the other side has it on disk when it answers.
            install_snapshot_timeout: 10_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.snapshot_every / 4,
            replication_lag_threshold: self.snapshot_every.saturating_mul(2),
            ..Config::default()
        };
        config.validate().map_err(|e| ConsensusError::Timing(e.to_string()))
    }
}
