//! What a call costs on the mount and in a plain directory: `mount_cost [DIR [ROUNDS]]`, as root.
//!
//! The volume is in memory and acknowledges at once, so that what is left is FUSE and the tree. Medians, in microseconds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that fails panics")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use trine_platform::{BootClock, Clock};
use trine_volume::{Mount, MountOptions};

#[path = "../tests/mount/common.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod common;

fn main() {
    let mut args = std::env::args().skip(1);
    let top = args.next().map_or_else(std::env::temp_dir, Into::into);
    let rounds: usize = args.next().map_or(5000, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir_in(top).unwrap();
    let [volume, plain] = ["volume", "plain"].map(|name| dir.path().join(name));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&plain).unwrap();
    let store = Arc::new(common::Memory::default());
    let mount = Mount::open(store, &volume, &MountOptions::default()).unwrap();
    println!("{:34} {:>9} {:>9} {:>7}", "µs, median", "volume", "plain", "ratio");
    for (name, call) in CALLS {
        let [a, b] = [&volume, &plain].map(|dir| median(rounds, dir, call));
        println!("{name:34} {a:9.2} {b:9.2} {:7.1}", a / b);
    }
    mount.close().unwrap();
}

type Call = fn(&File, &Path, usize);

const CALLS: [(&str, Call); 9] = [
    ("pwrite 8 KiB, in place", |file, _, number| file.write_all_at(&[7; 8192], place(number)).unwrap()),
    ("pwrite 8 KiB + fdatasync", |file, _, number| {
        file.write_all_at(&[7; 8192], place(number)).unwrap();
        file.sync_data().unwrap();
    }),
    ("fdatasync, nothing to write", |file, _, _| file.sync_data().unwrap()),
    ("append 100 B + fdatasync", |file, _, number| {
        file.write_all_at(&[7; 100], (1 << 24) + 100 * number as u64).unwrap();
        file.sync_data().unwrap();
    }),
    ("pread 8 KiB, warm", |file, _, number| file.read_exact_at(&mut [0; 8192], place(number)).unwrap()),
    ("pread 8 KiB, cold", |file, _, number| {
        rustix::fs::fadvise(file, place(number), None, rustix::fs::Advice::DontNeed).unwrap();
        file.read_exact_at(&mut [0; 8192], place(number)).unwrap();
    }),
    ("stat", |_, dir, _| assert!(fs::metadata(dir.join("data")).unwrap().is_file())),
    ("open + close", |_, dir, _| drop(File::open(dir.join("data")).unwrap())),
    ("create + unlink", |_, dir, number| {
        let path = dir.join(number.to_string());
        drop(File::create(&path).unwrap());
        fs::remove_file(path).unwrap();
    }),
];

/// Somewhere in 8 MiB.
fn place(number: usize) -> u64 {
    (number as u64).wrapping_mul(7919) % 1024 * 8192
}

fn median(rounds: usize, dir: &Path, call: Call) -> f64 {
    let path = dir.join("data");
    fs::write(&path, vec![1; 8 << 20]).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    file.sync_all().unwrap();
    let mut took: Vec<f64> = (0..rounds)
        .map(|number| {
            let begun = BootClock.now();
            call(&file, dir, number);
            BootClock.now().since(begun).as_nanos() as f64 / 1000.0
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}
