//! Directories that are open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::{Ino, Inode, Store, Text};

use super::served::Served;

/// What was in a directory when its first page was read: who reads on sees each file once, whatever comes and goes.
type Listing = Arc<Vec<(Text, Ino)>>;

/// Open directories, by handle.
#[derive(Debug, Default)]
pub(super) struct Directories(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Listing>,
}

/// One line of a listing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) ino: Ino,
    pub(super) inode: &'a Inode,
    pub(super) name: &'a [u8],
    /// Where to read on after it.
    pub(super) next: u64,
}

impl Directories {
    /// A handle.
    pub(super) fn open(&self) -> u64 {
        let mut inner = self.inner();
        inner.next += 1;
        let handle = inner.next;
        inner.open.insert(handle, Listing::default());
        handle
    }

    pub(super) fn close(&self, handle: u64) {
        self.inner().open.remove(&handle);
    }

    fn listing(&self, handle: u64) -> Option<Listing> {
        self.inner().open.get(&handle).cloned()
    }

    fn list(&self, handle: u64, listing: Listing) {
        if let Some(open) = self.inner().open.get_mut(&handle) {
            *open = listing;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Store> Served<S> {
    /// Hands over one entry after the other from `offset` on, until there are no more or `add` says that it is full.
    pub(super) fn read_directory(
        &self,
        ino: Ino,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<(), Errno> {
        self.store.look(|tree| {
            // Of a directory that is gone nothing is left to read, not even itself.
            let Some(inode) = tree.get(ino) else { return Ok(()) };
            let directory = inode.directory().ok_or(Errno::NOTDIR)?;
            let listing = if offset == 0 {
                let entries = directory.entries.iter().map(|(name, ino)| (name.clone(), *ino));
                let listing = Listing::new(entries.collect());
                self.directories.list(handle, listing.clone());
                listing
            } else {
                self.directories.listing(handle).ok_or(Errno::BADF)?
            };
            let dots = [(&b"."[..], ino), (&b".."[..], directory.parent)];
            let names = listing.iter().map(|(name, ino)| (&**name, *ino));
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            for (next, (name, ino)) in (1..).zip(dots.into_iter().chain(names)).skip(from) {
                let is_dot = next <= 2;
                if !is_dot && directory.entries.get(name) != Some(&ino) {
                    continue;
                }
                let Some(inode) = tree.get(ino) else { continue };
                if add(Entry { ino, inode, name, next }) {
                    break;
                }
            }
            Ok(())
        })
    }
}
