//! Why a volume can't be mounted or unmounted.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Why a volume can't be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point is missing.
    #[error("can't mount the volume at {}: there is no such directory; make it first", at.display())]
    Missing {
        /// The mount point.
        at: PathBuf,
    },
    /// The mount point is a file.
    #[error("can't mount the volume at {}: it is not a directory", at.display())]
    NoDirectory {
        /// The mount point.
        at: PathBuf,
    },
    /// The mount point can't be looked at.
    #[error("can't mount the volume at {}: {error}", at.display())]
    Unreadable {
        /// The mount point.
        at: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something would be hidden.
    #[error(
        "can't mount the volume at {}: the directory is not empty ({} is in it) and would be hidden; move that away, or name \
         another directory",
        at.display(), found.display()
    )]
    NotEmpty {
        /// The mount point.
        at: PathBuf,
        /// What is there.
        found: OsString,
    },
    /// Something else is mounted.
    #[error(
        "can't mount the volume at {}: a file system ({by}) is mounted there already; unmount it (umount {}) when nothing \
         needs it, or name another directory", at.display(), at.display()
    )]
    InUse {
        /// The mount point.
        at: PathBuf,
        /// Of which kind.
        by: String,
    },
    /// There is no FUSE.
    #[error(
        "can't mount the volume at {}: /dev/fuse: {error}; load the kernel's module (modprobe fuse), and in a container pass \
         the device on (--device /dev/fuse)", at.display()
    )]
    NoDevice {
        /// The mount point.
        at: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// This process may not mount.
    #[error(
        "can't mount the volume at {}: {why}; run as root (in a container, with --cap-add SYS_ADMIN and --device /dev/fuse), \
         or install fusermount3 (package fuse3) and make /dev/fuse everybody's (chmod 666 /dev/fuse)", at.display()
    )]
    NotPermitted {
        /// The mount point.
        at: PathBuf,
        /// Why.
        why: String,
    },
    /// The kernel refuses.
    #[error("can't mount the volume at {}: {error}", at.display())]
    Refused {
        /// The mount point.
        at: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It was unmounted again while it was mounted.
    #[error("can't mount the volume at {}: somebody has unmounted it meanwhile", at.display())]
    Gone {
        /// The mount point.
        at: PathBuf,
    },
    /// Somebody uses it.
    #[error(
        "can't unmount the volume at {}: a process has a file open there, or works there; `fuser -vm {}` shows which",
        at.display(), at.display()
    )]
    Busy {
        /// The mount point.
        at: PathBuf,
    },
    /// It does not end.
    #[error("can't unmount the volume at {}: {error}", at.display())]
    Stuck {
        /// The mount point.
        at: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl MountError {
    pub(super) fn threads(at: &Path, error: io::Error) -> Self {
        let error = io::Error::new(error.kind(), format!("no thread can be started: {error}"));
        Self::Refused { at: at.to_owned(), error }
    }

    pub(super) fn handshake(at: &Path, error: io::Error) -> Self {
        let error = io::Error::new(error.kind(), format!("the kernel's FUSE does not take part: {error}"));
        Self::Refused { at: at.to_owned(), error }
    }
}
