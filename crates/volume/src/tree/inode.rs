//! One file of any kind.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Ino, Kind, Stamp};

use super::LONGEST_TARGET;

/// What there is to know of a file but its content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inode {
    /// What it is.
    pub what: What,
    /// Permissions, the lowest 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many names it has; a directory: 2, and one for each directory in it.
    pub links: u32,
    /// Last read, as far as anybody says.
    pub atime: Stamp,
    /// Content last changed.
    pub mtime: Stamp,
    /// Anything last changed.
    pub ctime: Stamp,
    /// Extended attributes.
    pub xattrs: BTreeMap<Text, Text>,
}

/// What a file is, with what only such a file has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum What {
    /// An ordinary file.
    File {
        /// In bytes.
        size: u64,
    },
    /// A directory.
    Directory(Directory),
    /// A symbolic link, and where it leads.
    Symlink(Text),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A device that takes characters, by its number.
    CharDevice(u32),
    /// A device of blocks, by its number.
    BlockDevice(u32),
}

/// What is in a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Directory {
    /// The directory that it is in; the volume's own: itself.
    pub parent: Ino,
    /// The names in it, without `.` and `..`.
    pub entries: BTreeMap<Text, Ino>,
}

impl Inode {
    pub(super) fn new(what: What, mode: u32, uid: u32, gid: u32, at: Stamp) -> Self {
        let links = if matches!(what, What::Directory(_)) { 2 } else { 1 };
        Self { what, mode, uid, gid, links, atime: at, mtime: at, ctime: at, xattrs: BTreeMap::new() }
    }

    /// What is in it, if it is a directory.
    #[must_use]
    pub fn directory(&self) -> Option<&Directory> {
        match &self.what {
            What::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn directory_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.what {
            What::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Whether it is an ordinary file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self.what, What::File { .. })
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.what, What::Directory(_))
    }

    /// Its content's size, in bytes, as `stat` tells it.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.what {
            What::File { size } => *size,
            What::Symlink(target) => target.len() as u64,
            // As good as any: nobody else's directory is measured alike.
            What::Directory(directory) => 32 * directory.entries.len() as u64,
            What::Fifo | What::Socket | What::CharDevice(_) | What::BlockDevice(_) => 0,
        }
    }
}

impl Directory {
    pub(super) fn new(parent: Ino) -> Self {
        Self { parent, entries: BTreeMap::new() }
    }
}

impl What {
    /// What a new file is.
    pub(super) fn new(kind: &Kind<'_>, parent: Ino) -> Result<Self, Errno> {
        let device = |number: u64| u32::try_from(number).map_err(|_| Errno::INVAL);
        Ok(match kind {
            Kind::File => Self::File { size: 0 },
            Kind::Directory => Self::Directory(Directory::new(parent)),
            Kind::Symlink(target) if target.is_empty() => return Err(Errno::NOENT),
            Kind::Symlink(target) if target.len() > LONGEST_TARGET => return Err(Errno::NAMETOOLONG),
            Kind::Symlink(target) if target.contains(&0) => return Err(Errno::INVAL),
            Kind::Symlink(target) => Self::Symlink(Text::from(&**target)),
            Kind::Fifo => Self::Fifo,
            Kind::Socket => Self::Socket,
            Kind::CharDevice(number) => Self::CharDevice(device(*number)?),
            Kind::BlockDevice(number) => Self::BlockDevice(device(*number)?),
        })
    }
}

/// Bytes that don't change: a copy costs nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<[u8]>);

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl std::ops::Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        serde_bytes::ByteBuf::deserialize(d).map(|bytes| Self(Arc::from(bytes.into_vec())))
    }
}
