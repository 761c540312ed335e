//! What is mounted below a node's folder: the volume of a node that was killed stays mounted, and dead.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Done, Failure};

/// Takes off every volume that is mounted below `dir`. None of its processes may be left.
pub(crate) fn take_off(dir: &Path) -> Done {
    // Not looked up: the way to a mount whose server is dead ends before it.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    for point in below(dir, &table) {
        let (program, flag) =
            if rustix::process::geteuid().is_root() { ("umount", "-l") } else { ("fusermount3", "-uz") };
        let done = Command::new(program).arg(flag).arg("--").arg(&point).output();
        let why = match done {
            Ok(done) if done.status.success() => continue,
            Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(e) => e.to_string(),
        };
        return Err(Failure::failed(format!("can't unmount {} with {program}: {why}", point.display())));
    }
    Ok(())
}

/// The FUSE mounts of a table (/proc/PID/mountinfo) that are below a folder, the last one first.
fn below(dir: &Path, table: &[u8]) -> Vec<PathBuf> {
    let points = table.split(|b| *b == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let kind = fields.iter().position(|f| *f == b"-").and_then(|at| fields.get(at + 1))?;
        let point = PathBuf::from(plain(fields.get(4)?));
        (kind.starts_with(b"fuse") && point.starts_with(dir) && point != dir).then_some(point)
    });
    let mut points: Vec<PathBuf> = points.collect();
    points.reverse();
    points
}

/// A space and its like are written as `\040`.
fn plain(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\').then(|| after.get(..3)).flatten().and_then(|o| std::str::from_utf8(o).ok());
        match code.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_volumes_below_the_folder_are_found() {
        let table = b"36 35 98:0 / /c/n1/data rw,nosuid - fuse.trine trine rw\n\
            37 35 98:0 / /c/n1/a\\040b rw shared:1 - fuse x rw\n\
            38 35 98:0 / /c/n10/data rw - fuse.trine trine rw\n\
            39 35 98:0 / /c/n1/disk rw - ext4 /dev/vdb rw\n\
            40 35 98:0 / /c/n1 rw - fuse x rw\n\n";
        let found = below(Path::new("/c/n1"), table);
        assert_eq!(found, [PathBuf::from("/c/n1/a b"), PathBuf::from("/c/n1/data")]);
        assert!(take_off(Path::new("/nowhere")).is_ok());
    }
}
