//! The same calls in two directories, and what came of each.

use std::fmt::{Debug, Write as _};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

use crate::common::Pair;

/// Calls made in one of the directories.
pub(crate) struct Here {
    pub(crate) dir: PathBuf,
    log: Vec<String>,
}

impl Here {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        // `join` would drop what ends in a slash, or `..`.
        PathBuf::from(format!("{}/{name}", self.dir.display()))
    }

    /// Notes what came of a call.
    pub(crate) fn did<T: Debug>(&mut self, what: impl AsRef<str>, result: Result<T, Errno>) -> Option<T> {
        match &result {
            Ok(value) => self.log.push(format!("{}: {value:?}", what.as_ref())),
            Err(error) => self.log.push(format!("{}: {error:?}", what.as_ref())),
        }
        result.ok()
    }

    /// The same, of a call whose value says nothing.
    pub(crate) fn tried<T>(&mut self, what: impl AsRef<str>, result: Result<T, Errno>) -> Option<T> {
        match &result {
            Ok(_) => self.log.push(format!("{}: done", what.as_ref())),
            Err(error) => self.log.push(format!("{}: {error:?}", what.as_ref())),
        }
        result.ok()
    }

    /// The same, of a call of the standard library.
    pub(crate) fn io<T>(&mut self, what: impl AsRef<str>, result: std::io::Result<T>) -> Option<T> {
        self.tried(what, result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOSYS)))
    }

    pub(crate) fn note(&mut self, what: impl Debug) {
        self.log.push(format!("{what:?}"));
    }

    pub(crate) fn open(&mut self, name: &str, flags: OFlags, mode: u32) -> Option<OwnedFd> {
        let opened = rustix::fs::open(self.path(name), flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode));
        self.tried(format!("open {name} {flags:?} {mode:o}"), opened)
    }

    /// A file with this content, made without notes.
    pub(crate) fn file(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn dir(&self, name: &str) {
        fs::create_dir(self.path(name)).unwrap();
    }

    /// Notes all that is there.
    pub(crate) fn look(&mut self) {
        let mut all = Vec::new();
        list(&self.dir, &self.dir, &mut all);
        self.log.append(&mut all);
    }

    /// Runs it as a user without rights.
    pub(crate) fn as_nobody(&mut self, what: impl FnOnce(&mut Self) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_gid(rustix::fs::Gid::from_raw(65534)).unwrap();
                rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
                what(self);
            });
        });
    }
}

pub(crate) fn list(top: &Path, at: &Path, all: &mut Vec<String>) {
    let meta = fs::symlink_metadata(at).unwrap();
    let name = at.strip_prefix(top).unwrap().display();
    let mut line = format!("/{name} {:o} {}:{}", meta.permissions().mode(), meta.uid(), meta.gid());
    write!(line, " links {} rdev {}", meta.nlink(), meta.rdev()).unwrap();
    let kind = meta.file_type();
    if kind.is_symlink() {
        write!(line, " -> {} ({})", fs::read_link(at).unwrap().display(), meta.len()).unwrap();
    } else if kind.is_file() {
        let content = fs::read(at).unwrap();
        let sum = content.iter().fold(7_u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
        write!(line, " size {} read {} sum {sum:x}", meta.len(), content.len()).unwrap();
    } else if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
        write!(line, " size {}", meta.len()).unwrap();
    }
    all.push(line);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            list(top, &path, all);
        }
    }
}

/// Makes the calls in both directories and compares, line by line.
pub(crate) fn compare(name: &str, pair: &Pair, calls: impl Fn(&mut Here)) {
    let [volume, plain] = [pair.volume(), pair.plain()].map(|top| {
        let dir = top.join(name);
        fs::create_dir(&dir).unwrap();
        for path in [&top, &dir] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut here = Here { dir, log: Vec::new() };
        calls(&mut here);
        here.look();
        here.log
    });
    for (number, (volume, plain)) in volume.iter().zip(&plain).enumerate() {
        assert_eq!(volume, plain, "{name}, line {number}: the volume on the left, a plain directory on the right");
    }
    assert_eq!(volume.len(), plain.len(), "{name}");
    assert!(!volume.is_empty());
    pair.store.check();
}
