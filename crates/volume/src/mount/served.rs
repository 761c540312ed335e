//! A mounted volume, and how it answers.

use std::io;
use std::sync::Arc;

use fuser::{Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};
use rustix::io::Errno;

use crate::{Ino, Store};

use super::MountOptions;
use super::attr::{attr, believed, errno, named};
use super::directories::Directories;
use super::opens::Opens;
use super::reads::Reads;
use super::removed::Removed;

/// A mounted volume, as the kernel sees it.
#[derive(Debug)]
pub(super) struct Served<S> {
    pub(super) store: Arc<S>,
    pub(super) opens: Opens,
    pub(super) directories: Directories,
    pub(super) removed: Removed,
    pub(super) reads: Reads<S>,
}

impl<S: Store> Served<S> {
    pub(super) fn new(store: Arc<S>, options: &MountOptions) -> io::Result<Self> {
        let here = options.threads.max(2).saturating_sub(1);
        let reads = Reads::new(store.clone(), here, options.readers)?;
        Ok(Self {
            store,
            opens: Opens::default(),
            directories: Directories::default(),
            removed: Removed::default(),
            reads,
        })
    }

    /// Tells the kernel of a file that it asked for by its name, or made.
    pub(super) fn entry(&self, ino: Result<Ino, Errno>, reply: ReplyEntry) {
        let found = ino.and_then(|ino| {
            self.store.look(|tree| tree.get(ino).map(|inode| (attr(ino, inode), believed(inode)))).ok_or(Errno::NOENT)
        });
        match found {
            Ok((attr, believed)) => reply.entry_with_ttls(&believed, &named(), &attr, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Tells it a file's attributes, be the file gone even.
    pub(super) fn attributes(&self, ino: Ino, reply: ReplyAttr) {
        match self.store.look(|tree| tree.get(ino).map(|inode| (attr(ino, inode), believed(inode)))) {
            Some((attr, believed)) => reply.attr(&believed, &attr),
            None => match self.removed.get(ino) {
                Some(inode) => reply.attr(&believed(&inode), &attr(ino, &inode)),
                None => reply.error(fuser::Errno::ENOENT),
            },
        }
    }

    /// Answers once everything up to now is acknowledged.
    pub(super) fn sync(&self, reply: ReplyEmpty) {
        self.store.sync(Box::new(move |done| empty(done, reply)));
    }
}

pub(super) fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

/// A value, or its size when no room for it is offered.
pub(super) fn sized(value: Result<Vec<u8>, Errno>, room: u32, reply: ReplyXattr) {
    match value.map(|value| (u32::try_from(value.len()).unwrap_or(u32::MAX), value)) {
        Ok((size, _)) if room == 0 => reply.size(size),
        Ok((size, _)) if size > room => reply.error(fuser::Errno::ERANGE),
        Ok((_, value)) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}
