//! Content and attributes change.

use std::borrow::Cow;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::{Growth, Ino, Op, Stamp, Store};

use super::attr::{Asker, now, tamed};
use super::served::Served;

/// Attributes that are to change: what is `None` stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) atime: Option<Stamp>,
    pub(super) mtime: Option<Stamp>,
    pub(super) ctime: Stamp,
}

/// Set on files whose programs run with more than their user's rights.
const CAPABILITIES: &[u8] = b"security.capability";

impl<S: Store> Served<S> {
    /// Changes attributes.
    pub(super) fn set(&self, ino: Ino, change: Change, by: Asker) -> Result<(), Errno> {
        if let Some(size) = change.size {
            if !by.is_root() {
                self.tame(ino, by)?;
            }
            let at = change.mtime.unwrap_or(change.ctime);
            self.store.change(|_| Ok((Op::Resize { ino, size, at }, ())))?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            self.tame(ino, by)?;
        }
        // Nothing is logged that changes nothing.
        let differs = self.store.look(|tree| {
            let inode = tree.get(ino).ok_or(Errno::NOENT)?;
            let mut differs = change.ctime != inode.ctime;
            for (new, old) in [(change.mode, inode.mode), (change.uid, inode.uid), (change.gid, inode.gid)] {
                differs |= new.is_some_and(|new| new != old);
            }
            for (new, old) in [(change.atime, inode.atime), (change.mtime, inode.mtime)] {
                differs |= new.is_some_and(|new| new != old);
            }
            Ok(differs)
        })?;
        if !differs || (change.size.is_some() && change.is_only_size()) {
            return Ok(());
        }
        let Change { mode, uid, gid, atime, mtime, ctime, .. } = change;
        self.store.change(|_| Ok((Op::Attributes { ino, mode, uid, gid, atime, mtime, ctime }, ())))
    }

    /// Writes; `tame`: it may not leave the file with a set-user bit.
    pub(super) fn write_content(&self, ino: Ino, offset: u64, data: &[u8], tame: Option<Asker>) -> Result<(), Errno> {
        if let Some(by) = tame {
            self.tame(ino, by)?;
        }
        self.store.change(|_| Ok((Op::Write { ino, offset, data: Cow::Borrowed(data), at: now() }, ())))
    }

    pub(super) fn allocate(&self, ino: Ino, offset: u64, len: u64, mode: i32, by: Asker) -> Result<(), Errno> {
        let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let growth = if flags.contains(FallocateFlags::KEEP_SIZE) { Growth::Keeps } else { Growth::Grows };
        let rest = flags.difference(FallocateFlags::KEEP_SIZE);
        let clears = match (rest, growth) {
            (rest, _) if rest.is_empty() => false,
            (FallocateFlags::PUNCH_HOLE, Growth::Keeps) | (FallocateFlags::ZERO_RANGE, _) => true,
            _ => return Err(Errno::OPNOTSUPP),
        };
        if !by.is_root() {
            self.tame(ino, by)?;
        }
        let at = now();
        self.store.change(|_| {
            let op = if clears {
                Op::Clear { ino, offset, len, growth, at }
            } else {
                Op::Reserve { ino, offset, len, growth, at }
            };
            Ok((op, ()))
        })
    }

    /// Takes away what lets a program run with more rights than its user's.
    fn tame(&self, ino: Ino, by: Asker) -> Result<(), Errno> {
        let (mode, capabilities) = self.store.look(|tree| {
            let inode = tree.get(ino).ok_or(Errno::NOENT)?;
            Ok((tamed(inode, by), inode.xattrs.contains_key(CAPABILITIES)))
        })?;
        if mode.is_some() {
            let ctime = now();
            self.store.change(|_| {
                Ok((Op::Attributes { ino, mode, uid: None, gid: None, atime: None, mtime: None, ctime }, ()))
            })?;
        }
        if capabilities {
            self.store.change(|_| Ok((Op::RemoveXattr { ino, name: CAPABILITIES.into(), at: now() }, ())))?;
        }
        Ok(())
    }
}

impl Change {
    /// Whether nothing but times changes.
    pub(super) fn is_only_times(&self) -> bool {
        self.size.is_none() && self.mode.or(self.uid).or(self.gid).is_none()
    }

    /// Whether a new size, with the time that it brings, is all that changes.
    fn is_only_size(&self) -> bool {
        let attributes = self.mode.or(self.uid).or(self.gid).is_some();
        !attributes && self.atime.is_none() && self.mtime.is_none_or(|mtime| mtime == self.ctime)
    }
}
