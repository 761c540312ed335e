//! Small files that survive a power loss.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::Blocking;

/// A node's own folder for state: small files written as a whole, and the consensus log.
///
/// Calls block: run them by [`Disk::blocking`], never on the heartbeat's path.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// The file's content; `None` when there is no such file.
    ///
    /// # Errors
    /// [`DiskError`], naming the file.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError>;

    /// Writes the whole file. When this returns, a power loss leaves the new content; before, the old or the new, whole.
    ///
    /// # Errors
    /// [`DiskError`], naming the file; the old content stays.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), DiskError>;

    /// Removes the file, durably. A missing one is no error.
    ///
    /// # Errors
    /// [`DiskError`], naming the file.
    fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Where the file is, for messages.
    fn place(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Where its calls are to be run.
    fn blocking(&self) -> Blocking {
        Blocking::Threads
    }

    /// The storage of one log database.
    ///
    /// # Errors
    /// [`DiskError`], naming the file: another process has it open, or it can't be opened.
    fn open_log(&self, name: &str) -> Result<Box<dyn redb::StorageBackend>, DiskError>;
}

/// A state file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} the state file {}: {source}", path.display())]
pub struct DiskError {
    /// `read`, `write`, …
    pub action: &'static str,
    /// Which.
    pub path: PathBuf,
    /// What the operating system says.
    #[source]
    pub source: io::Error,
}

/// A folder on this machine's disk.
#[derive(Clone, Debug)]
pub struct FileDisk {
    folder: PathBuf,
}

impl FileDisk {
    /// Uses `folder`, and makes it when it is missing.
    ///
    /// # Errors
    /// [`DiskError`] when it can't be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        Ok(Self { folder })
    }
}

impl Disk for FileDisk {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path)(e)),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        let path = self.folder.join(name);
        let fresh = self.folder.join(format!("{name}.new"));
        let done = (|| {
            let mut f = File::create(&fresh)?;
            f.write_all(content)?;
            f.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        done.map_err(failed("write", &path))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Ok(()) => File::open(&self.folder).and_then(|d| d.sync_all()).map_err(failed("remove", &path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed("remove", &path)(e)),
        }
    }

    fn place(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn open_log(&self, name: &str) -> Result<Box<dyn redb::StorageBackend>, DiskError> {
        let path = self.folder.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        let backend = redb::backends::FileBackend::new(file)
            .map_err(|e| failed("lock", &path)(io::Error::other(e.to_string())))?;
        Ok(Box::new(backend))
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DiskError + 'a {
    move |source| DiskError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path().join("state")).unwrap();
        assert_eq!(disk.read("promise").unwrap(), None);
        disk.write("promise", b"1").unwrap();
        disk.write("promise", b"22").unwrap();
        assert_eq!(disk.read("promise").unwrap().unwrap(), b"22");
        disk.remove("promise").unwrap();
        disk.remove("promise").unwrap();
        assert_eq!(disk.read("promise").unwrap(), None);
    }
}
