//! What a mount stands on.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Ino, Op, Tree};

/// A volume that takes changes: the log on this node and its copies, or what stands for them in a test.
///
/// The mount's threads call it. Nothing but [`Store::read`] may block, and that only on this node's disk or on a commit.
pub trait Store: Send + Sync + 'static {
    /// Looks at the tree as it is after the last change.
    fn look<T>(&self, look: impl FnOnce(&Tree) -> T) -> T;

    /// Makes a change: `make` sees the tree, and nothing changes between that and its operation, which borrows from what the
    /// caller has (from the tree it could not: that is about to change).
    ///
    /// # Errors
    /// What `make` says or the tree refuses, and nothing has changed; `ENOSPC`: no room, here or on a node that must have
    /// it; `EIO`: the volume is closed.
    fn change<'a, T>(&self, make: impl FnOnce(&Tree) -> Result<(Op<'a>, T), Errno>) -> Result<T, Errno>;

    /// Content of a file, as after the last change: what is beyond its end is left out, what was never written is zeros.
    ///
    /// # Errors
    /// `EIO`: the disk fails, or the volume is closed.
    fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, Errno>;

    /// Calls `done` once everything up to now is acknowledged, or with `EIO` once the volume is closed.
    fn sync(&self, done: Box<dyn FnOnce(Result<(), Errno>) + Send>);

    /// How much room there is, for `statfs`.
    fn room(&self) -> Room;
}

/// Room on the disks that the copies are on: of the smallest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Room {
    /// In bytes.
    pub total: u64,
    /// In bytes.
    pub free: u64,
}

impl Room {
    /// What is free, as far as it is worth telling others when it has changed.
    pub(crate) fn mib(self) -> u64 {
        self.free >> 20
    }
}
