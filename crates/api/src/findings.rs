//! The JSON of `trine doctor --json`. As in [`crate::Status`], fields may be added, never renamed or removed.

use serde::{Deserialize, Serialize};
use trine_protocol::NodeName;

/// What the nodes were found to have that somebody would want to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// What was found; what matters most comes first.
    pub findings: Vec<Finding>,
    /// The nodes that were looked at; of the others, findings say why they were not.
    pub examined: Vec<NodeName>,
}

/// Something of one kind, and everywhere that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, in a few words.
    pub what: String,
    /// The nodes that say so; what is the same on all of them, only the primary is asked for.
    pub nodes: Vec<NodeName>,
    /// The tables, settings, accounts, … that it is about: the first of them.
    #[serde(default)]
    pub places: Vec<String>,
    /// How many more there are.
    #[serde(default)]
    pub more: u64,
    /// What comes of it.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something can be lost, or will take long, when a node is lost.
    Warning,
    /// It may be wanted as it is; who did not know it should. Also what this version does not know.
    #[serde(other)]
    Note,
}
