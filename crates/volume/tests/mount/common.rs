//! A volume in memory, mounted, beside a plain directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use tempfile::TempDir;
use trine_volume::{Growth, Ino, Mount, MountOptions, Op, Room, Stamp, Store, Tree};

/// Called once it is synced.
type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// A store that keeps everything in memory.
#[derive(Default)]
pub(crate) struct Memory {
    inner: Mutex<Inner>,
    pub(crate) syncs: AtomicU64,
    /// There is no room for anything that needs some.
    pub(crate) full: AtomicBool,
    /// Syncs fail, as on a volume that is closed.
    pub(crate) fails: AtomicBool,
    /// Syncs wait in `held`.
    pub(crate) holds: AtomicBool,
    pub(crate) held: Mutex<Vec<Done>>,
    /// While somebody has it, reads wait.
    pub(crate) slow: Mutex<()>,
}

#[derive(Default)]
struct Inner {
    tree: Tree,
    content: HashMap<Ino, Vec<u8>>,
    ops: Vec<&'static str>,
}

impl Memory {
    /// Of a user, and of the group with the same number.
    pub(crate) fn of(user: u32) -> Self {
        let memory = Self::default();
        memory.inner.lock().unwrap().tree = Tree::new(user, user, Stamp::default());
        memory
    }

    /// The operations since this was last called.
    pub(crate) fn ops(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.inner.lock().unwrap().ops)
    }

    /// How many files have content.
    pub(crate) fn contents(&self) -> usize {
        self.inner.lock().unwrap().content.len()
    }

    /// Checks that the tree is one, and that only its files have content.
    pub(crate) fn check(&self) {
        let inner = self.inner.lock().unwrap();
        inner.tree.check().unwrap();
        for (ino, content) in &inner.content {
            assert!(content.len() as u64 <= inner.tree.size(*ino).unwrap());
        }
    }
}

impl Store for Memory {
    fn look<T>(&self, look: impl FnOnce(&Tree) -> T) -> T {
        look(&self.inner.lock().unwrap().tree)
    }

    fn change<'a, T>(&self, make: impl FnOnce(&Tree) -> Result<(Op<'a>, T), Errno>) -> Result<T, Errno> {
        let inner = &mut *self.inner.lock().unwrap();
        let (op, value) = make(&inner.tree)?;
        let needs = matches!(op, Op::Write { .. } | Op::Make { .. } | Op::Reserve { .. } | Op::SetXattr { .. });
        if needs && self.full.load(Ordering::SeqCst) {
            return Err(Errno::NOSPC);
        }
        for ino in inner.tree.apply(&op)? {
            inner.content.remove(&ino);
        }
        let end = |content: &Vec<u8>, end: u64| usize::try_from(end).unwrap().min(content.len());
        match &op {
            Op::Write { ino, offset, data, .. } => {
                let content = inner.content.entry(*ino).or_default();
                let start = usize::try_from(*offset).unwrap();
                let needed = start + data.len();
                if content.len() < needed {
                    content.resize(needed, 0);
                }
                content[start..needed].copy_from_slice(data);
            }
            Op::Resize { ino, size, .. } => {
                let content = inner.content.entry(*ino).or_default();
                let size = end(content, *size);
                content.truncate(size);
            }
            Op::Clear { ino, offset, len, growth, .. } => {
                assert!(matches!(growth, Growth::Grows | Growth::Keeps));
                let content = inner.content.entry(*ino).or_default();
                let (from, to) = (end(content, *offset), end(content, offset + len));
                content[from..to].fill(0);
            }
            _ => {}
        }
        inner.ops.push(name(&op));
        Ok(value)
    }

    fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        drop(self.slow.lock().unwrap());
        let inner = self.inner.lock().unwrap();
        let size = inner.tree.size(ino).ok_or(Errno::NOENT)?;
        let len = len.min(usize::try_from(size.saturating_sub(offset)).unwrap());
        let mut data = vec![0; len];
        if let Some(content) = inner.content.get(&ino) {
            let from = usize::try_from(offset).unwrap().min(content.len());
            let to = content.len().min(from + len);
            data[..to - from].copy_from_slice(&content[from..to]);
        }
        Ok(data)
    }

    fn sync(&self, done: Done) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            done(Err(Errno::IO));
        } else if self.holds.load(Ordering::SeqCst) {
            self.held.lock().unwrap().push(done);
        } else {
            done(Ok(()));
        }
    }

    fn room(&self) -> Room {
        Room { total: 1 << 30, free: 1 << 29 }
    }
}

fn name(op: &Op<'_>) -> &'static str {
    match op {
        Op::Epoch { .. } => "epoch",
        Op::Barrier => "barrier",
        Op::Verify { .. } => "verify",
        Op::Repair { .. } => "repair",
        Op::Make { .. } => "make",
        Op::Link { .. } => "link",
        Op::Unlink { .. } => "unlink",
        Op::Rmdir { .. } => "rmdir",
        Op::Rename { .. } => "rename",
        Op::Forget { .. } => "forget",
        Op::Write { .. } => "write",
        Op::Resize { .. } => "resize",
        Op::Reserve { .. } => "reserve",
        Op::Clear { .. } => "clear",
        Op::Attributes { .. } => "attributes",
        Op::SetXattr { .. } => "set",
        Op::RemoveXattr { .. } => "remove",
    }
}

/// A mounted volume in memory, and a plain directory on the disk.
pub(crate) struct Pair {
    pub(crate) store: Arc<Memory>,
    pub(crate) mount: Mount,
    dir: TempDir,
}

impl Pair {
    /// `None`, with a message: nothing can be mounted here.
    pub(crate) fn new() -> Option<Self> {
        Self::with(&MountOptions::default())
    }

    pub(crate) fn with(options: &MountOptions) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["mount", "plain"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let store = Arc::new(Memory::default());
        let mount = Mount::open(store.clone(), &dir.path().join("mount"), options).unwrap();
        Some(Self { store, mount, dir })
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    pub(crate) fn plain(&self) -> PathBuf {
        self.dir.path().join("plain")
    }
}

/// Whether this machine lets us mount; else says so, loudly.
pub(crate) fn can_mount() -> bool {
    let able = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !able {
        eprintln!("SKIPPED: nothing can be mounted here: it takes /dev/fuse, and root");
    }
    able
}
