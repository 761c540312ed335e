//! A volume is mounted and goes again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use trine_volume::{Mount, MountError, MountOptions, clean_stale};

use crate::common::{Memory, Pair, can_mount};

fn open(at: &Path) -> Result<Mount, MountError> {
    Mount::open(Arc::new(Memory::default()), at, &MountOptions::default())
}

#[test]
fn files_are_written_and_read() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    fs::create_dir(at.join("a")).unwrap();
    fs::write(at.join("a/b"), b"hello").unwrap();
    assert_eq!(fs::read(at.join("a/b")).unwrap(), b"hello");
    let meta = fs::metadata(at.join("a/b")).unwrap();
    assert_eq!((meta.len(), meta.nlink()), (5, 1));
    let names: Vec<_> = fs::read_dir(&at).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(fs::metadata(&at).unwrap().mode(), 0o40700);
    fs::remove_file(at.join("a/b")).unwrap();
    fs::remove_dir(at.join("a")).unwrap();
    pair.mount.close().unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    pair.store.check();
}

/// What the kernel has still in its cache when it is unmounted is there when it is mounted again, and so are all times.
#[test]
fn nothing_is_lost_by_closing() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    let mut seen = Vec::new();
    for number in 0..50_u8 {
        let path = at.join(format!("file{number}"));
        fs::write(&path, vec![number; 5000]).unwrap();
        fs::rename(&path, at.join(format!("renamed{number}"))).unwrap();
    }
    let look = |name: &str| {
        let meta = fs::metadata(at.join(name)).unwrap();
        (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec(), meta.mode(), meta.ino())
    };
    for number in 0..50 {
        seen.push(look(&format!("renamed{number}")));
    }
    pair.mount.close().unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    let again = Mount::open(pair.store.clone(), &at, &MountOptions::default()).unwrap();
    for (number, seen) in (0..50_u8).zip(seen) {
        assert_eq!(look(&format!("renamed{number}")), seen);
        assert_eq!(fs::read(at.join(format!("renamed{number}"))).unwrap(), vec![number; 5000]);
    }
    again.close().unwrap();
    pair.mount.close().unwrap();
}

#[test]
fn in_use_it_stays() {
    let Some(pair) = Pair::new() else { return };
    let file = File::create(pair.volume().join("a")).unwrap();
    assert!(matches!(pair.mount.close(), Err(MountError::Busy { .. })));
    file.write_at(b"abc", 0).unwrap();
    drop(file);
    pair.mount.close().unwrap();
    // A second time is no error.
    pair.mount.close().unwrap();
    pair.mount.abort().unwrap();
}

#[test]
fn aborted_nobody_hangs() {
    let Some(pair) = Pair::new() else { return };
    let at = pair.volume();
    let file = Arc::new(File::create(at.join("a")).unwrap());
    // Another one: the kernel lets only one at a time sync a file (or write it meanwhile).
    fs::write(at.join("b"), b"b").unwrap();
    pair.store.holds.store(true, Ordering::SeqCst);
    let hangs = {
        let file = file.clone();
        thread::spawn(move || file.sync_all())
    };
    while pair.store.held.lock().unwrap().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    // As a database does that has been killed in a call.
    let mut child = Command::new("sh").arg("-c").arg("exec sync b").current_dir(&at).spawn().unwrap();
    while pair.store.held.lock().unwrap().len() < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "it hangs in the kernel");
    let begun = trine_platform::Clock::now(&trine_platform::BootClock);
    pair.mount.abort().unwrap();
    assert!(hangs.join().unwrap().is_err());
    child.wait().unwrap();
    let took = trine_platform::Clock::now(&trine_platform::BootClock).since(begun);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(Errno::from_io_error(&file.write_at(b"x", 0).and(file.sync_all()).unwrap_err()), Some(Errno::NOTCONN));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    // Answers that come late have nobody to go to, which is no harm.
    for done in pair.store.held.lock().unwrap().drain(..) {
        done(Ok(()));
    }
    open(&at).unwrap().close().unwrap();
}

#[test]
fn dropped_it_is_gone() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = open(dir.path()).unwrap();
    fs::write(dir.path().join("a"), b"a").unwrap();
    drop(mount);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn its_end_is_noticed() {
    let Some(pair) = Pair::new() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, pair.mount.ended()).await.is_err());
        assert!(Command::new("umount").arg(pair.volume()).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(5), pair.mount.ended()).await.unwrap();
    });
    pair.mount.close().unwrap();
    // What another has mounted there since is not ours to unmount.
    let other = open(&pair.volume()).unwrap();
    pair.mount.close().unwrap();
    pair.mount.abort().unwrap();
    fs::write(pair.volume().join("a"), b"a").unwrap();
    other.close().unwrap();
}

#[test]
fn where_it_can_not_be_mounted_it_says_why() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let says = |at: &Path, what: &str| {
        let error = open(at).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(at.to_str().unwrap()), "{error}");
    };
    says(&dir.path().join("missing"), "make it first");
    fs::write(dir.path().join("file"), b"").unwrap();
    says(&dir.path().join("file"), "not a directory");
    says(&dir.path().join("file/below"), "not a directory");
    says(dir.path(), "not empty (file is in it)");
    let at = dir.path().join("mount point");
    fs::create_dir(&at).unwrap();
    let mount = open(&at).unwrap();
    says(&at, "(fuse.trine) is mounted there already");
    mount.close().unwrap();
    open(&at).unwrap().close().unwrap();
}

#[test]
fn what_a_dead_process_left_is_removed() {
    if !can_mount() {
        return;
    }
    const AT: &str = "TRINE_TEST_MOUNTS_AND_DIES";
    if let Some(at) = std::env::var_os(AT) {
        let _mount = open(Path::new(&at)).unwrap();
        println!("mounted");
        thread::sleep(Duration::from_secs(60));
    }
    let dir = tempfile::tempdir().unwrap();
    clean_stale(dir.path()).unwrap();
    clean_stale(&dir.path().join("missing")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "life::what_a_dead_process_left_is_removed", "--nocapture"])
        .env(AT, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dir.path().to_str().unwrap()) {
        thread::sleep(Duration::from_millis(5));
    }
    fs::write(dir.path().join("a"), b"a").unwrap();
    // Alive it stays.
    clean_stale(dir.path()).unwrap();
    assert!(dir.path().join("a").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(Errno::from_io_error(&fs::read_dir(dir.path()).unwrap_err()), Some(Errno::NOTCONN));
    let mount = open(dir.path()).unwrap();
    mount.close().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
