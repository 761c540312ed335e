//! The kernel's requests, one by one.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{Ino, Kind, Store};

use super::attr::{attr, believed, errno, named, nothing, now, stamp, stamp_or_now};
use super::content::Change;
use super::served::{Served, empty, sized};

/// The most that the kernel hands over at once, in bytes.
const LARGEST_WRITE: u32 = 1 << 20;
/// How many requests for which nobody waits (writing back, reading ahead) may be on their way.
const BACKGROUND: u16 = 64;
/// What `statfs` counts in, in bytes.
const FRAGMENT: u32 = 4096;

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

impl<S: Store> Filesystem for Served<S> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it every write of 8 KiB would be a message, and its data twice in memory.
        let needed = InitFlags::FUSE_WRITEBACK_CACHE;
        if config.add_capabilities(needed).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "no writeback cache: Linux 3.15 or later is needed",
            ));
        }
        for wished in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            // Else the kernel asks before each write whether the file has capabilities that the write takes away.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(wished).is_err() {
                tracing::debug!(?wished, "this kernel's FUSE can't");
            }
        }
        // Each says which value it takes instead of one that is too large.
        let _ = config.set_max_write(LARGEST_WRITE).map_err(|most| config.set_max_write(most));
        let _ = config.set_max_readahead(LARGEST_WRITE).map_err(|most| config.set_max_readahead(most));
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.store.look(|tree| tree.lookup(ino(parent), name.as_bytes())) {
            Err(Errno::NOENT) => reply.entry(&named(), &nothing(), Generation(0)),
            found => self.entry(found, reply),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, _: u64) {
        self.removed.forget(ino(number));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.attributes(ino(number), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(stamp_or_now),
            mtime: mtime.map(stamp_or_now),
            ctime: ctime.map_or_else(now, stamp),
        };
        match self.set(ino(number), change, request.into()) {
            Ok(()) => self.attributes(ino(number), reply),
            // The kernel writes back the times of a file that was removed a moment ago; an error would be the next `syncfs`'s.
            Err(Errno::NOENT) if change.is_only_times() => match self.removed.get(ino(number)) {
                Some(_) => self.attributes(ino(number), reply),
                None => reply.error(fuser::Errno::ENOENT),
            },
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.target(ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        self.entry(self.make_node(request, ino(parent), name.as_bytes(), mode, rdev), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        self.entry(self.make(request, ino(parent), name.as_bytes(), Kind::Directory, mode), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.unlink_name(ino(parent), name.as_bytes()), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.remove_directory(ino(parent), name.as_bytes()), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = Kind::Symlink(target.as_os_str().as_bytes().into());
        self.entry(self.make(request, ino(parent), name.as_bytes(), kind, 0o777), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(self.rename_name((ino(parent), name.as_bytes()), (ino(to), new.as_bytes()), flags), reply);
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(self.link_name(ino(number), ino(parent), name.as_bytes()), reply);
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // What the kernel has of the file stays right while it is closed: nobody else changes it.
        match self.open_file(ino(number)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.make(request, ino(parent), name.as_bytes(), Kind::File, mode).and_then(|ino| {
            self.open_file(ino)?;
            self.store.look(|tree| tree.get(ino).map(|inode| attr(ino, inode))).ok_or(Errno::NOENT)
        });
        match made {
            Ok(attr) => {
                reply.created(&named(), &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.reads.read(ino(number), offset, usize::try_from(size).unwrap_or_default(), reply);
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let tame = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then(|| request.into());
        let written = u32::try_from(data.len()).unwrap_or(u32::MAX);
        match self.write_content(ino(number), offset, data, tame) {
            Ok(()) if must_sync(write_flags, flags) => self.store.sync(Box::new(move |done| match done {
                Ok(()) => reply.written(written),
                Err(error) => reply.error(errno(error)),
            })),
            Ok(()) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // The kernel hands over what was written before this, and asks no more.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.close_file(ino(number));
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(reply);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.directories.open()), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.read_directory(ino(number), handle.0, offset, |entry| {
            reply.add(INodeNo(entry.ino.0), entry.next, super::attr::kind(entry.inode), OsStr::from_bytes(entry.name))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let read = self.read_directory(ino(number), handle.0, offset, |entry| {
            // One time to live for name and attributes.
            let (attr, ttl) = (attr(entry.ino, entry.inode), believed(entry.inode));
            let name = OsStr::from_bytes(entry.name);
            reply.add(INodeNo(entry.ino.0), entry.next, name, &ttl, &attr, Generation(0))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.directories.close(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let room = self.store.room();
        let (total, free) = (room.total / u64::from(FRAGMENT), room.free / u64::from(FRAGMENT));
        // Files are not counted out in advance, which zeros say.
        reply.statfs(total, free, free, 0, 0, FRAGMENT, 255, FRAGMENT);
    }

    fn setxattr(
        &self,
        _: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        empty(self.set_attribute(ino(number), name.as_bytes(), value, flags), reply);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(self.attribute(ino(number), name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        sized(self.attribute_names(ino(number)), size, reply);
    }

    fn removexattr(&self, _: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.remove_attribute(ino(number), name.as_bytes()), reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        empty(self.allocate(ino(number), offset, length, mode, request.into()), reply);
    }

    // What follows the kernel does by itself once it has been told that it must.

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

/// Whether the write itself must be acknowledged before it is answered.
///
/// The kernel follows each write that has to be in place by an `fsync`, but where it writes past its cache (it does when the
/// file has a set-user bit) older ones don't.
fn must_sync(written: WriteFlags, flags: OpenFlags) -> bool {
    let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
    let past_cache = !written.contains(WriteFlags::FUSE_WRITE_CACHE) && !flags.contains(OFlags::DIRECT);
    past_cache && flags.intersects(OFlags::DSYNC | OFlags::SYNC)
}
