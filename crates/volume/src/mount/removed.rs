//! Files that are gone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Ino, Inode};

/// What files were that are gone, while the kernel still knows them: somebody works in a directory, or holds a pipe, and may
/// ask for its attributes.
#[derive(Debug, Default)]
pub(super) struct Removed(Mutex<HashMap<Ino, Inode>>);

impl Removed {
    /// Told before the call is answered that removes the file: until then the kernel has it.
    pub(super) fn add(&self, ino: Ino, mut inode: Inode) {
        inode.links = 0;
        self.inodes().insert(ino, inode);
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Inode> {
        self.inodes().get(&ino).cloned()
    }

    /// The kernel does not know the file any more.
    pub(super) fn forget(&self, ino: Ino) {
        self.inodes().remove(&ino);
    }

    fn inodes(&self) -> MutexGuard<'_, HashMap<Ino, Inode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
