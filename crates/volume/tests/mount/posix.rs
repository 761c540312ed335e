//! Calls whose results are compared with those in a plain directory.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
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
