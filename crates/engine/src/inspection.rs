//! What can be seen of a database.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trine_protocol::{NodeName, Position};

use crate::CopyId;

/// What [`crate::Engine::inspect`] saw. Fields about the running database are of its last answer, `None` without one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Inspection {
    /// Is there a copy of the data, and can it be used?
    pub copy: DataCopy,
    /// Does the database run?
    pub process: Process,
    /// How long it has not answered, when it should.
    pub silent: Duration,
    /// What it runs as.
    pub role: Option<Role>,
    /// The guard's process.
    pub guard_pid: Option<u32>,
    /// The database's first process.
    pub database_pid: Option<u32>,
    /// Whose data it is.
    pub identity: Option<CopyId>,
    /// The number of the timeline: on a primary the epoch that it was promoted in.
    pub timeline: Option<u64>,
    /// How far the data reaches, best current knowledge; only [`crate::Engine::seal`] gives one that counts.
    pub position: Option<Position>,
    /// Whom it is set up to follow.
    pub following: Option<NodeName>,
    /// Whether the log flows in.
    pub streaming: bool,
    /// On a standby: up to where it has the log durably.
    pub received: Option<u64>,
    /// On a standby: up to where it has applied it.
    pub replayed: Option<u64>,
    /// On a standby: how old what readers see is; zero when everything that it has is applied and it streams.
    pub lag: Option<Duration>,
    /// On a primary: who takes its log, and is not far behind.
    pub standbys: BTreeMap<NodeName, StandbySeen>,
    /// On a primary: others can rewind to it (it has passed its first checkpoint in its epoch).
    pub rewind_ready: bool,
    /// On a standby that should stream and does not: what the database last said about it.
    pub receiver_error: Option<String>,
    /// Of a database that has been starting for long: why it is not taken to be up yet.
    pub not_ready: Option<String>,
}

/// The state of the copy on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataCopy {
    /// None.
    Missing,
    /// One that must not be used, and why: it counts as missing until it is cloned anew.
    Incomplete(String),
    /// One that can be started.
    Complete,
}

/// The state of the database's processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// None is left.
    Stopped,
    /// It runs and has not yet answered.
    Starting,
    /// It runs.
    Running,
    /// It runs and did answer, but not now.
    Hung,
}

/// What a running database is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes the log from another, or could.
    Standby,
    /// It writes.
    Primary,
}

/// A standby, as its primary sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StandbySeen {
    /// It takes the log as it is written (not still catching up).
    pub streaming: bool,
    /// Up to where it has said that it has the log durably.
    pub flushed: Option<u64>,
    /// Up to where it has applied it.
    pub replayed: Option<u64>,
    /// How long it lately took from a commit until it was applied there.
    pub replay_lag: Option<Duration>,
}

impl Inspection {
    /// Nothing is known yet.
    #[must_use]
    pub fn of(copy: DataCopy, process: Process) -> Self {
        Self {
            copy,
            process,
            silent: Duration::ZERO,
            role: None,
            guard_pid: None,
            database_pid: None,
            identity: None,
            timeline: None,
            position: None,
            following: None,
            streaming: false,
            received: None,
            replayed: None,
            lag: None,
            standbys: BTreeMap::new(),
            rewind_ready: false,
            receiver_error: None,
            not_ready: None,
        }
    }
}
