//! What can go wrong with a copy of a volume.

use std::io;

use rustix::io::Errno;
use trine_protocol::Epoch;

/// Why an operation on a copy did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file of the copy.
    #[error("can't {action} {place}: {source}")]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// Where the copy is.
        place: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The copy has lost what it had.
    #[error("the copy in {place} is damaged at {lsn} of its log: {what}; it has to be made anew from another node's")]
    Damaged {
        /// Where the copy is.
        place: String,
        /// Bytes of log before the damage.
        lsn: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Another version of trine has written it: nothing is wrong with it.
    #[error("the copy in {place} has files of version {found}; this version of trine knows version {known}")]
    Version {
        /// Where the copy is.
        place: String,
        /// What it has.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// There is none.
    #[error("there is no volume in {0}")]
    Missing(String),
    /// There is one already.
    #[error("there is a volume in {0} already")]
    Exists(String),
    /// An operation that no log takes.
    #[error("an operation is too large for the log")]
    TooLarge,
    /// What another node sent is not what it should be.
    #[error("the other node sent {0}")]
    Strange(&'static str),
    /// An operation does not fit the copy: it is not what its writer had.
    #[error("the copy in {place} differs from its writer's: the operation that ends at {lsn} gives {errno}")]
    Differs {
        /// Where the copy is.
        place: String,
        /// Bytes of log before the operation's end.
        lsn: u64,
        /// What it gives here.
        errno: Errno,
    },
    /// It was closed, or something before failed.
    #[error("the volume is closed")]
    Closed,
    /// The copy does not write the log now.
    #[error("this copy does not write epoch {0}")]
    NotLeading(Epoch),
    /// What should be taken back is applied already.
    #[error("what follows {to} of the log was acknowledged and applied, up to {applied}: the copy has to be made anew")]
    Applied {
        /// To where it should be taken back.
        to: u64,
        /// Up to where it was applied.
        applied: u64,
    },
    /// A connection to another node.
    #[error("the connection to {node} broke: {source}")]
    Link {
        /// Which.
        node: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// Whether there is no room on the disk for what was asked.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::journal::is_full(source))
    }
}
