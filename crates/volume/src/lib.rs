//! A replicated volume: a directory, mounted by FUSE, whose every change is a numbered operation in a log. The log is the
//! volume: a copy of it on other nodes is a copy of the volume, and what a copy is made of can be made again from the log.
//!
//! [`Tree`] is what the operations make of names and attributes, pure; the files' content is kept apart from it, by the
//! files' numbers. `docs/volume.md` says why.

mod apply;
mod checkpoint;
mod entry;
mod error;
mod journal;
mod lineage;
pub mod link;
mod medium;
mod mount;
mod op;
mod primary;
mod shared;
mod sizes;
mod standby;
mod state;
#[doc(hidden)]
pub mod steps;
mod store;
mod tree;
mod unapplied;
mod verify;
mod volume;

pub use entry::Mark;
pub use error::VolumeError;
pub use lineage::Lineage;
pub use medium::{Disk, Folder, Medium, Part};
pub use mount::{Mount, MountError, MountOptions, abort_at, clean_stale};
pub use op::{Growth, Ino, Kind, Name, Op, Region, Renaming, Stamp};
#[doc(hidden)]
pub use sizes::Sizes;
pub use state::{Acked, Follower, Grade, Progress};
pub use store::{Room, Store};
pub use tree::{
    Broken, Directory, Inode, LARGEST_FILE, LARGEST_XATTR, LONGEST_NAME, LONGEST_TARGET, MOST_LINKS, Text, Tree, What,
};
pub use verify::{Findings, Found, LARGEST_REGION, Verdict};
pub use volume::{Settings, Volume, identity_of};
