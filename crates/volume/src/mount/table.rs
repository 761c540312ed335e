//! What is mounted where.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::{MountError, device};

/// A mount, as `/proc/self/mountinfo` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    /// The second half of its device number: of a FUSE mount, the kernel's number of it.
    pub(super) minor: u32,
    pub(super) at: PathBuf,
    /// The file system's type.
    pub(super) kind: String,
}

/// The uppermost mount at a path, which has no links in it. `None`: nothing is mounted there.
pub(super) fn top(at: &Path) -> Option<Row> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    table.split(|b| *b == b'\n').filter_map(row).rfind(|row| row.at == at)
}

/// Ends the volume that is mounted there in another process's name: calls that hang in it fail. For when that process is
/// stopped, and those who wait for it have to end all the same. Never waits for the mount itself, which stays where it is,
/// dead. False: there is none.
///
/// # Errors
/// It can't be ended.
pub fn abort_at(at: &Path) -> io::Result<bool> {
    let Some(row) = beside(at).and_then(|real| top(&real)).filter(|row| row.kind == "fuse.trine") else {
        return Ok(false);
    };
    end_connection(row.minor).or_else(|_| device::end(&row.at))?;
    Ok(true)
}

/// Ends a mount wherever it is mounted. Not every machine has the file for it.
pub(super) fn end_connection(minor: u32) -> io::Result<()> {
    fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1")
}

/// A mount point's path without links, found without a look at what is mounted there: that may be dead, or hang.
fn beside(at: &Path) -> Option<PathBuf> {
    Some(fs::canonicalize(at.parent()?).ok()?.join(at.file_name()?))
}

/// Detaches what a dead process left mounted there ("Transport endpoint is not connected"). What is alive stays.
///
/// # Errors
/// It can't be detached.
pub fn clean_stale(at: &Path) -> Result<(), MountError> {
    // What is dead can't be asked where it is, but the directory around it can.
    let real = fs::canonicalize(at).ok().or_else(|| beside(at));
    let Some(real) = real else { return Ok(()) };
    while let Some(row) = top(&real) {
        if !row.kind.starts_with("fuse") || !is_dead(&real) {
            break;
        }
        tracing::warn!(at = %real.display(), kind = row.kind, "a mount that a dead process left is detached");
        device::detach(&real).map_err(|error| MountError::Stuck { at: real.clone(), error })?;
    }
    Ok(())
}

/// Whether nobody serves it any more. What does not answer may still be served.
fn is_dead(at: &Path) -> bool {
    let (answer, wait) = mpsc::channel();
    let at = at.to_owned();
    // A call to a mount whose process is stopped hangs, so it gets a thread that may hang with it.
    let asked = thread::Builder::new().name("trine-stale".into()).spawn(move || {
        answer.send(rustix::fs::statfs(&at).err()).ok();
    });
    asked.is_ok() && matches!(wait.recv_timeout(Duration::from_secs(2)), Ok(Some(Errno::NOTCONN | Errno::CONNABORTED)))
}

/// `36 35 98:0 /root /mount/point options optional… - type source options`
fn row(line: &[u8]) -> Option<Row> {
    let mut fields = line.split(|b| *b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let minor = device.split_once(':')?.1.parse().ok()?;
    let at = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Row { minor, at, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescaped(mut field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    loop {
        field = match field {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
            [] => return bytes,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let line = br"61 26 0:52 / /data/a\040b\134c rw,nosuid,noatime shared:4 - fuse.trine trine rw,user_id=0";
        let expected = Row { minor: 52, at: PathBuf::from(r"/data/a b\c"), kind: "fuse.trine".into() };
        assert_eq!(row(line), Some(expected));
        let plain = row(b"26 1 8:1 / / rw - ext4 /dev/sda rw").unwrap();
        assert_eq!((plain.minor, plain.kind.as_str()), (1, "ext4"));
        for nonsense in [&b""[..], b"1 2 3", b"1 2 3:x / / -", b"1 2 3:4 / /a rw"] {
            assert_eq!(row(nonsense), None);
        }
    }

    #[test]
    fn what_is_mounted_is_found() {
        assert!(top(Path::new("/proc")).is_some());
        assert_eq!(top(Path::new("/proc/self")), None);
    }
}
