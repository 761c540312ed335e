//! Files move.

use rustix::io::Errno;

use crate::{Ino, Renaming, Stamp};

use super::Tree;
use super::names::{valid, valid_name};

impl Tree {
    /// [`Op::Rename`](crate::Op::Rename). Returns what is no more.
    pub(super) fn rename(
        &mut self,
        (parent, name): (Ino, &[u8]),
        (to, new): (Ino, &[u8]),
        how: Renaming,
        open: bool,
        at: Stamp,
    ) -> Result<Vec<Ino>, Errno> {
        let source = self.lookup(parent, name)?;
        self.directory(to)?;
        valid_name(new)?;
        valid(at)?;
        let target = match (self.lookup(to, new), how) {
            (Ok(_), Renaming::Keep) => return Err(Errno::EXIST),
            (Ok(target), _) => Some(target),
            (Err(error), Renaming::Exchange) => return Err(error),
            (Err(_), _) => None,
        };
        let is_directory = self.inode(source)?.is_directory();
        if is_directory && self.is_within(to, source) {
            return Err(Errno::INVAL);
        }
        let Some(target) = target else {
            self.room_for(to, parent, is_directory)?;
            self.shift((parent, name), (to, new), source, is_directory, at);
            return Ok(Vec::new());
        };
        let onto_directory = self.inode(target)?.is_directory();
        if onto_directory && self.is_within(parent, target) {
            return Err(if how == Renaming::Exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if source == target {
            return Ok(Vec::new());
        }
        if how == Renaming::Exchange {
            self.exchange((parent, name, source, is_directory), (to, new, target, onto_directory), at)?;
            return Ok(Vec::new());
        }
        match (is_directory, onto_directory) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            (true, true) if !self.directory(target)?.entries.is_empty() => return Err(Errno::NOTEMPTY),
            // The directory that comes has the place of the one that goes.
            _ => {}
        }
        self.leave(to, new, onto_directory, at);
        let gone = if onto_directory {
            self.inodes.remove(&target);
            Vec::new()
        } else {
            self.release(target, open, at)
        };
        self.shift((parent, name), (to, new), source, is_directory, at);
        Ok(gone)
    }

    /// Moves to a name that is free.
    fn shift(&mut self, from: (Ino, &[u8]), to: (Ino, &[u8]), source: Ino, is_directory: bool, at: Stamp) {
        self.leave(from.0, from.1, is_directory, at);
        self.enter(to.0, to.1, source, is_directory, at);
        if let Some(inode) = self.inodes.get_mut(&source) {
            inode.ctime = at;
        }
    }

    fn exchange(
        &mut self,
        (parent, name, source, is_directory): (Ino, &[u8], Ino, bool),
        (to, new, target, onto_directory): (Ino, &[u8], Ino, bool),
        at: Stamp,
    ) -> Result<(), Errno> {
        self.room_for(to, parent, is_directory && !onto_directory)?;
        self.room_for(parent, to, onto_directory && !is_directory)?;
        self.leave(parent, name, is_directory, at);
        self.leave(to, new, onto_directory, at);
        self.enter(to, new, source, is_directory, at);
        self.enter(parent, name, target, onto_directory, at);
        for ino in [source, target] {
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.ctime = at;
            }
        }
        Ok(())
    }

    /// Checks that a directory can have one more directory in it.
    fn room_for(&self, to: Ino, from: Ino, is_directory: bool) -> Result<(), Errno> {
        if is_directory && to != from && self.inode(to)?.links == u32::MAX { Err(Errno::MLINK) } else { Ok(()) }
    }

    /// Whether `directory` is `above`, or somewhere below it.
    fn is_within(&self, mut directory: Ino, above: Ino) -> bool {
        // As long as there are directories at most: a snapshot that is broken has no other end.
        for _ in 0..=self.inodes.len() {
            match self.directory(directory) {
                _ if directory == above => return true,
                Ok(found) if directory != Ino::ROOT => directory = found.parent,
                _ => return false,
            }
        }
        true
    }
}
