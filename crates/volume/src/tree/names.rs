//! Names come and go.

use rustix::io::Errno;

use crate::{Ino, Kind, Stamp};

use super::inode::{Inode, Text, What};
use super::{LONGEST_NAME, MOST_LINKS, Tree};

impl Tree {
    /// [`Op::Make`](crate::Op::Make); `owner` is permissions, user and group.
    pub(super) fn make(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        kind: &Kind<'_>,
        (mode, uid, gid): (u32, u32, u32),
        at: Stamp,
    ) -> Result<(), Errno> {
        self.free_name(parent, name)?;
        valid(at)?;
        if ino != self.next || mode > 0o7777 {
            return Err(Errno::INVAL);
        }
        let next = self.next.0.checked_add(1).ok_or(Errno::NOSPC)?;
        let what = What::new(kind, parent)?;
        let is_directory = matches!(what, What::Directory(_));
        if is_directory && self.inode(parent)?.links == u32::MAX {
            return Err(Errno::MLINK);
        }
        self.inodes.insert(ino, Inode::new(what, mode, uid, gid, at));
        self.next = Ino(next);
        self.enter(parent, name, ino, is_directory, at);
        Ok(())
    }

    /// [`Op::Link`](crate::Op::Link).
    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &[u8], at: Stamp) -> Result<(), Errno> {
        let inode = self.inode(ino)?;
        self.free_name(parent, name)?;
        valid(at)?;
        if inode.is_directory() {
            return Err(Errno::PERM);
        }
        match inode.links {
            0 => return Err(Errno::NOENT),
            MOST_LINKS.. => return Err(Errno::MLINK),
            _ => {}
        }
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.links += 1;
            inode.ctime = at;
        }
        self.enter(parent, name, ino, false, at);
        Ok(())
    }

    /// [`Op::Unlink`](crate::Op::Unlink).
    pub(super) fn unlink(&mut self, parent: Ino, name: &[u8], open: bool, at: Stamp) -> Result<Vec<Ino>, Errno> {
        let ino = self.lookup(parent, name)?;
        valid(at)?;
        if self.inode(ino)?.is_directory() {
            return Err(Errno::ISDIR);
        }
        self.leave(parent, name, false, at);
        Ok(self.release(ino, open, at))
    }

    /// [`Op::Rmdir`](crate::Op::Rmdir).
    pub(super) fn rmdir(&mut self, parent: Ino, name: &[u8], at: Stamp) -> Result<(), Errno> {
        let ino = self.lookup(parent, name)?;
        valid(at)?;
        if !self.directory(ino)?.entries.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.leave(parent, name, true, at);
        self.inodes.remove(&ino);
        Ok(())
    }

    /// [`Op::Forget`](crate::Op::Forget).
    pub(super) fn forget(&mut self, ino: Ino) -> Result<Vec<Ino>, Errno> {
        self.inode(ino)?;
        if !self.orphans.remove(&ino) {
            return Err(Errno::BUSY);
        }
        Ok(self.remove(ino))
    }

    /// [`Op::Epoch`](crate::Op::Epoch).
    pub(super) fn drop_orphans(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.orphans).into_iter().flat_map(|ino| self.remove(ino)).collect()
    }

    /// Checks that a name can be given to something in the directory.
    pub(super) fn free_name(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let directory = self.directory(parent)?;
        valid_name(name)?;
        if directory.entries.contains_key(name) { Err(Errno::EXIST) } else { Ok(()) }
    }

    /// Enters a name that [`Tree::free_name`] has let pass.
    pub(super) fn enter(&mut self, parent: Ino, name: &[u8], ino: Ino, is_directory: bool, at: Stamp) {
        if let Some(inode) = self.inodes.get_mut(&parent) {
            if let Some(directory) = inode.directory_mut() {
                directory.entries.insert(Text::from(name), ino);
            }
            inode.links = inode.links.saturating_add(is_directory.into());
            inode.mtime = at;
            inode.ctime = at;
        }
        if is_directory && let Some(moved) = self.inodes.get_mut(&ino).and_then(Inode::directory_mut) {
            moved.parent = parent;
        }
    }

    /// Removes a name that is there.
    pub(super) fn leave(&mut self, parent: Ino, name: &[u8], is_directory: bool, at: Stamp) {
        if let Some(inode) = self.inodes.get_mut(&parent) {
            if let Some(directory) = inode.directory_mut() {
                directory.entries.remove(name);
            }
            inode.links = inode.links.saturating_sub(is_directory.into());
            inode.mtime = at;
            inode.ctime = at;
        }
    }

    /// A file that is no directory has a name less; returns what is no more.
    pub(super) fn release(&mut self, ino: Ino, open: bool, at: Stamp) -> Vec<Ino> {
        let Some(inode) = self.inodes.get_mut(&ino) else { return Vec::new() };
        inode.links = inode.links.saturating_sub(1);
        inode.ctime = at;
        match (inode.links, open) {
            (0, false) => self.remove(ino),
            (0, true) => {
                self.orphans.insert(ino);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn remove(&mut self, ino: Ino) -> Vec<Ino> {
        match self.inodes.remove(&ino) {
            Some(Inode { what: What::File { .. }, .. }) => vec![ino],
            _ => Vec::new(),
        }
    }
}

/// Checks that a name can be in a directory.
pub(super) fn valid_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        [] => Err(Errno::NOENT),
        _ if name.len() > LONGEST_NAME => Err(Errno::NAMETOOLONG),
        b"." | b".." => Err(Errno::EXIST),
        _ if name.iter().any(|b| matches!(b, 0 | b'/')) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

/// Checks that a time is one.
pub(super) fn valid(at: Stamp) -> Result<(), Errno> {
    if at.nanos < 1_000_000_000 { Ok(()) } else { Err(Errno::INVAL) }
}
