//! A volume is mounted and goes again.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::Pair;

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
