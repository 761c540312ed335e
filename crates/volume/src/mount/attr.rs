//! Attributes and times, as the kernel's messages have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::{Ino, Inode, Stamp, What};

/// How long the kernel may believe what it is told: nobody else changes it.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// What `stat` shows in place of the smallest sensible read or write.
const BLOCK: u32 = 4096;

pub(super) const SUID: u32 = 0o4000;
pub(super) const SGID: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o0010;

/// Now, by the clock that the kernel takes files' times from: a finer one would be ahead of it by some milliseconds, and a
/// file that it writes right after it was made would seem older than it is.
pub(super) fn now() -> Stamp {
    let time = clock_gettime(ClockId::RealtimeCoarse);
    Stamp { secs: time.tv_sec, nanos: u32::try_from(time.tv_nsec).unwrap_or_default() }
}

/// How long the kernel may believe a file's attributes.
pub(super) fn believed(inode: &Inode) -> Duration {
    // The kernel does not see the set-user bit go when the file is written.
    if inode.mode & (SUID | SGID) != 0 && !inode.is_directory() { Duration::ZERO } else { LONG }
}

/// How long the kernel may believe that a name leads to a file, or to none.
pub(super) fn named() -> Duration {
    LONG
}

pub(super) fn attr(ino: Ino, inode: &Inode) -> FileAttr {
    let size = inode.size();
    FileAttr {
        ino: INodeNo(ino.0),
        size,
        blocks: size.div_ceil(512),
        atime: time(inode.atime),
        mtime: time(inode.mtime),
        ctime: time(inode.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(inode),
        perm: u16::try_from(inode.mode & 0o7777).unwrap_or_default(),
        nlink: inode.links,
        uid: inode.uid,
        gid: inode.gid,
        rdev: match inode.what {
            What::CharDevice(number) | What::BlockDevice(number) => number,
            _ => 0,
        },
        blksize: BLOCK,
        flags: 0,
    }
}

/// That there is nothing: a name that the kernel may take for free.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

pub(super) fn kind(inode: &Inode) -> FileType {
    match inode.what {
        What::File { .. } => FileType::RegularFile,
        What::Directory(_) => FileType::Directory,
        What::Symlink(_) => FileType::Symlink,
        What::Fifo => FileType::NamedPipe,
        What::Socket => FileType::Socket,
        What::CharDevice(_) => FileType::CharDevice,
        What::BlockDevice(_) => FileType::BlockDevice,
    }
}

/// Who asks for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asker {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Asker {
    /// Whether it may leave a file that it changes with a set-user bit.
    pub(super) fn is_root(self) -> bool {
        self.uid == 0
    }
}

impl From<&Request> for Asker {
    fn from(request: &Request) -> Self {
        Self { uid: request.uid(), gid: request.gid() }
    }
}

/// The permissions without what a write or a new owner takes away, if that is any.
pub(super) fn tamed(inode: &Inode, by: Asker) -> Option<u32> {
    if inode.is_directory() {
        return None;
    }
    let mut mode = inode.mode & !SUID;
    // Where the group may not execute it, the bit is only lost to whom is not of the group (of the groups that a process has
    // besides its first one nothing is known here).
    if mode & GROUP_EXECUTES != 0 || (!by.is_root() && by.gid != inode.gid) {
        mode &= !SGID;
    }
    (mode != inode.mode).then_some(mode)
}

fn time(stamp: Stamp) -> SystemTime {
    let whole = Duration::from_secs(stamp.secs.unsigned_abs());
    let begun = if stamp.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    begun.and_then(|t| t.checked_add(Duration::from_nanos(stamp.nanos.into()))).unwrap_or(UNIX_EPOCH)
}

/// What the kernel sent as this.
pub(super) fn stamp(time: SystemTime) -> Stamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Stamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() },
        // fuser 0.18 takes seconds *and* nanoseconds off the epoch, where the kernel counts nanoseconds forward.
        Err(before) => {
            let before = before.duration();
            Stamp { secs: 0_i64.saturating_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

pub(super) fn stamp_or_now(time: TimeOrNow) -> Stamp {
    match time {
        TimeOrNow::SpecificTime(time) => stamp(time),
        TimeOrNow::Now => now(),
    }
}

pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch() {
        let stamp_of = |secs, nanos| Stamp { secs, nanos };
        // What fuser makes of the kernel's (-2, 800 ms).
        let garbled = UNIX_EPOCH - Duration::new(2, 800_000_000);
        assert_eq!(stamp(garbled), stamp_of(-2, 800_000_000));
        assert_eq!(time(stamp_of(-2, 800_000_000)), UNIX_EPOCH - Duration::new(1, 200_000_000));
        assert_eq!(stamp(UNIX_EPOCH + Duration::new(5, 7)), stamp_of(5, 7));
        for odd in [i64::MIN, i64::MAX] {
            time(stamp_of(odd, 999_999_999));
        }
    }

    #[test]
    fn what_a_write_takes_away() {
        let mut inode = crate::Tree::default().get(Ino::ROOT).unwrap().clone();
        let [root, member, stranger] = [(0, 7), (1, 0), (1, 1)].map(|(uid, gid)| Asker { uid, gid });
        inode.mode = 0o6755;
        assert_eq!(tamed(&inode, stranger), None);
        inode.what = What::File { size: 0 };
        assert_eq!(tamed(&inode, root), Some(0o755));
        inode.mode = 0o6745;
        assert_eq!([root, member, stranger].map(|by| tamed(&inode, by)), [Some(0o2745), Some(0o2745), Some(0o745)]);
        inode.mode = 0o755;
        assert_eq!(tamed(&inode, stranger), None);
    }
}
