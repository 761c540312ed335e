//! Names, attributes and sizes of a volume's files.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Ino, Op};

/// All of a volume but the files' content: pure, the same on every copy that has applied the same operations.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tree {
    next: u64,
}

impl Tree {
    /// Makes the change, whole or not at all.
    ///
    /// # Errors
    /// What the call that asks for it gets. On a copy: it is not what the log's writer had.
    pub fn apply(&mut self, _op: &Op<'_>) -> Result<(), Errno> {
        Ok(())
    }

    /// A file's size, in bytes; `None`: there is no such file.
    #[must_use]
    pub fn size(&self, _ino: Ino) -> Option<u64> {
        None
    }

    /// The number that the next new file gets.
    #[must_use]
    pub fn next(&self) -> Ino {
        Ino(self.next)
    }
}
