//! Owner, permissions, times and extended attributes.

use rustix::io::Errno;

use crate::{Ino, Stamp};

use super::inode::Text;
use super::names::valid;
use super::{LARGEST_XATTR, LONGEST_NAME, Tree};

impl Tree {
    /// [`Op::Attributes`](crate::Op::Attributes); `owner` is permissions, user and group.
    pub(super) fn attributes(
        &mut self,
        ino: Ino,
        (mode, uid, gid): (Option<u32>, Option<u32>, Option<u32>),
        atime: Option<Stamp>,
        mtime: Option<Stamp>,
        ctime: Stamp,
    ) -> Result<(), Errno> {
        for time in [atime, mtime, Some(ctime)].into_iter().flatten() {
            valid(time)?;
        }
        if mode.is_some_and(|mode| mode > 0o7777) {
            return Err(Errno::INVAL);
        }
        let inode = self.inode_mut(ino)?;
        inode.mode = mode.unwrap_or(inode.mode);
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
        inode.atime = atime.unwrap_or(inode.atime);
        inode.mtime = mtime.unwrap_or(inode.mtime);
        inode.ctime = ctime;
        Ok(())
    }

    /// [`Op::SetXattr`](crate::Op::SetXattr).
    pub(super) fn set_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8], at: Stamp) -> Result<(), Errno> {
        valid_xattr(name)?;
        valid(at)?;
        if value.len() > LARGEST_XATTR {
            return Err(Errno::TOOBIG);
        }
        let inode = self.inode_mut(ino)?;
        if !inode.xattrs.contains_key(name) {
            let listed: usize = inode.xattrs.keys().map(|name| name.len() + 1).sum();
            if listed + name.len() + 1 > LARGEST_XATTR {
                return Err(Errno::NOSPC);
            }
        }
        inode.xattrs.insert(Text::from(name), Text::from(value));
        inode.ctime = at;
        Ok(())
    }

    /// [`Op::RemoveXattr`](crate::Op::RemoveXattr).
    pub(super) fn remove_xattr(&mut self, ino: Ino, name: &[u8], at: Stamp) -> Result<(), Errno> {
        valid_xattr(name)?;
        valid(at)?;
        let inode = self.inode_mut(ino)?;
        inode.xattrs.remove(name).ok_or(Errno::NODATA)?;
        inode.ctime = at;
        Ok(())
    }
}

fn valid_xattr(name: &[u8]) -> Result<(), Errno> {
    match name {
        [] => Err(Errno::RANGE),
        _ if name.len() > LONGEST_NAME => Err(Errno::RANGE),
        _ if name.contains(&0) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}
