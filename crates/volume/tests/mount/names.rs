//! Calls on names whose results are compared with those in a plain directory.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, makedev};
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
