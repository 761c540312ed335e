//! A complete new copy takes the old one's place.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::EngineError;
use crate::files::{remove_tree, sync_dir};

/// Puts the complete new copy in the old one's place, and removes the old one. A crash at any point leaves one of them in
/// place, or what [`finish`] finishes. All are folders of `dir`.
pub(crate) fn swap(dir: &Path, data: &Path, fresh: &Path, old: &Path) -> Result<(), EngineError> {
    put_in_place(dir, data, fresh, old)?;
    remove_tree(fresh)?;
    remove_tree(old)
}

/// The first half of [`swap`]: the new copy is in place, durably; the old one is still there.
pub(crate) fn put_in_place(dir: &Path, data: &Path, fresh: &Path, old: &Path) -> Result<(), EngineError> {
    let failed = EngineError::io("put the new copy in the place of", data);
    remove_tree(old)?;
    let done = match exchange(fresh, data) {
        // Now the old one is where the new one was made.
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::rename(fresh, data),
        Err(_) => fs::rename(data, old).and_then(|()| fs::rename(fresh, data)),
    };
    done.map_err(failed)?;
    sync_dir(dir)
}

/// At the agent's start: a crash in the middle of [`swap`] has left the old copy, the new one, or both.
pub(crate) fn finish(dir: &Path, data: &Path, fresh: &Path, old: &Path) -> Result<(), EngineError> {
    if !data.exists() && old.exists() {
        // The old one is moved away only when the new one is complete.
        let from = if fresh.exists() { fresh } else { old };
        fs::rename(from, data).map_err(EngineError::io("put in place", data))?;
        sync_dir(dir)?;
    }
    remove_tree(fresh)?;
    if data.exists() { remove_tree(old) } else { Ok(()) }
}

/// Two folders change places, at once; not every file system can do that.
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}
