//! Random calls, from a seed, compared with a plain directory.
//!
//! `TRINE_SEED` begins with another seed, `TRINE_SEEDS` says how many there are.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::mm::MsyncFlags;
use trine_volume::{Mount, MountOptions};

use crate::common::Pair;
use crate::here::{Here, compare};
use crate::mapping::Mapping;

fn seeds(usual: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("TRINE_SEED").unwrap_or(1);
    first..first + number("TRINE_SEEDS").unwrap_or(usual)
}

/// A name out of few, some of them in directories, so that calls often meet.
fn name(random: &mut ChaCha8Rng) -> String {
    let mut path = String::new();
    for _ in 0..random.random_range(0..3) {
        path.push(['a', 'b', 'c'][random.random_range(0..3)]);
        path.push('/');
    }
    path.push(['a', 'b', 'c', 'd'][random.random_range(0..4)]);
    path
}

/// One call on names.
fn step(here: &mut Here, random: &mut ChaCha8Rng, open: &mut Vec<File>) {
    let (one, two) = (name(random), name(random));
    let (from, to) = (here.path(&one), here.path(&two));
    let mode = Mode::from_raw_mode(0o755);
    let renamed = |flags| rustix::fs::renameat_with(CWD, &from, CWD, &to, flags);
    match random.random_range(0..16) {
        0..3 => drop(here.did(format!("mkdir {one}"), rustix::fs::mkdir(&from, mode))),
        3..5 => {
            here.io(format!("write {one}"), fs::write(&from, &two));
        }
        5 => drop(here.did(format!("rmdir {one}"), rustix::fs::rmdir(&from))),
        6..8 => drop(here.did(format!("unlink {one}"), rustix::fs::unlink(&from))),
        8 => drop(here.did(format!("link {one} {two}"), rustix::fs::linkat(CWD, &from, CWD, &to, AtFlags::empty()))),
        9..12 => drop(here.did(format!("rename {one} {two}"), renamed(RenameFlags::empty()))),
        12 => drop(here.did(format!("exchange {one} {two}"), renamed(RenameFlags::EXCHANGE))),
        13 => drop(here.did(format!("keep {one} {two}"), renamed(RenameFlags::NOREPLACE))),
        14 => {
            here.io(format!("symlink {one}"), symlink(&two, &from));
        }
        _ => {
            // Held open for a while, so that it may lose its name meanwhile.
            let opened = rustix::fs::open(&from, OFlags::RDWR | OFlags::NOFOLLOW, Mode::empty());
            open.extend(here.tried(format!("open {one}"), opened).map(File::from));
            if open.len() > 3 {
                let file = open.remove(random.random_range(0..open.len()));
                here.io("write", file.write_at(two.as_bytes(), 3));
                here.note(file.metadata().map(|meta| meta.len()).map_err(|error| error.kind()));
            }
        }
    }
}

#[test]
fn names() {
    let Some(pair) = Pair::new() else { return };
    for seed in seeds(30) {
        compare(&format!("seed-{seed}"), &pair, |here| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut open = Vec::new();
            for number in 0..250 {
                step(here, &mut random, &mut open);
                if number % 50 == 0 {
                    here.look();
                }
            }
        });
    }
    // As what the kernel remembers may hide what is there, once more from the start.
    let before = listing(&pair.plain());
    pair.mount.close().unwrap();
    let again = Mount::open(pair.store.clone(), &pair.volume(), &MountOptions::default()).unwrap();
    assert_eq!(listing(&pair.volume()), before);
    again.close().unwrap();
}

fn listing(top: &Path) -> Vec<String> {
    let mut all = Vec::new();
    crate::here::list(top, top, &mut all);
    all
}

const LARGEST: u64 = 300_000;

/// A file on the volume, and what it should be.
struct Twin {
    files: [File; 2],
    paths: [PathBuf; 2],
    log: Vec<String>,
}

impl Twin {
    fn size(&self) -> u64 {
        let [a, b] = [0, 1].map(|n| self.files[n].metadata().unwrap().len());
        assert_eq!(a, b, "size\n{}", self.log.join("\n"));
        a
    }

    fn check(&self) {
        let [a, b] = [0, 1].map(|n| fs::read(&self.paths[n]).unwrap());
        if a != b {
            let first = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
            panic!("content from {first} on, lengths {} {}\n{}", a.len(), b.len(), self.log.join("\n"));
        }
    }

    fn step(&mut self, random: &mut ChaCha8Rng) {
        let offset = random.random_range(0..LARGEST);
        // Small ones and large ones, and often on a page's boundary.
        let len = [10, 5000, 50_000][random.random_range(0..3)];
        let len = random.random_range(1..=len).min(LARGEST - offset);
        let (offset, len) = if random.random_ratio(1, 3) { (offset & !4095, len | 4095) } else { (offset, len) };
        let mut data = vec![0; usize::try_from(len).unwrap()];
        random.fill(&mut data[..]);
        let kind = random.random_range(0..14);
        self.log.push(format!("{kind} {offset} {len}"));
        match kind {
            0..4 => self.each(|file| file.write_all_at(&data, offset).unwrap()),
            4..6 => {
                let read = |file: &File| {
                    let mut data = vec![0; data.len()];
                    let len = file.read_at(&mut data, offset).unwrap();
                    data.truncate(len);
                    data
                };
                assert_eq!(read(&self.files[0]), read(&self.files[1]), "read\n{}", self.log.join("\n"));
            }
            6 => self.each(|file| file.set_len(offset).unwrap()),
            7 | 8 => {
                let (end, sync) = (self.size(), random.random_bool(0.3));
                if offset < end {
                    let size = usize::try_from(end).unwrap();
                    let from = usize::try_from(offset).unwrap();
                    self.each(|file| {
                        let mut mapping = Mapping::of(file, size);
                        let to = size.min(from + data.len());
                        mapping.bytes()[from..to].copy_from_slice(&data[..to - from]);
                        if sync {
                            mapping.sync(MsyncFlags::SYNC).unwrap();
                        }
                    });
                }
            }
            9 => self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len),
            10 => {
                let keep = random.random_bool(0.5);
                let flags = if keep { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
                self.allocate(FallocateFlags::ZERO_RANGE | flags, offset, len);
            }
            11 => self.allocate(FallocateFlags::empty(), offset, len),
            12 => {
                self.each(|file| file.sync_data().unwrap());
                // The kernel gives up what it has, so that the store is asked again.
                rustix::fs::fadvise(&self.files[0], 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
            _ => {
                let direct = random.random_bool(0.5);
                for (file, path) in self.files.iter_mut().zip(&self.paths) {
                    *file = File::options().read(true).write(true).open(path).unwrap();
                }
                if direct {
                    self.direct(&data);
                }
            }
        }
    }

    /// A page, past the cache.
    fn direct(&mut self, data: &[u8]) {
        let page = Mapping::anonymous(4096);
        for (to, from) in page.bytes().iter_mut().zip(data.iter().cycle()) {
            *to = *from;
        }
        let at = data.len() as u64 & !4095;
        for path in &self.paths {
            let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::DIRECT, Mode::empty()).unwrap();
            assert_eq!(rustix::io::pwrite(&fd, page.bytes(), at), Ok(4096));
        }
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) {
        self.each(|file| rustix::fs::fallocate(file, flags, offset, len).unwrap());
    }

    fn each(&self, call: impl Fn(&File)) {
        self.files.iter().for_each(call);
    }
}

const TWIN: &str = "TRINE_TEST_TWIN";

/// Much like `fsx`. In a process of its own: who unmaps a file has his memory locked until the kernel has handed over what he
/// wrote to it, so whoever serves a volume can't map its files.
#[test]
fn content() {
    if let Some(top) = std::env::var_os(TWIN) {
        let dirs = ["mount", "plain"].map(|name| Path::new(&top).join(name));
        return seeds(12).for_each(|seed| twins(&dirs, seed));
    }
    let Some(pair) = Pair::new() else { return };
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "random::content", "--nocapture"])
        .env(TWIN, pair.plain().parent().unwrap())
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    // And what the store has of it, when the kernel has nothing.
    pair.mount.close().unwrap();
    let again = Mount::open(pair.store.clone(), &pair.volume(), &MountOptions::default()).unwrap();
    assert_eq!(listing(&pair.volume())[1..], listing(&pair.plain())[1..]);
    again.close().unwrap();
    pair.store.check();
}

fn twins(dirs: &[PathBuf; 2], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let paths = dirs.clone().map(|dir| dir.join(format!("seed-{seed}")));
    let files = paths.clone().map(|path| File::options().create_new(true).read(true).write(true).open(path).unwrap());
    let mut twin = Twin { files, paths, log: vec![format!("seed {seed}")] };
    for number in 0..300 {
        twin.step(&mut random);
        twin.size();
        if number % 20 == 0 {
            twin.check();
        }
    }
    twin.check();
}
