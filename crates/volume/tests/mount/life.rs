//! A volume is mounted and goes again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
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

const NOBODY: &str = "TRINE_TEST_NOBODY_MOUNTS";

/// What this test says as a user without rights, who owns the directory that is named to it.
fn as_nobody(test: &str, path: Option<&Path>) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    // The program is where nobody may run it from.
    let program = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempfile().unwrap();
    let program = program.into_temp_path();
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", test, "--nocapture"]).current_dir("/").env(NOBODY, dir.path()).uid(65534).gid(65534);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let output = command.output().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn who_may_not_mount_is_told() {
    if let Some(at) = std::env::var_os(NOBODY) {
        println!("{}", open(Path::new(&at)).unwrap_err());
    } else if can_mount() {
        let told = as_nobody("life::who_may_not_mount_is_told", Some(Path::new("/nowhere")));
        assert!(told.contains("install fusermount3 (package fuse3)"), "{told}");
    }
}

#[test]
fn who_is_not_root_mounts_by_fusermount3() {
    if let Some(at) = std::env::var_os(NOBODY) {
        let path = Path::new(&at).join("a");
        let nobody = || Arc::new(Memory::of(65534));
        let mount = Mount::open(nobody(), Path::new(&at), &MountOptions::default()).unwrap();
        let file = File::create(&path).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.sync_all().unwrap();
        assert!(matches!(mount.close(), Err(MountError::Busy { .. })));
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        mount.close().unwrap();
        assert!(!path.exists());
        drop(Mount::open(nobody(), Path::new(&at), &MountOptions::default()).unwrap());
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
        println!("it works");
    } else if Command::new("fusermount3").arg("--version").output().is_err()
        || fs::metadata("/dev/fuse").is_ok_and(|device| device.mode() & 0o006 != 0o006)
    {
        eprintln!("SKIPPED: it takes fusermount3 (package fuse3), and a /dev/fuse that is everybody's");
    } else if can_mount() {
        let told = as_nobody("life::who_is_not_root_mounts_by_fusermount3", None);
        assert!(told.contains("it works"), "{told}");
    }
}

/// fuser 0.18 panics on the time at the very end of what a file can have, which ends one of the threads that take requests.
#[test]
fn times_at_the_end_of_time() {
    let Some(pair) = Pair::new() else { return };
    let path = pair.volume().join("a");
    fs::write(&path, b"a").unwrap();
    for secs in [i64::MAX, i64::MIN + 1, -1, 0] {
        let time = Timespec { tv_sec: secs, tv_nsec: 1 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime(), secs);
    }
}
