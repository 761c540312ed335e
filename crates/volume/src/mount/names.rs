//! Names come and go.

use fuser::{RenameFlags, Request};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::{Ino, Inode, Kind, Op, Renaming, Store, What};

use super::attr::{SGID, now};
use super::served::Served;

impl<S: Store> Served<S> {
    /// A new file, for the user that asks.
    pub(super) fn make(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        kind: Kind<'_>,
        mode: u32,
    ) -> Result<Ino, Errno> {
        let (uid, mut gid, mut mode) = (request.uid(), request.gid(), mode & 0o7777);
        self.store.change(|tree| {
            let directory = tree.get(parent).ok_or(Errno::NOENT)?;
            // What is made in a directory with the set-group bit is its group's, and directories hand the bit on.
            if directory.mode & SGID != 0 {
                gid = directory.gid;
                if matches!(kind, Kind::Directory) {
                    mode |= SGID;
                }
            }
            let ino = tree.next();
            Ok((Op::Make { parent, name: name.into(), ino, kind, mode, uid, gid, at: now() }, ino))
        })
    }

    pub(super) fn make_node(
        &self,
        request: &Request,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Ino, Errno> {
        let kind = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Kind::File,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice(rdev.into()),
            FileType::BlockDevice => Kind::BlockDevice(rdev.into()),
            _ => return Err(Errno::INVAL),
        };
        self.make(request, parent, name, kind, mode)
    }

    pub(super) fn link_name(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Ino, Errno> {
        self.store.change(|_| Ok((Op::Link { ino, parent, name: name.into(), at: now() }, ino)))
    }

    pub(super) fn unlink_name(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let (ino, last) = self.store.change(|tree| {
            let ino = tree.lookup(parent, name)?;
            let open = self.opens.is_open(ino);
            let last = tree.get(ino).filter(|inode| !open && inode.links == 1).cloned();
            Ok((Op::Unlink { parent, name: name.into(), open, at: now() }, (ino, last)))
        })?;
        self.lost_name(ino, last);
        Ok(())
    }

    pub(super) fn remove_directory(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let (ino, inode) = self.store.change(|tree| {
            let ino = tree.lookup(parent, name)?;
            let inode = tree.get(ino).filter(|inode| is_empty(inode)).cloned();
            Ok((Op::Rmdir { parent, name: name.into(), at: now() }, (ino, inode)))
        })?;
        if let Some(inode) = inode {
            self.removed.add(ino, inode);
        }
        Ok(())
    }

    pub(super) fn rename_name(
        &self,
        (parent, name): (Ino, &[u8]),
        (to, new): (Ino, &[u8]),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let how = match flags.bits() {
            0 => Renaming::Replace,
            bits if bits == RenameFlags::RENAME_NOREPLACE.bits() => Renaming::Keep,
            bits if bits == RenameFlags::RENAME_EXCHANGE.bits() => Renaming::Exchange,
            _ => return Err(Errno::INVAL),
        };
        let replaced = self.store.change(|tree| {
            let target = tree.lookup(to, new).ok().filter(|_| how == Renaming::Replace);
            let open = target.is_some_and(|ino| self.opens.is_open(ino));
            let last = |inode: &&Inode| is_empty(inode) || (!inode.is_directory() && !open && inode.links == 1);
            let replaced = target.map(|ino| (ino, tree.get(ino).filter(last).cloned()));
            let op = Op::Rename { parent, name: name.into(), to, new: new.into(), how, open, at: now() };
            Ok((op, replaced))
        })?;
        if let Some((ino, last)) = replaced {
            self.lost_name(ino, last);
        }
        Ok(())
    }

    /// A name is gone; `last`: what the file was, if it is gone with it.
    fn lost_name(&self, ino: Ino, last: Option<Inode>) {
        match last {
            Some(inode) => self.removed.add(ino, inode),
            None => self.closed_meanwhile(ino),
        }
    }

    pub(super) fn target(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.store.look(|tree| match tree.get(ino).map(|inode| &inode.what) {
            Some(What::Symlink(target)) => Ok(target.to_vec()),
            Some(_) => Err(Errno::INVAL),
            None => Err(Errno::NOENT),
        })
    }

    pub(super) fn open_file(&self, ino: Ino) -> Result<(), Errno> {
        // Counted first: whoever removes the name from now on leaves the file. The kernel looks for the name again when the
        // file is gone already.
        self.opens.open(ino);
        if self.store.look(|tree| tree.get(ino).is_some_and(Inode::is_file)) {
            return Ok(());
        }
        self.opens.close(ino);
        Err(Errno::STALE)
    }

    pub(super) fn close_file(&self, ino: Ino) {
        if self.opens.close(ino) {
            self.closed_meanwhile(ino);
        }
    }

    /// Gives the file up if it has no name and is not open. Both who closes and who removes the name ask, in any order.
    fn closed_meanwhile(&self, ino: Ino) {
        let orphan = self.store.look(|tree| tree.get(ino).filter(|_| tree.is_orphan(ino)).cloned());
        let Some(inode) = orphan.filter(|_| !self.opens.is_open(ino)) else { return };
        // The kernel knows it until it forgets it, and may still write its times back: it must find it here once it is gone there.
        self.removed.add(ino, inode);
        let forgotten = self.store.change(|tree| {
            if tree.is_orphan(ino) && !self.opens.is_open(ino) {
                Ok((Op::Forget { ino }, ()))
            } else {
                Err(Errno::NOENT)
            }
        });
        if let Err(error) = forgotten
            && error != Errno::NOENT
        {
            // It goes with the next epoch.
            tracing::warn!(ino = ino.0, %error, "a file without a name stays");
        }
    }
}

/// Whether it is a directory with nothing in it.
fn is_empty(inode: &Inode) -> bool {
    inode.directory().is_some_and(|directory| directory.entries.is_empty())
}
