//! Names, attributes and sizes of a volume's files.
//!
//! An operation comes from this node's mount or from another node's log, where it may be anything: each is checked before
//! the first thing is changed.

mod attributes;
mod check;
mod content;
mod inode;
mod names;
mod rename;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use check::Broken;
pub use inode::{Directory, Inode, Text, What};

use crate::{Ino, Op, Stamp};

/// The longest name, in bytes.
pub const LONGEST_NAME: usize = 255;
/// The longest target of a symbolic link, in bytes: `PATH_MAX` without its NUL.
pub const LONGEST_TARGET: usize = 4095;
/// The longest value of an extended attribute, and the longest list of a file's names of them with their NULs, in bytes.
pub const LARGEST_XATTR: usize = 64 << 10;
/// The most names that a file can have; directories may have any number of subdirectories.
pub const MOST_LINKS: u32 = 65_000;
/// The largest file, in bytes: what the system calls can name.
pub const LARGEST_FILE: u64 = i64::MAX as u64;

/// All of a volume but the files' content: pure, the same on every copy that has applied the same operations.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    /// Files without a name that somebody has open.
    orphans: BTreeSet<Ino>,
    next: Ino,
}

impl Tree {
    /// An empty volume: a directory of mode 0700.
    #[must_use]
    pub fn new(uid: u32, gid: u32, at: Stamp) -> Self {
        let root = Inode::new(What::Directory(Directory::new(Ino::ROOT)), 0o700, uid, gid, at);
        Self {
            inodes: BTreeMap::from([(Ino::ROOT, root)]),
            orphans: BTreeSet::new(),
            next: Ino(Ino::ROOT.0.saturating_add(1)),
        }
    }

    /// Makes the change, whole or not at all. Returns the ordinary files that are no more: their content can go.
    ///
    /// # Errors
    /// What the call that asks for it gets. On a copy: it is not what the log's writer had.
    pub fn apply(&mut self, op: &Op<'_>) -> Result<Vec<Ino>, Errno> {
        match op {
            Op::Epoch { .. } => return Ok(self.drop_orphans()),
            Op::Barrier | Op::Verify { .. } | Op::Repair { .. } => {}
            Op::Make { parent, name, ino, kind, mode, uid, gid, at } => {
                self.make(*parent, name, *ino, kind, (*mode, *uid, *gid), *at)?;
            }
            Op::Link { ino, parent, name, at } => self.link(*ino, *parent, name, *at)?,
            Op::Unlink { parent, name, open, at } => return self.unlink(*parent, name, *open, *at),
            Op::Rmdir { parent, name, at } => self.rmdir(*parent, name, *at)?,
            Op::Rename { parent, name, to, new, how, open, at } => {
                return self.rename((*parent, name), (*to, new), *how, *open, *at);
            }
            Op::Forget { ino } => return self.forget(*ino),
            Op::Write { ino, offset, data, at } => self.write(*ino, *offset, data.len() as u64, *at)?,
            Op::Resize { ino, size, at } => self.resize(*ino, *size, *at)?,
            Op::Reserve { ino, offset, len, growth, at } => self.reserve(*ino, *offset, *len, *growth, *at)?,
            Op::Clear { ino, offset, len, growth, at } => self.clear(*ino, *offset, *len, *growth, *at)?,
            Op::Attributes { ino, mode, uid, gid, atime, mtime, ctime } => {
                self.attributes(*ino, (*mode, *uid, *gid), *atime, *mtime, *ctime)?;
            }
            Op::SetXattr { ino, name, value, at } => self.set_xattr(*ino, name, value, *at)?,
            Op::RemoveXattr { ino, name, at } => self.remove_xattr(*ino, name, *at)?,
        }
        Ok(Vec::new())
    }

    /// A file; `None`: there is none of this number (any more).
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino)
    }

    /// The file of this name.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`: of the directory or the name; `ENAMETOOLONG`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Ino, Errno> {
        let directory = self.directory(parent)?;
        if name.len() > LONGEST_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        directory.entries.get(name).copied().ok_or(Errno::NOENT)
    }

    /// A file's size, in bytes; `None`: there is no such file.
    #[must_use]
    pub fn size(&self, ino: Ino) -> Option<u64> {
        match self.get(ino)?.what {
            What::File { size } => Some(size),
            _ => None,
        }
    }

    /// Whether the file has no name and stays only until it is closed.
    #[must_use]
    pub fn is_orphan(&self, ino: Ino) -> bool {
        self.orphans.contains(&ino)
    }

    /// The number that the next new file gets.
    #[must_use]
    pub fn next(&self) -> Ino {
        self.next
    }

    /// All files, by number, those without a name too.
    pub fn iter(&self) -> impl Iterator<Item = (Ino, &Inode)> {
        self.inodes.iter().map(|(ino, inode)| (*ino, inode))
    }

    /// How many files of any kind there are, the volume's own directory among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never: the volume's own directory is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::NOENT)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::NOENT)
    }

    fn directory(&self, ino: Ino) -> Result<&Directory, Errno> {
        self.inode(ino)?.directory().ok_or(Errno::NOTDIR)
    }
}

/// The volume of root, made at the epoch.
impl Default for Tree {
    fn default() -> Self {
        Self::new(0, 0, Stamp::default())
    }
}
