//! What must be acknowledged before a call returns is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::MsyncFlags;

use crate::common::{Memory, Pair};
use crate::mapping::Mapping;

/// How many syncs the call took.
fn syncs<T>(store: &Memory, call: impl FnOnce() -> T) -> u64 {
    let before = store.syncs.load(Ordering::SeqCst);
    call();
    store.syncs.load(Ordering::SeqCst) - before
}

#[test]
fn each_way_to_sync_reaches_the_store() {
    let Some(pair) = Pair::new() else { return };
    let (at, store) = (pair.volume(), &pair.store);
    let path = at.join("a");
    let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    assert_eq!(syncs(store, || file.write_at(b"abc", 0).unwrap()), 0);
    store.ops();
    assert_eq!(syncs(store, || file.sync_all().unwrap()), 1);
    assert!(store.ops().contains(&"write"));
    file.write_at(b"def", 0).unwrap();
    assert_eq!(syncs(store, || file.sync_data().unwrap()), 1);
    assert!(store.ops().contains(&"write"));
    assert_eq!(syncs(store, || File::open(&at).unwrap().sync_all().unwrap()), 1);
    for flags in [OFlags::SYNC, OFlags::DSYNC, OFlags::DSYNC | OFlags::DIRECT] {
        let fd = rustix::fs::open(&path, OFlags::RDWR | flags, Mode::empty()).unwrap();
        let mapping = Mapping::anonymous(4096);
        mapping.bytes()[0] = 7;
        assert_eq!(syncs(store, || rustix::io::pwrite(&fd, mapping.bytes(), 4096).unwrap()), 1, "{flags:?}");
        assert!(store.ops().contains(&"write"), "{flags:?}");
    }
    let mut mapping = Mapping::of(&file, 4096);
    mapping.bytes()[5] = b'x';
    assert_eq!(syncs(store, || mapping.sync(MsyncFlags::ASYNC).unwrap()), 0);
    store.ops();
    assert_eq!(syncs(store, || mapping.sync(MsyncFlags::SYNC).unwrap()), 1);
    mapping.bytes()[6] = b'y';
    mapping.sync(MsyncFlags::SYNC).unwrap();
    assert!(store.ops().contains(&"write"));
    // A write that is to be synced by itself (RWF_DSYNC).
    let data = [std::io::IoSlice::new(b"once")];
    assert_eq!(syncs(store, || rustix::io::pwritev2(&file, &data, 9, rustix::io::ReadWriteFlags::DSYNC).unwrap()), 1);
    // Written past the kernel's cache, for its set-user bit.
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4777)).unwrap();
    let fd = rustix::fs::open(&path, OFlags::RDWR | OFlags::DSYNC, Mode::empty()).unwrap();
    assert!(syncs(store, || rustix::io::pwrite(&fd, b"abc", 0).unwrap()) >= 1);
}

/// The kernel writes back what it has, but tells this of no FUSE mount but those of virtual machines and block devices: who
/// needs `syncfs` to be durable does not get it.
#[test]
fn syncfs_only_hands_over() {
    let Some(pair) = Pair::new() else { return };
    let file = File::create(pair.volume().join("a")).unwrap();
    file.write_at(b"abc", 0).unwrap();
    pair.store.ops();
    let count = syncs(&pair.store, || rustix::fs::syncfs(&file).unwrap());
    eprintln!("syncfs: {count} syncs, operations: {:?}", pair.store.ops());
    assert_eq!(count, 0);
}

/// The kernel still has the times of a file to write back that was closed and removed a moment ago.
#[test]
fn a_file_that_is_gone_fails_no_syncfs() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    let top = File::open(&at).unwrap();
    for hold in [false, true] {
        let file = File::create(at.join("a")).unwrap();
        file.write_at(&[7; 10_000], 0).unwrap();
        let held = hold.then(|| File::open(at.join("a")).unwrap());
        drop(file);
        std::fs::remove_file(at.join("a")).unwrap();
        rustix::fs::syncfs(&top).unwrap();
        drop(held);
        rustix::fs::syncfs(&top).unwrap();
    }
    std::fs::create_dir(at.join("d")).unwrap();
    std::fs::write(at.join("d/a"), b"abc").unwrap();
    std::fs::remove_dir_all(at.join("d")).unwrap();
    rustix::fs::syncfs(&top).unwrap();
}

#[test]
fn what_can_not_be_synced_is_an_error() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    let file = File::create(at.join("a")).unwrap();
    file.write_at(b"abc", 0).unwrap();
    pair.store.fails.store(true, Ordering::SeqCst);
    let error = |result: std::io::Result<()>| Errno::from_io_error(&result.unwrap_err());
    assert_eq!(error(file.sync_all()), Some(Errno::IO));
    assert_eq!(error(file.sync_data()), Some(Errno::IO));
    assert_eq!(error(File::open(&at).unwrap().sync_all()), Some(Errno::IO));
    let fd = rustix::fs::open(at.join("a"), OFlags::RDWR | OFlags::DSYNC, Mode::empty()).unwrap();
    assert_eq!(rustix::io::pwrite(&fd, b"abc", 0), Err(Errno::IO));
}

/// A write that the kernel keeps is done before there is room asked for: who has not reserved it learns of it by the sync.
#[test]
fn a_full_disk_is_told() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    let file = File::create(at.join("a")).unwrap();
    rustix::fs::mkdir(at.join("d"), Mode::RWXU).unwrap();
    file.write_at(b"abc", 0).unwrap();
    file.sync_all().unwrap();
    pair.store.full.store(true, Ordering::SeqCst);
    assert_eq!(rustix::fs::mkdir(at.join("e"), Mode::RWXU), Err(Errno::NOSPC));
    assert_eq!(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 10_000), Err(Errno::NOSPC));
    file.write_at(b"defg", 0).unwrap();
    let told = Errno::from_io_error(&file.sync_all().unwrap_err());
    assert_eq!(told, Some(Errno::NOSPC));
    let direct = rustix::fs::open(at.join("a"), OFlags::RDWR | OFlags::DIRECT, Mode::empty()).unwrap();
    assert_eq!(rustix::io::pwrite(&direct, Mapping::anonymous(4096).bytes(), 0), Err(Errno::NOSPC));
    // What makes room works.
    rustix::fs::rename(at.join("d"), at.join("f")).unwrap();
    rustix::fs::rmdir(at.join("f")).unwrap();
    pair.store.full.store(false, Ordering::SeqCst);
    file.write_at(b"hij", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(pair.store.contents(), 1);
}

#[test]
fn a_sync_that_hangs_holds_nothing_up() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    fs::write(at.join("read"), vec![1; 100_000]).unwrap();
    pair.store.holds.store(true, Ordering::SeqCst);
    let (done, waits) = mpsc::channel();
    // More than there are threads that take requests.
    for number in 0..8 {
        let (done, path) = (done.clone(), at.join(format!("file{number}")));
        thread::spawn(move || {
            let file = File::create(path).unwrap();
            file.write_at(b"abc", 0).unwrap();
            done.send(file.sync_all()).unwrap();
        });
    }
    while pair.store.held.lock().unwrap().len() < 8 {
        thread::sleep(Duration::from_millis(1));
    }
    fs::write(at.join("b"), b"b").unwrap();
    fs::rename(at.join("b"), at.join("c")).unwrap();
    assert_eq!(fs::read(at.join("read")).unwrap().len(), 100_000);
    assert!(waits.try_recv().is_err());
    for done in pair.store.held.lock().unwrap().drain(..) {
        done(Ok(()));
    }
    for _ in 0..8 {
        waits.recv_timeout(Duration::from_secs(5)).unwrap().unwrap();
    }
}

#[test]
fn reads_that_hang_hold_nothing_up() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    for number in 0..8 {
        // Without anything of it in the kernel's cache.
        let file = File::create(at.join(format!("cold{number}"))).unwrap();
        file.set_len(100_000).unwrap();
    }
    let hangs = pair.store.slow.lock().unwrap();
    let readers: Vec<_> = (0..8)
        .map(|number| {
            let path = at.join(format!("cold{number}"));
            thread::spawn(move || fs::read(path).unwrap().len())
        })
        .collect();
    thread::sleep(Duration::from_millis(50));
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    let file = File::create(at.join("b")).unwrap();
    file.write_at(b"abc", 0).unwrap();
    file.sync_all().unwrap();
    fs::rename(at.join("b"), at.join("c")).unwrap();
    drop(hangs);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 100_000);
    }
}
