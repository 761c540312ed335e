//! Sizes: the content itself is elsewhere.

use rustix::io::Errno;

use crate::{Growth, Ino, Stamp};

use super::inode::{Inode, What};
use super::names::valid;
use super::{LARGEST_FILE, Tree};

impl Tree {
    /// [`Op::Write`](crate::Op::Write) of `len` bytes.
    pub(super) fn write(&mut self, ino: Ino, offset: u64, len: u64, at: Stamp) -> Result<(), Errno> {
        let end = end(offset, len)?;
        valid(at)?;
        let (size, inode) = self.file(ino)?;
        // Nothing written is nothing changed: not even the size when it is beyond the end.
        if len > 0 {
            inode.what = What::File { size: size.max(end) };
            inode.mtime = at;
            inode.ctime = at;
        }
        Ok(())
    }

    /// [`Op::Resize`](crate::Op::Resize).
    pub(super) fn resize(&mut self, ino: Ino, size: u64, at: Stamp) -> Result<(), Errno> {
        end(size, 0)?;
        valid(at)?;
        let (_, inode) = self.file(ino)?;
        inode.what = What::File { size };
        inode.mtime = at;
        inode.ctime = at;
        Ok(())
    }

    /// [`Op::Reserve`](crate::Op::Reserve).
    pub(super) fn reserve(&mut self, ino: Ino, offset: u64, len: u64, growth: Growth, at: Stamp) -> Result<(), Errno> {
        let end = range(offset, len)?;
        valid(at)?;
        let (size, inode) = self.file(ino)?;
        if growth == Growth::Grows && end > size {
            inode.what = What::File { size: end };
            inode.mtime = at;
        }
        inode.ctime = at;
        Ok(())
    }

    /// [`Op::Clear`](crate::Op::Clear).
    pub(super) fn clear(&mut self, ino: Ino, offset: u64, len: u64, growth: Growth, at: Stamp) -> Result<(), Errno> {
        let end = range(offset, len)?;
        valid(at)?;
        let (size, inode) = self.file(ino)?;
        if growth == Growth::Grows {
            inode.what = What::File { size: size.max(end) };
        }
        inode.mtime = at;
        inode.ctime = at;
        Ok(())
    }

    /// An ordinary file, and its size.
    fn file(&mut self, ino: Ino) -> Result<(u64, &mut Inode), Errno> {
        let inode = self.inode_mut(ino)?;
        match inode.what {
            What::File { size } => Ok((size, inode)),
            What::Directory(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }
}

fn end(offset: u64, len: u64) -> Result<u64, Errno> {
    offset.checked_add(len).filter(|end| *end <= LARGEST_FILE).ok_or(Errno::FBIG)
}

fn range(offset: u64, len: u64) -> Result<u64, Errno> {
    if len == 0 { Err(Errno::INVAL) } else { end(offset, len) }
}
