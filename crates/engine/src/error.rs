//! What can go wrong with a database.

use std::io;
use std::path::PathBuf;

use trine_protocol::{Epoch, NodeName};

use crate::{CopyId, Role};

/// Why an operation on the database did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A setting can't be used.
    #[error("{0}")]
    Config(String),
    /// The database's programs were not found.
    #[error("{0}")]
    NoBinaries(String),
    /// There is no data.
    #[error("there is no data in {}", .0.display())]
    NoCopy(PathBuf),
    /// The data must not be used.
    #[error("the data in {} can't be used: {why}", path.display())]
    IncompleteCopy {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A data directory can't be adopted.
    #[error("can't adopt {}: {why}", path.display())]
    AdoptRefused {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The data is another cluster's.
    #[error("{what} has the data of cluster {found}, here it is {expected}: refusing to mix them")]
    OtherCluster {
        /// Whose data.
        what: String,
        /// Its identity.
        found: CopyId,
        /// The one that it should have.
        expected: CopyId,
    },
    /// It runs not.
    #[error("the database does not run")]
    NotRunning,
    /// It is a standby where a primary is needed, or the other way.
    #[error("the database is a {found:?}, to {operation} it must be a {needed:?}")]
    WrongRole {
        /// What was asked.
        operation: &'static str,
        /// What it is.
        found: Role,
        /// What it must be.
        needed: Role,
    },
    /// Not with this engine.
    #[error("can't {operation} a cluster of {kind}: the database has its own means")]
    NotOffered {
        /// What was asked.
        operation: &'static str,
        /// Of which engine.
        kind: &'static str,
    },
    /// It did not start.
    #[error("the database did not start: {why}{}{log}", if log.is_empty() { "" } else { "\n" })]
    StartFailed {
        /// How it ended.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// Its container can't be made.
    #[error(transparent)]
    Container(#[from] crate::volume::ContainerError),
    /// It is no primary of exactly that epoch.
    #[error("can't make it the primary of epoch {epoch}: {why}")]
    PromoteFailed {
        /// Which.
        epoch: Epoch,
        /// Why.
        why: String,
    },
    /// Only a new copy helps.
    #[error("this copy must be rebuilt: {0}")]
    NeedsRebuild(String),
    /// The disk is full.
    #[error("the disk is full: {what}; make room below {}, the copy that was there is as it was", path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// While doing what.
        what: String,
    },
    /// The wait for the sync rule was cancelled.
    #[error("the wait for the standbys was cancelled: nothing is proven about epoch {0}")]
    BarrierCancelled(Epoch),
    /// The barrier's commit failed.
    #[error("the barrier of epoch {epoch} did not pass: {why}")]
    BarrierFailed {
        /// Which.
        epoch: Epoch,
        /// Why.
        why: String,
    },
    /// The upstream can't be rewound to yet.
    #[error("{0} has not yet passed its first checkpoint as a primary: try again in a moment")]
    NotRewindReady(NodeName),
    /// A change of settings did not show.
    #[error("the database has not taken over {0}")]
    NotConfirmed(String),
    /// It did not end.
    #[error("the database did not stop: {0}")]
    StopFailed(String),
    /// The guard can't be started or reached.
    #[error("can't {action} the guard")]
    Guard {
        /// What was tried.
        action: &'static str,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// One of the database's tools failed.
    #[error("{tool} failed: {output}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// What it said.
        output: String,
    },
    /// A file.
    #[error("can't {action} {}", path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The database refused a statement, or the connection broke.
    #[error("the database could not {action}")]
    Sql {
        /// What was asked.
        action: &'static str,
        /// What it says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// MariaDB refused a statement, or the connection broke.
    #[error("the database could not {action}")]
    MySql {
        /// What was asked.
        action: &'static str,
        /// What it says.
        #[source]
        source: mysql_async::Error,
    },
    /// Its answer is not one that is understood.
    #[error("the database was asked to {action}, and its answer can't be understood")]
    Unreadable {
        /// What was asked.
        action: &'static str,
    },
    /// The volume that the database's files are on.
    #[error("can't {action}")]
    Volume {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: trine_volume::VolumeError,
    },
    /// The volume's mount.
    #[error("can't mount the volume")]
    Mount(#[from] trine_volume::MountError),
    /// Another node's engine can't be reached.
    #[error("can't {action} {node}")]
    Neighbour {
        /// What was tried.
        action: &'static str,
        /// Which.
        node: NodeName,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("the database took too long to {0}")]
    Timeout(&'static str),
}

impl EngineError {
    /// For `map_err`: a file operation on `path` failed.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err`: an operation on the volume failed.
    pub(crate) fn volume(action: &'static str) -> impl FnOnce(trine_volume::VolumeError) -> Self {
        move |source| Self::Volume { action, source }
    }

    /// For `map_err`: a statement failed.
    pub(crate) fn sql(action: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Sql { action, source }
    }

    /// For `map_err`: a statement failed, on MariaDB.
    pub(crate) fn mysql(action: &'static str) -> impl FnOnce(mysql_async::Error) -> Self {
        move |source| Self::MySql { action, source }
    }

    /// The whole chain as one line, for a log or a person.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut inner = std::error::Error::source(self);
        while let Some(e) = inner {
            text.push_str(": ");
            text.push_str(&e.to_string());
            inner = e.source();
        }
        trine_platform::plain(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_for_people() {
        let error = EngineError::io("read", "/x")(io::Error::from_raw_os_error(111));
        assert_eq!(error.chain(), "can't read /x: Connection refused");
    }
}
