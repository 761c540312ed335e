//! `trine status --json`, as far as tests read it.

use serde::Deserialize;

/// The cluster, as one of its nodes sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The newest epoch.
    pub epoch: u64,
    /// The one node that may take writes.
    #[serde(default)]
    pub primary: Option<String>,
    /// `healthy`, `degraded` or `unavailable`.
    pub health: String,
    /// Why repair is paused, if it is.
    #[serde(default)]
    pub paused: Option<serde_json::Value>,
    /// Who must have a commit before it is acknowledged.
    #[serde(default)]
    pub sync: Sync,
    /// What a person should look at.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Every node.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// All of it, also what is not read here.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// The sync rule.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Sync {
    /// The standbys whose acknowledgement counts.
    #[serde(default)]
    pub standbys: Vec<String>,
    /// How many of them must.
    #[serde(default)]
    pub acks: usize,
}

/// One node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// `primary`, `standby` or `none`.
    #[serde(default)]
    pub role: String,
    /// `running`, `starting`, `fenced`, `rejoining`, `unreachable`, …
    #[serde(default)]
    pub state: String,
    /// The agent's process, as long as it is there.
    #[serde(default)]
    pub agent_pid: Option<u32>,
    /// The guard's.
    #[serde(default)]
    pub guard_pid: Option<u32>,
    /// The postmaster's.
    #[serde(default)]
    pub database_pid: Option<u32>,
    /// Why it does not run.
    #[serde(default)]
    pub problem: Option<String>,
    /// Where its data is.
    #[serde(default)]
    pub data_dir: Option<String>,
    /// How far its log reaches.
    #[serde(default)]
    pub position: Option<String>,
    /// The epoch of the last entry of its log.
    #[serde(default)]
    pub data_epoch: Option<u64>,
}

impl Status {
    /// Healthy, with a primary, and every node running.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.health == "healthy" && self.primary.is_some()
    }

    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The nodes that are not the primary.
    #[must_use]
    pub fn standbys(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.name.clone()).filter(|n| Some(n) != self.primary.as_ref()).collect()
    }
}

/// `trine endpoints --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    /// A URI that leads to the primary.
    pub writer: String,
    /// A URI that leads to a standby.
    pub reader: String,
}
