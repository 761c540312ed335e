//! A replicated volume: a directory, mounted by FUSE, whose every change is a numbered operation in a log. The log is the
//! volume: a copy of it on other nodes is a copy of the volume, and what a copy is made of can be made again from the log.
//!
//! [`Tree`] is what the operations make of names and attributes, pure; the files' content is kept apart from it, by the
//! files' numbers. `docs/volume.md` says why.

mod op;
mod store;
mod tree;

pub use op::{Growth, Ino, Kind, Name, Op, Renaming, Stamp};
pub use store::{Room, Store};
pub use tree::{
    Broken, Directory, Inode, LARGEST_FILE, LARGEST_XATTR, LONGEST_NAME, LONGEST_TARGET, MOST_LINKS, Text, Tree, What,
};
