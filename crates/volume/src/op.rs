//! The operations that a volume's log is made of.
//!
//! Each says all that it changes, times and numbers too, so that every copy that applies it comes to the same.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use trine_protocol::Epoch;

/// A file's number. Never used again for another file, so an operation on one that is gone can't hit its successor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ino(pub u64);

impl Ino {
    /// The volume's own directory.
    pub const ROOT: Self = Self(1);
}

/// A time, since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Whole seconds; negative before 1970.
    pub secs: i64,
    /// Nanoseconds of the second that has begun, below 1,000,000,000.
    pub nanos: u32,
}

/// A name in a directory, or a target of a symbolic link: any bytes but NUL (and in a name, `/`).
pub type Name<'a> = Cow<'a, [u8]>;

/// What a file is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind<'a> {
    /// An ordinary file, empty at first.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and where it leads.
    Symlink(#[serde(borrow, with = "bytes")] Name<'a>),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A device that takes characters, by its number.
    CharDevice(u64),
    /// A device of blocks, by its number.
    BlockDevice(u64),
}

/// How a rename treats a name that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Renaming {
    /// It replaces it.
    Replace,
    /// It fails (`RENAME_NOREPLACE`).
    Keep,
    /// The two change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// Whether a range that is written or reserved beyond the end makes the file longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Growth {
    /// It does.
    Grows,
    /// The size stays (`FALLOC_FL_KEEP_SIZE`).
    Keeps,
}

/// A part of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Region {
    /// All but content.
    Tree,
    /// Content of a file, as far as it goes.
    Content {
        /// Which.
        ino: Ino,
        /// Where it begins, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// One change. Borrowed where it comes from, so that 1 MiB that is written is not copied for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op<'a> {
    /// A new primary: what follows is of this epoch. What was open at the one before is closed, so files without a name go.
    Epoch {
        /// Which.
        epoch: Epoch,
    },
    /// Changes nothing: once it is acknowledged, so is everything before it.
    Barrier,
    /// A new file, of any kind, under a name that is free.
    Make {
        /// The directory.
        parent: Ino,
        /// The name in it.
        #[serde(borrow, with = "bytes")]
        name: Name<'a>,
        /// Its number: the volume's next.
        ino: Ino,
        /// What it is.
        #[serde(borrow)]
        kind: Kind<'a>,
        /// Permissions, the lowest 12 bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// When.
        at: Stamp,
    },
    /// Another name for a file.
    Link {
        /// The file; no directory.
        ino: Ino,
        /// The directory.
        parent: Ino,
        /// The name in it, free so far.
        #[serde(borrow, with = "bytes")]
        name: Name<'a>,
        /// When.
        at: Stamp,
    },
    /// A name goes, and with the last one the file, unless it is open.
    Unlink {
        /// The directory.
        parent: Ino,
        /// The name in it; no directory's.
        #[serde(borrow, with = "bytes")]
        name: Name<'a>,
        /// Somebody has it open: without a name it stays until [`Op::Forget`].
        open: bool,
        /// When.
        at: Stamp,
    },
    /// An empty directory goes.
    Rmdir {
        /// The directory that it is in.
        parent: Ino,
        /// Its name there.
        #[serde(borrow, with = "bytes")]
        name: Name<'a>,
        /// When.
        at: Stamp,
    },
    /// A file or directory gets another name.
    Rename {
        /// The directory that it is in.
        parent: Ino,
        /// Its name there.
        #[serde(borrow, with = "bytes")]
        name: Name<'a>,
        /// The directory that it goes to.
        to: Ino,
        /// Its name there.
        #[serde(borrow, with = "bytes")]
        new: Name<'a>,
        /// What becomes of what has that name already.
        how: Renaming,
        /// A file that is replaced is open: see [`Op::Unlink`].
        open: bool,
        /// When.
        at: Stamp,
    },
    /// Nobody has the file open any more, and it has no name: it goes.
    Forget {
        /// Which.
        ino: Ino,
    },
    /// Content.
    Write {
        /// The file.
        ino: Ino,
        /// Where it begins, in bytes.
        offset: u64,
        /// What.
        #[serde(borrow, with = "bytes")]
        data: Cow<'a, [u8]>,
        /// When: the new time of change. The file's set-user and set-group bits stay as they are.
        at: Stamp,
    },
    /// A new size: what is beyond goes, what is missing reads as zeros.
    Resize {
        /// The file.
        ino: Ino,
        /// In bytes.
        size: u64,
        /// When.
        at: Stamp,
    },
    /// Room is reserved; content does not change, what is new reads as zeros.
    Reserve {
        /// The file.
        ino: Ino,
        /// Where it begins, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Does the file become longer?
        growth: Growth,
        /// When.
        at: Stamp,
    },
    /// A range becomes zeros, and its room may be given back.
    Clear {
        /// The file.
        ino: Ino,
        /// Where it begins, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Does the file become longer?
        growth: Growth,
        /// When.
        at: Stamp,
    },
    /// Owner, permissions, times: what is `None` stays.
    Attributes {
        /// The file.
        ino: Ino,
        /// Permissions, the lowest 12 bits.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Last read.
        atime: Option<Stamp>,
        /// Content last changed.
        mtime: Option<Stamp>,
        /// Anything last changed: when.
        ctime: Stamp,
    },
    /// An extended attribute is set.
    SetXattr {
        /// The file.
        ino: Ino,
        /// The attribute.
        #[serde(borrow, with = "bytes")]
        name: Name<'a>,
        /// Its value.
        #[serde(borrow, with = "bytes")]
        value: Cow<'a, [u8]>,
        /// When.
        at: Stamp,
    },
    /// An extended attribute goes.
    RemoveXattr {
        /// The file.
        ino: Ino,
        /// The attribute.
        #[serde(borrow, with = "bytes")]
        name: Name<'a>,
        /// When.
        at: Stamp,
    },
    /// Changes nothing: every copy that applies it looks at what it has there, so that they can be compared.
    Verify {
        /// At what.
        region: Region,
    },
    /// Content that most copies have already: the others get it by this. No attribute changes.
    Repair {
        /// The file; if it is no more, nothing happens.
        ino: Ino,
        /// Where it begins, in bytes; all of it is within the file.
        offset: u64,
        /// What.
        #[serde(borrow, with = "bytes")]
        data: Cow<'a, [u8]>,
    },
}

/// Bytes that are borrowed when read.
mod bytes {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::ptr_arg, reason = "serde hands over what the field is")]
    pub(super) fn serialize<S: Serializer>(bytes: &Cow<'_, [u8]>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Cow<'de, [u8]>, D::Error> {
        <&'de serde_bytes::Bytes>::deserialize(d).map(|b| Cow::Borrowed(&**b))
    }
}
