//! Files and folders that must survive a power loss, or go.

use std::fs;
use std::io;
use std::path::Path;

use crate::EngineError;

/// Makes what was done in a folder (a file made, renamed, removed) survive a power loss.
pub(crate) fn sync_dir(folder: &Path) -> Result<(), EngineError> {
    fs::File::open(folder).and_then(|d| d.sync_all()).map_err(EngineError::io("make durable", folder))
}

/// Makes everything in a folder survive a power loss: in one go for its whole file system, since a flush for each of
/// thousands of small files takes seconds.
pub(crate) async fn sync_all(folder: &Path) -> Result<(), EngineError> {
    let path = folder.to_owned();
    let done = crate::guard::blocking(move || {
        let folder = fs::File::open(path)?;
        Ok::<(), io::Error>(rustix::fs::syncfs(folder)?)
    });
    done.await.map_err(EngineError::io("make durable", folder))
}

/// Removes a folder with all that is in it, or nothing when there is none.
pub(crate) fn remove_tree(folder: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(EngineError::io("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// Removes a file, or nothing when there is none.
pub(crate) fn remove_file(file: &Path) -> Result<(), EngineError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(EngineError::io("remove", file)(e)),
        _ => Ok(()),
    }
}

/// Writes a whole file that everybody can read: whatever happens there is the old one or the new. It need not survive a power
/// loss.
pub(crate) fn write_readable(path: &Path, text: &str) -> Result<(), EngineError> {
    use std::os::unix::fs::PermissionsExt;
    let fresh = path.with_extension("new");
    let done = (|| {
        fs::write(&fresh, text)?;
        fs::set_permissions(&fresh, PermissionsExt::from_mode(0o644))?;
        fs::rename(&fresh, path)
    })();
    done.map_err(EngineError::io("write", path))
}
