//! Calls whose results are compared with those in a plain directory.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Timespec,
    Timestamps, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;

use crate::common::Pair;
use crate::here::{Here, compare};

const NEW: OFlags = OFlags::CREATE.union(OFlags::RDWR);

fn mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode)
}

fn write(fd: &OwnedFd, offset: u64, data: &[u8]) -> Result<usize, Errno> {
    rustix::io::pwrite(fd, data, offset)
}

fn read(fd: &OwnedFd, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut data = vec![0; len];
    let read = rustix::io::pread(fd, &mut *data, offset)?;
    data.truncate(read);
    Ok(data)
}

#[test]
fn opening() {
    let Some(pair) = Pair::new() else { return };
    compare("opening", &pair, |here| {
        let fd = here.open("a", NEW | OFlags::EXCL, 0o640).unwrap();
        here.did("write", write(&fd, 0, b"hello"));
        here.open("a", NEW | OFlags::EXCL, 0o600);
        here.open("a", OFlags::RDONLY, 0);
        here.open("missing", OFlags::RDWR, 0);
        here.open("a/b", OFlags::RDWR, 0);
        here.open("a/", OFlags::RDWR, 0);
        here.open("new/", NEW, 0o600);
        here.open("a", OFlags::DIRECTORY, 0);
        here.open(".", OFlags::RDWR, 0);
        here.open(".", NEW, 0o600);
        let only = here.open("a", OFlags::WRONLY, 0).unwrap();
        here.did("read of what is open for writing", read(&only, 0, 5));
        let only = here.open("a", OFlags::RDONLY, 0).unwrap();
        here.did("write of what is open for reading", write(&only, 0, b"x"));
        // Two that append don't overwrite each other.
        let appending = [(); 2].map(|()| here.open("a", OFlags::WRONLY | OFlags::APPEND, 0).unwrap());
        for fd in appending.iter().cycle().take(4) {
            here.did("append", rustix::io::write(fd, b"-and"));
        }
        here.did("pwrite appends", write(&appending[0], 0, b"!"));
        here.look();
        here.open("a", OFlags::WRONLY | OFlags::TRUNC, 0);
        here.look();
        symlink("a", here.path("to-a")).unwrap();
        symlink("nowhere", here.path("dangling")).unwrap();
        here.open("to-a", OFlags::RDONLY | OFlags::NOFOLLOW, 0);
        here.open("to-a", OFlags::PATH | OFlags::NOFOLLOW, 0);
        here.open("dangling", OFlags::RDONLY, 0);
        here.open("dangling", NEW | OFlags::EXCL, 0o600);
        here.open("dangling", NEW, 0o600);
        here.open("to-a", NEW | OFlags::TRUNC, 0o600);
        for mode in [0, 0o111, 0o777, 0o4755, 0o2755, 0o1777] {
            here.open(&format!("mode-{mode:o}"), NEW, mode);
        }
        here.open("read-only", OFlags::CREATE | OFlags::RDONLY, 0o400);
        here.did("no bytes", write(&fd, 100, b""));
    });
}

#[test]
fn permissions_and_owners() {
    let Some(pair) = Pair::new() else { return };
    compare("permissions", &pair, |here| {
        here.file("a", b"abc");
        here.dir("d");
        symlink("a", here.path("l")).unwrap();
        for bits in [0, 0o7777, 0o4755, 0o2755, 0o2745, 0o1644, 0o644] {
            for name in ["a", "d"] {
                let changed = rustix::fs::chmodat(CWD, here.path(name), mode(bits), AtFlags::empty());
                here.did(format!("chmod {name} {bits:o}"), changed);
                here.look();
            }
        }
        let own = |here: &mut Here, name: &str, uid: Option<u32>, gid: Option<u32>, flags| {
            let (u, g) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            let changed = rustix::fs::chownat(CWD, here.path(name), u, g, flags);
            here.did(format!("chown {name} {uid:?} {gid:?}"), changed);
            here.look();
        };
        for bits in [0o6755, 0o6745, 0o4644] {
            fs::set_permissions(here.path("a"), fs::Permissions::from_mode(bits)).unwrap();
            own(here, "a", Some(1000), None, AtFlags::empty());
            own(here, "a", None, None, AtFlags::empty());
            own(here, "a", None, Some(1001), AtFlags::empty());
        }
        own(here, "l", Some(5), Some(6), AtFlags::SYMLINK_NOFOLLOW);
        own(here, "l", Some(7), Some(8), AtFlags::empty());
        own(here, "d", Some(7), Some(8), AtFlags::empty());
        own(here, "missing", Some(7), Some(8), AtFlags::empty());
        // A set-user bit goes when another writes, cuts or reserves.
        for (number, bits) in [0o6777, 0o6767, 0o2777].into_iter().enumerate() {
            for what in ["write", "truncate", "allocate", "open", "append"] {
                let name = format!("{what}{number}");
                here.file(&name, b"program");
                fs::set_permissions(here.path(&name), fs::Permissions::from_mode(bits)).unwrap();
                here.as_nobody(|here| {
                    let Some(fd) = here.open(&name, OFlags::RDWR, 0) else { return };
                    match what {
                        "write" => here.did(what, write(&fd, 0, b"virus")).map(|_| ()),
                        "truncate" => here.did(what, rustix::fs::ftruncate(&fd, 3)),
                        "allocate" => here.did(what, rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, 100)),
                        "append" => here.did(what, write(&fd, 7, b"virus")).map(|_| ()),
                        _ => here.open(&name, OFlags::RDWR | OFlags::TRUNC, 0).map(|_| ()),
                    };
                    let seen = rustix::fs::fstat(&fd).map(|stat| format!("{:o}", stat.st_mode));
                    here.did("seen", seen);
                });
                here.look();
            }
        }
        // Root may.
        here.file("root", b"program");
        fs::set_permissions(here.path("root"), fs::Permissions::from_mode(0o6755)).unwrap();
        let fd = here.open("root", OFlags::RDWR, 0).unwrap();
        here.did("write", write(&fd, 0, b"x"));
    });
}

#[test]
fn other_users() {
    let Some(pair) = Pair::new() else { return };
    compare("others", &pair, |here| {
        here.file("secret", b"secret");
        fs::set_permissions(here.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        for (name, bits) in [("closed", 0o700), ("tmp", 0o1777), ("open", 0o777), ("group", 0o2777)] {
            here.dir(name);
            here.file(&format!("{name}/a"), b"a");
            fs::set_permissions(here.path(name), fs::Permissions::from_mode(bits)).unwrap();
        }
        fs::set_permissions(here.path("tmp/a"), fs::Permissions::from_mode(0o666)).unwrap();
        std::os::unix::fs::chown(here.path("group"), Some(0), Some(1234)).unwrap();
        here.as_nobody(|here| {
            here.open("secret", OFlags::RDONLY, 0);
            here.open("closed/a", OFlags::RDONLY, 0);
            here.open("new", NEW, 0o600);
            for name in ["tmp", "open", "closed", "group"] {
                here.open(&format!("{name}/mine"), NEW, 0o644);
                here.did("mkdir", rustix::fs::mkdir(here.path(&format!("{name}/below")), mode(0o755)));
                here.did(
                    "rename",
                    rustix::fs::rename(here.path(&format!("{name}/a")), here.path(&format!("{name}/b"))),
                );
                here.did(
                    "over",
                    rustix::fs::rename(here.path(&format!("{name}/mine")), here.path(&format!("{name}/a"))),
                );
                here.did("unlink", rustix::fs::unlink(here.path(&format!("{name}/a"))));
                here.did("chmod", rustix::fs::chmod(here.path(&format!("{name}/a")), mode(0o777)));
                here.open(&format!("{name}/sgid"), NEW, 0o2755);
            }
            let times = Timestamps {
                last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
            };
            here.did("times", rustix::fs::utimensat(CWD, here.path("tmp/a"), &times, AtFlags::empty()));
            here.did("access", rustix::fs::access(here.path("secret"), Access::READ_OK));
            here.did(
                "truncate",
                fs::File::options()
                    .write(true)
                    .open(here.path("secret"))
                    .map(|_| ())
                    .map_err(|e| Errno::from_io_error(&e).unwrap()),
            );
            here.did("xattr", rustix::fs::setxattr(here.path("secret"), "user.a", b"1", XattrFlags::empty()));
            here.did("trusted", rustix::fs::setxattr(here.path("open/mine"), "trusted.a", b"1", XattrFlags::empty()));
        });
        here.did("access", rustix::fs::access(here.path("secret"), Access::READ_OK | Access::WRITE_OK));
        here.did("execute", rustix::fs::access(here.path("secret"), Access::EXEC_OK));
    });
}

#[test]
fn times() {
    let Some(pair) = Pair::new() else { return };
    compare("times", &pair, |here| {
        const OMIT: i64 = 0x3fff_fffe;
        here.file("a", b"abc");
        here.dir("d");
        symlink("a", here.path("l")).unwrap();
        let set = |here: &mut Here, name: &str, atime: (i64, i64), mtime: (i64, i64), flags| {
            let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
            let times = Timestamps { last_access: time(atime), last_modification: time(mtime) };
            here.did(format!("{atime:?} {mtime:?}"), rustix::fs::utimensat(CWD, here.path(name), &times, flags));
            let meta = fs::symlink_metadata(here.path(name)).unwrap();
            here.note((name, meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()));
        };
        for name in ["a", "d", "l"] {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            set(here, name, (1, 2), (3, 4), flags);
            set(here, name, (0, OMIT), (1_600_000_000, 999_999_999), flags);
            set(here, name, (1_700_000_000, 5), (0, OMIT), flags);
            set(here, name, (-5, 500_000_000), (-1, 0), flags);
            set(here, name, (0, OMIT), (0, OMIT), flags);
            set(here, name, (7, 0), (8, 1_000_000_000), flags);
        }
        set(here, "a", (100, 0), (100, 0), AtFlags::empty());
        let mtime = |here: &Here, name: &str| fs::symlink_metadata(here.path(name)).unwrap().mtime();
        let recent = |here: &mut Here, name: &str| {
            let mtime = mtime(here, name);
            here.note((name, mtime > 1_600_000_000));
        };
        // Reading changes nothing, writing does, and what was set before it holds against what comes after.
        fs::read(here.path("a")).unwrap();
        let meta = fs::metadata(here.path("a")).unwrap();
        here.note((meta.atime() == 100 || meta.atime() > 1_600_000_000, meta.mtime()));
        let fd = here.open("a", OFlags::RDWR, 0).unwrap();
        recent(here, "a");
        here.did("write", write(&fd, 0, b"x"));
        recent(here, "a");
        set(here, "a", (100, 0), (100, 0), AtFlags::empty());
        here.did("sync", rustix::fs::fsync(&fd));
        drop(fd);
        let then = mtime(here, "a");
        here.note(then);
        here.did(
            "truncate",
            fs::File::options().write(true).open(here.path("a")).unwrap().set_len(1).map_err(|_| Errno::IO),
        );
        recent(here, "a");
        for what in ["make", "rename", "unlink"] {
            set(here, "d", (100, 0), (100, 0), AtFlags::empty());
            match what {
                "make" => here.file("d/x", b""),
                "rename" => fs::rename(here.path("d/x"), here.path("d/y")).unwrap(),
                _ => fs::remove_file(here.path("d/y")).unwrap(),
            }
            recent(here, "d");
        }
    });
}

#[test]
fn every_rename() {
    let Some(pair) = Pair::new() else { return };
    const KINDS: [&str; 7] = ["file", "empty", "full", "link", "fifo", "missing", "twin"];
    fn make(here: &Here, name: &str, kind: &str) {
        match kind {
            "file" => here.file(name, name.as_bytes()),
            "empty" => here.dir(name),
            "full" => {
                here.dir(name);
                here.file(&format!("{name}/inside"), b"inside");
                here.dir(&format!("{name}/below"));
            }
            "link" => symlink("target", here.path(name)).unwrap(),
            "fifo" => rustix::fs::mknodat(CWD, here.path(name), FileType::Fifo, mode(0o600), 0).unwrap(),
            // Another name of the other directory's file.
            "twin" => drop(fs::hard_link(here.path("twin"), here.path(name))),
            _ => {}
        }
    }
    for flags in [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE] {
        compare(&format!("rename-{}", flags.bits()), &pair, |here| {
            here.file("twin", b"twin");
            for (a, from) in KINDS.iter().enumerate() {
                for (b, to) in KINDS.iter().enumerate() {
                    for apart in [false, true] {
                        let top = format!("{a}{b}{apart}");
                        here.dir(&top);
                        here.dir(&format!("{top}/other"));
                        let source = format!("{top}/source");
                        let target = if apart { format!("{top}/other/target") } else { format!("{top}/target") };
                        make(here, &source, from);
                        make(here, &target, to);
                        let result = rustix::fs::renameat_with(CWD, here.path(&source), CWD, here.path(&target), flags);
                        here.did(format!("{from} to {to} {apart}"), result);
                    }
                }
            }
            here.look();
            here.dir("d");
            here.dir("d/e");
            here.dir("d/e/f");
            for (from, to) in
                [("d", "d"), ("d", "d/x"), ("d", "d/e/x"), ("d/e/f", "d"), ("d/e", "d/e/f"), ("d", "d/e/f")]
            {
                let result = rustix::fs::renameat_with(CWD, here.path(from), CWD, here.path(to), flags);
                here.did(format!("{from} to {to}"), result);
            }
            for (from, to) in
                [(".", "x"), ("d/.", "x"), ("d/..", "x"), ("d/e/f", "."), ("d/e/f", "d/.."), ("twin/", "x")]
            {
                let result = rustix::fs::renameat_with(CWD, here.path(from), CWD, here.path(to), flags);
                here.did(format!("{from} to {to}"), result);
            }
        });
    }
}

#[test]
fn names_and_links() {
    let Some(pair) = Pair::new() else { return };
    compare("names", &pair, |here| {
        here.file("a", b"abc");
        here.dir("d");
        let link = |here: &mut Here, from: &str, to: &str| {
            here.did(format!("link {from} {to}"), rustix::fs::link(here.path(from), here.path(to)));
        };
        symlink("a", here.path("l")).unwrap();
        for (from, to) in
            [("a", "b"), ("a", "d/a"), ("a", "b"), ("d", "e"), ("l", "m"), ("x", "y"), ("a", "x/y"), ("a", "b/c")]
        {
            link(here, from, to);
        }
        here.look();
        for name in ["a", "a", "d", "missing", "b/c", "d/", "l"] {
            here.did(format!("unlink {name}"), rustix::fs::unlink(here.path(name)));
        }
        here.look();
        for name in ["d", "b", "missing", "d/.", "d/..", "."] {
            here.did(format!("rmdir {name}"), rustix::fs::rmdir(here.path(name)));
        }
        for name in ["d", "e", "e/", "e", "b", "x/y", "b/c", "."] {
            here.did(format!("mkdir {name}"), rustix::fs::mkdir(here.path(name), mode(0o751)));
        }
        let (long, longer) = ("n".repeat(255), "n".repeat(256));
        for name in [&long, &longer] {
            here.tried("create", rustix::fs::open(here.path(name), NEW, mode(0o600)));
            here.did("unlink", rustix::fs::unlink(here.path(name)));
            here.did("mkdir", rustix::fs::mkdir(here.path(name), mode(0o700)));
            here.did("rmdir", rustix::fs::rmdir(here.path(name)));
            here.did("symlink", rustix::fs::symlink("x", here.path(name)));
            here.did("unlink", rustix::fs::unlink(here.path(name)));
            link(here, "b", name);
            here.did("unlink", rustix::fs::unlink(here.path(name)));
            here.did("rename", rustix::fs::rename(here.path("b"), here.path(name)));
            here.did("back", rustix::fs::rename(here.path(name), here.path("b")));
            here.tried("stat", rustix::fs::stat(here.path(name)));
        }
        for len in [1, 100, 4095, 4096] {
            let target = "t".repeat(len);
            here.did(format!("symlink of {len}"), rustix::fs::symlink(&*target, here.path(&format!("long{len}"))));
        }
        here.did("symlink to nothing", rustix::fs::symlink("", here.path("nothing")));
        for (from, to) in [("loop1", "loop2"), ("loop2", "loop1"), ("self", "self")] {
            symlink(to, here.path(from)).unwrap();
            here.tried("follow", rustix::fs::stat(here.path(from)));
            here.open(from, OFlags::RDONLY, 0);
        }
        // Names are bytes.
        let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\x01 \n");
        let odd: &std::ffi::OsStr = odd;
        here.io("odd", fs::write(here.dir.join(odd), b"odd"));
    });
    compare("nodes", &pair, |here| {
        for (name, kind, device) in [
            ("fifo", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
            ("char", FileType::CharacterDevice, makedev(5, 300)),
            ("block", FileType::BlockDevice, makedev(300, 7)),
            ("file", FileType::RegularFile, 0),
            ("dir", FileType::Directory, 0),
        ] {
            here.did(name, rustix::fs::mknodat(CWD, here.path(name), kind, mode(0o640), device));
            here.did(name, rustix::fs::mknodat(CWD, here.path(name), kind, mode(0o640), device));
        }
        here.open("fifo", OFlags::WRONLY | OFlags::NONBLOCK, 0);
        let reader = here.open("fifo", OFlags::RDONLY | OFlags::NONBLOCK, 0).unwrap();
        let writer = here.open("fifo", OFlags::WRONLY, 0).unwrap();
        here.did("through the pipe", rustix::io::write(&writer, b"abc"));
        let mut buffer = [0; 10];
        here.did("out of the pipe", rustix::io::read(&reader, &mut buffer));
        here.open("socket", OFlags::RDONLY, 0);
        let listener = here.io("bind", UnixListener::bind(here.path("listens"))).unwrap();
        here.io("bind again", UnixListener::bind(here.path("listens")));
        here.io("connect", UnixStream::connect(here.path("listens")));
        here.io("connect to nobody", UnixStream::connect(here.path("socket")));
        drop(listener);
    });
}

#[test]
fn files_without_a_name() {
    let Some(pair) = Pair::new() else { return };
    compare("orphans", &pair, |here| {
        here.file("a", b"abc");
        here.file("b", b"b");
        let fd = here.open("a", OFlags::RDWR, 0).unwrap();
        let second = here.open("a", OFlags::RDONLY, 0).unwrap();
        here.did("unlink", rustix::fs::unlink(here.path("a")));
        here.did("read", read(&fd, 0, 10));
        here.did("write", write(&fd, 3, b"def"));
        here.did("cut", rustix::fs::ftruncate(&fd, 5));
        here.did("mode", rustix::fs::fchmod(&fd, mode(0o600)));
        here.did("sync", rustix::fs::fsync(&fd));
        let stat = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_nlink, stat.st_size, stat.st_mode));
        here.did("stat", stat(&fd));
        drop(fd);
        here.did("read", read(&second, 0, 10));
        here.did("stat", stat(&second));
        let again = rustix::fs::open(
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&second)),
            OFlags::RDWR,
            Mode::empty(),
        );
        let again = here.tried("again", again).unwrap();
        drop(second);
        here.did("write", write(&again, 0, b"xyz"));
        here.did("read", read(&again, 0, 10));
        let over = here.open("b", OFlags::RDWR, 0).unwrap();
        here.file("c", b"c");
        here.did("over", rustix::fs::rename(here.path("c"), here.path("b")));
        here.did("read", read(&over, 0, 10));
        here.did("stat", stat(&over));
        // What is held without being open, and a pipe.
        symlink("a", here.path("l")).unwrap();
        here.file("p", b"p");
        rustix::fs::mknodat(CWD, here.path("fifo"), FileType::Fifo, mode(0o600), 0).unwrap();
        for (name, flags) in
            [("l", OFlags::PATH | OFlags::NOFOLLOW), ("p", OFlags::PATH), ("fifo", OFlags::RDONLY | OFlags::NONBLOCK)]
        {
            let held = here.open(name, flags, 0).unwrap();
            here.did("unlink", rustix::fs::unlink(here.path(name)));
            here.did(name, stat(&held));
        }
        // A directory that somebody is in.
        here.dir("d");
        let dir = here.open("d", OFlags::DIRECTORY, 0).unwrap();
        here.did("rmdir", rustix::fs::rmdir(here.path("d")));
        here.did("stat", rustix::fs::fstat(&dir).map(|stat| (stat.st_nlink, stat.st_mode)));
        here.tried("create", rustix::fs::openat(&dir, "x", NEW, mode(0o600)));
        here.did("mkdir", rustix::fs::mkdirat(&dir, "x", mode(0o600)));
        here.did("list", rustix::fs::Dir::read_from(&dir).map(|dir| dir.count()));
        here.did("sync", rustix::fs::fsync(&dir));
        here.dir("e");
        here.dir("f");
        let dir = here.open("f", OFlags::DIRECTORY, 0).unwrap();
        here.did("replace", rustix::fs::rename(here.path("e"), here.path("f")));
        here.did("stat", rustix::fs::fstat(&dir).map(|stat| (stat.st_nlink, stat.st_mode)));
    });
    // Two files are there, no other has content.
    for _ in 0..100 {
        if pair.store.contents() == 1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} files have content", pair.store.contents());
}

#[test]
fn content() {
    let Some(pair) = Pair::new() else { return };
    compare("content", &pair, |here| {
        let fd = here.open("a", NEW, 0o600).unwrap();
        here.did("write", write(&fd, 100_000, b"end"));
        here.did("hole", read(&fd, 50_000, 10));
        here.did("over the end", read(&fd, 99_998, 100));
        here.did("beyond", read(&fd, 200_000, 100));
        for size in [50_000, 120_000, 0, 10, 4096, 4097, 10] {
            here.did("cut", rustix::fs::ftruncate(&fd, size));
            here.did("end", read(&fd, size.saturating_sub(5), 10));
            here.did("write", write(&fd, size / 2, b"middle"));
            here.look();
        }
        here.did("negative", rustix::fs::ftruncate(&fd, u64::MAX));
        let dir = here.open(".", OFlags::DIRECTORY, 0).unwrap();
        here.did("directory", rustix::fs::ftruncate(&dir, 1));
        here.did(
            "vectors",
            rustix::io::pwritev(&fd, &[std::io::IoSlice::new(b"one"), std::io::IoSlice::new(b"two")], 7),
        );
        here.did("seek", rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(-3)));
        let mut buffer = [0; 8];
        here.did("read", rustix::io::read(&fd, &mut buffer));
        here.note(buffer);
        // From file to file.
        here.file("from", &[7; 100_000]);
        let from = here.open("from", OFlags::RDONLY, 0).unwrap();
        let to = here.open("to", NEW, 0o600).unwrap();
        here.did("sendfile", rustix::fs::sendfile(&to, &from, Some(&mut 5), 50_000));
        here.did("copy", rustix::fs::copy_file_range(&from, Some(&mut 0), &to, Some(&mut 70_000), 10_000));
        here.look();
        here.did("append", rustix::fs::fcntl_setfl(&to, OFlags::APPEND));
        here.did("write", rustix::io::write(&to, b"at the end"));
    });
    compare("allocate", &pair, |here| {
        let fd = here.open("a", NEW, 0o600).unwrap();
        here.did("write", write(&fd, 0, &[5; 20_000]));
        let (keep, hole, zero) = (FallocateFlags::KEEP_SIZE, FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE);
        for (flags, offset, len) in [
            (FallocateFlags::empty(), 10_000, 20_000),
            (keep, 0, 100_000),
            (hole | keep, 1000, 3000),
            (hole | keep, 29_000, 100_000),
            (zero, 5000, 100),
            (zero, 39_990, 100),
            (zero | keep, 40_000, 5000),
            (zero | keep, 1, 2),
            (hole, 0, 10),
            (FallocateFlags::empty(), 0, 0),
            (hole | keep | zero, 0, 10),
        ] {
            here.did(format!("{flags:?} {offset} {len}"), rustix::fs::fallocate(&fd, flags, offset, len));
            here.look();
            here.did("write", write(&fd, offset, b"after it"));
        }
        let only = here.open("a", OFlags::RDONLY, 0).unwrap();
        here.did("not for writing", rustix::fs::fallocate(&only, keep, 0, 10));
    });
}

#[test]
fn extended_attributes() {
    let Some(pair) = Pair::new() else { return };
    compare("xattrs", &pair, |here| {
        here.file("a", b"a");
        here.dir("d");
        symlink("a", here.path("l")).unwrap();
        let set = |here: &mut Here, name: &str, key: &str, value: &[u8], flags: XattrFlags| {
            here.did(format!("set {name} {key} {flags:?}"), rustix::fs::lsetxattr(here.path(name), key, value, flags));
        };
        for name in ["a", "d", "l", "missing"] {
            set(here, name, "user.one", b"1", XattrFlags::REPLACE);
            set(here, name, "user.one", b"1", XattrFlags::CREATE);
            set(here, name, "user.one", b"11", XattrFlags::CREATE);
            set(here, name, "user.one", b"111", XattrFlags::REPLACE);
            set(here, name, "user.two", b"", XattrFlags::empty());
            set(here, name, "trusted.three", &[3; 1000], XattrFlags::empty());
            set(here, name, "user.", b"1", XattrFlags::empty());
            set(here, name, "nonsense", b"1", XattrFlags::empty());
            set(here, name, "other.a", b"1", XattrFlags::empty());
            set(here, name, &format!("user.{}", "x".repeat(250)), b"1", XattrFlags::empty());
            set(here, name, &format!("user.{}", "x".repeat(251)), b"1", XattrFlags::empty());
            set(here, name, "user.big", &[1; 65537], XattrFlags::empty());
            for key in ["user.one", "user.two", "trusted.three", "user.none", "nonsense"] {
                for room in [0, 2, 5000] {
                    let mut value = vec![0; room];
                    let got = rustix::fs::lgetxattr(here.path(name), key, &mut *value);
                    here.did(format!("get {name} {key} {room}"), got);
                    here.note(value.iter().map(|b| u64::from(*b)).sum::<u64>());
                }
            }
            let mut names = vec![0; 10_000];
            let listed = rustix::fs::llistxattr(here.path(name), &mut *names);
            if let Some(len) = here.did("list", listed) {
                let mut names: Vec<_> = names[..len].split(|b| *b == 0).collect();
                names.sort_unstable();
                here.note(names);
            }
            here.did("no room", rustix::fs::llistxattr(here.path(name), &mut [0; 3][..]));
            for key in ["user.one", "user.one", "trusted.three", "user.", "nonsense"] {
                here.did("remove", rustix::fs::lremovexattr(here.path(name), key));
            }
        }
    });
}

#[test]
fn locks_and_programs() {
    let Some(pair) = Pair::new() else { return };
    compare("locks", &pair, |here| {
        here.file("a", b"abc");
        let [one, two] = [(); 2].map(|()| here.open("a", OFlags::RDWR, 0).unwrap());
        here.did("lock", rustix::fs::flock(&one, FlockOperation::NonBlockingLockExclusive));
        here.did("taken", rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared));
        here.did("unlock", rustix::fs::flock(&one, FlockOperation::Unlock));
        here.did("free", rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared));
        here.did("shared", rustix::fs::flock(&one, FlockOperation::NonBlockingLockShared));
        here.did("upgrade", rustix::fs::flock(&one, FlockOperation::NonBlockingLockExclusive));
        here.did("record", rustix::fs::fcntl_lock(&one, FlockOperation::NonBlockingLockExclusive));
        // Another process can't have it: its shell's `flock` fails with 1.
        let path = here.path("a");
        let python = "import fcntl,sys\nf=open(sys.argv[1],'r+')\ntry:\n fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\nexcept OSError as e: print(e.errno)";
        let told = std::process::Command::new("python3").args(["-c", python]).arg(&path).output();
        here.note(told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default());
        fs::copy("/bin/true", here.path("true")).unwrap();
        here.io("run", std::process::Command::new(here.path("true")).status().map(|status| assert!(status.success())));
    });
}

#[test]
fn directories_are_read_whole_while_they_change() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume().join("many");
    fs::create_dir(&at).unwrap();
    for number in 0..2000 {
        fs::write(at.join(format!("stays{number}")), b"").unwrap();
        fs::write(at.join(format!("goes{number}")), b"").unwrap();
    }
    let mut names = Vec::new();
    for (number, entry) in fs::read_dir(&at).unwrap().enumerate() {
        let entry = entry.unwrap();
        names.push(entry.file_name().into_string().unwrap());
        if number < 2000 {
            fs::remove_file(at.join(format!("goes{number}"))).unwrap();
            fs::write(at.join(format!("comes{number}")), b"").unwrap();
            fs::rename(at.join(format!("comes{number}")), at.join(format!("moves{number}"))).unwrap();
        }
    }
    let mut stays: Vec<_> = names.iter().filter(|name| name.starts_with("stays")).collect();
    assert_eq!(stays.len(), 2000);
    stays.dedup();
    assert_eq!(stays.len(), 2000);
    names.sort_unstable();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before);
    // From the start it shows what is there now.
    let dir = rustix::fs::open(&at, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut reading = rustix::fs::Dir::read_from(dir.as_fd()).unwrap();
    assert_eq!(reading.by_ref().count(), 4002);
    fs::write(at.join("late"), b"").unwrap();
    reading.rewind();
    assert_eq!(reading.by_ref().count(), 4003);
    drop((reading, dir));
    fs::remove_dir_all(&at).unwrap();
    pair.store.check();
    pair.mount.close().unwrap();
}

#[test]
fn what_it_can_not_do_it_says() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    let unnamed = rustix::fs::open(&at, OFlags::TMPFILE | OFlags::RDWR, mode(0o600));
    assert_eq!(unnamed.unwrap_err(), Errno::OPNOTSUPP);
    let fd = rustix::fs::open(at.join("a"), NEW, mode(0o600)).unwrap();
    write(&fd, 0, &[1; 8192]).unwrap();
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE, FallocateFlags::UNSHARE_RANGE] {
        assert_eq!(rustix::fs::fallocate(&fd, flags, 0, 4096), Err(Errno::OPNOTSUPP));
    }
    let acl = rustix::fs::setxattr(at.join("a"), "system.posix_acl_access", b"\x02\0\0\0", XattrFlags::empty());
    assert_eq!(acl, Err(Errno::OPNOTSUPP));
    assert_eq!(rustix::fs::seek(&fd, rustix::fs::SeekFrom::Hole(0)), Ok(8192));
    assert_eq!(rustix::fs::ftruncate(&fd, i64::MAX as u64), Ok(()));
    let room = rustix::fs::statvfs(&at).unwrap();
    assert_eq!((room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize), (1 << 30, 1 << 29));
    let mut text = String::new();
    fs::File::open("/proc/self/mountinfo").unwrap().read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.contains(at.to_str().unwrap())).unwrap();
    for option in ["nosuid", "nodev", "noatime", "fuse.trine trine", "default_permissions", "allow_other"] {
        assert!(line.contains(option), "{line}");
    }
}
