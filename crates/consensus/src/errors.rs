//! Why consensus could not start, or could not do what it was asked.

use std::time::Duration;

use trine_platform::DiskError;
use trine_protocol::NodeName;

/// The log on this node's disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, or the file, could not be opened.
    #[error("can't open the consensus log")]
    Disk(#[from] DiskError),
    /// Another process has it.
    #[error("the consensus log {file} is in use by another process")]
    Busy {
        /// Its file, with its folder.
        file: String,
    },
    /// The disk fails, or is full.
    #[error("can't read or write the consensus log {file}: {reason}")]
    Io {
        /// Its file, with its folder.
        file: String,
        /// What the disk says.
        reason: String,
    },
    /// Not what was written. This node must not vote: it may have forgotten what it promised.
    #[error(
        "the consensus log {file} is damaged ({reason}); this node must not vote with it: run `trine node replace {node}` on a \
         healthy node, which gives it a new identity and copies the state back"
    )]
    Damaged {
        /// Its file, with its folder.
        file: String,
        /// How.
        reason: String,
        /// This node.
        node: NodeName,
    },
    /// Of another cluster, or another node: a state folder in the wrong place.
    #[error("the consensus log {file} belongs to node {node} of cluster {cluster}, not to this node")]
    Foreign {
        /// Its file, with its folder.
        file: String,
        /// Whose.
        node: String,
        /// Which.
        cluster: String,
    },
}

/// Consensus could not start, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The log.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Timings that can't work.
    #[error("consensus can't run with these timings: {0}")]
    Timing(String),
    /// openraft did not start.
    #[error("consensus could not start: {0}")]
    Start(String),
    /// No leader was found in time: what was asked for has not been done.
    #[error("consensus had no leader within {within:?}")]
    NoLeader {
        /// The caller's deadline.
        within: Duration,
    },
    /// It was asked for, and no answer came in time: it may yet be done, or be done already.
    #[error("consensus did not answer within {within:?}; it may have been done ({last})")]
    Unknown {
        /// The caller's deadline.
        within: Duration,
        /// The last thing that went wrong.
        last: String,
    },
    /// This node's own part has stopped.
    #[error("consensus has stopped on this node: {0}")]
    Stopped(String),
    /// A change of the voters that must not be.
    #[error("the voters can't be changed so: {0}")]
    Members(String),
}
