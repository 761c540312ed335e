//! A data directory from before there was a cluster, on its way to become the first copy.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::files::{remove_tree, sync_dir};
use crate::{DataCopy, EngineError};

/// A directory that is being taken over, where it is meanwhile.
#[derive(Debug)]
pub(crate) struct Adoption {
    /// Where it was.
    from: PathBuf,
    /// Where it is now, on the node's file system.
    pub(crate) at: PathBuf,
    /// It was moved, so it is the only one; else `from` is there still, as it was.
    moved: bool,
}

impl Adoption {
    /// Goes on with a directory that was moved to `place` by an attempt that was cut off. `there` is the node's copy, in `data`.
    ///
    /// # Errors
    /// The node has data already; there is another directory at `from`: nobody can tell which is meant.
    pub(crate) fn resume(
        from: &Path,
        place: &Path,
        (there, data): (&DataCopy, &Path),
    ) -> Result<Option<Self>, EngineError> {
        if *there != DataCopy::Missing {
            return Err(EngineError::AdoptRefused {
                path: from.to_owned(),
                why: format!("this node has data already, in {}: adopt on a node that has none", data.display()),
            });
        }
        if !place.exists() {
            return Ok(None);
        }
        if from.exists() {
            return Err(EngineError::AdoptRefused {
                path: from.to_owned(),
                why: format!(
                    "an adoption that was cut off has left its directory in {}: move that back to where it was first",
                    place.display()
                ),
            });
        }
        Ok(Some(Self { from: from.to_owned(), at: place.to_owned(), moved: true }))
    }

    /// Moves it to `place`, or copies it to `scratch` when it is on another file system.
    ///
    /// # Errors
    /// It can't be moved or copied: it is where it was, and as it was.
    pub(crate) fn begin(account: &Account, from: &Path, place: &Path, scratch: &Path) -> Result<Self, EngineError> {
        let (at, moved) = match fs::rename(from, place) {
            Ok(()) => (place, true),
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                remove_tree(scratch)?;
                if let Err(e) = copy_tree(account, from, scratch) {
                    let _ = remove_tree(scratch);
                    return Err(e);
                }
                (scratch, false)
            }
            Err(e) => return Err(EngineError::io("move", from)(e)),
        };
        if let Some(folder) = at.parent() {
            sync_dir(folder)?;
        }
        Ok(Self { from: from.to_owned(), at: at.to_owned(), moved })
    }

    /// It can't be taken over: everything is where it was.
    pub(crate) fn put_back(self) {
        if !self.moved {
            let _ = remove_tree(&self.at);
        } else if let Err(error) = fs::rename(&self.at, &self.from) {
            tracing::warn!(at = %self.at.display(), to = %self.from.display(), %error, "it can't be put back; it is here");
        } else {
            tracing::info!(path = %self.from.display(), "put back");
        }
    }

    /// Puts it in place as the copy in use.
    ///
    /// # Errors
    /// It can't be moved there.
    pub(crate) fn complete(&self, data: &Path) -> Result<(), EngineError> {
        fs::rename(&self.at, data).map_err(EngineError::io("put in place", data))?;
        data.parent().map_or(Ok(()), sync_dir)
    }
}

/// Refuses a directory that belongs to another user than the database will run as.
pub(crate) fn check_owner(account: &Account, from: &Path) -> Result<(), EngineError> {
    let owner = fs::metadata(from).map_err(EngineError::io("look at", from))?.uid();
    if owner == account.uid {
        return Ok(());
    }
    Err(EngineError::AdoptRefused {
        path: from.to_owned(),
        why: format!(
            "it belongs to user number {owner}, and the database will run as {} ({}): name that user in engine.user",
            account.name, account.uid
        ),
    })
}

fn copy_tree(account: &Account, from: &Path, to: &Path) -> Result<(), EngineError> {
    account.make_dir(to)?;
    for entry in fs::read_dir(from).map_err(EngineError::io("read", from))? {
        let entry = entry.map_err(EngineError::io("read", from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(EngineError::io("look at", &path))?;
        if kind.is_dir() {
            copy_tree(account, &path, &target)?;
        } else if kind.is_file() {
            fs::copy(&path, &target).map_err(EngineError::io("copy", &path))?;
            fs::File::open(&target).and_then(|f| f.sync_all()).map_err(EngineError::io("write", &target))?;
            account.give(&target)?;
        }
    }
    sync_dir(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("old");
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/file"), "text").unwrap();
        let place = dir.path().join("data.adopt");
        (dir, from, place)
    }

    fn me() -> Account {
        Account::of_numbers(None)
    }

    #[test]
    fn what_is_refused_is_where_it_was() {
        let (dir, from, place) = folder();
        let adoption = Adoption::begin(&me(), &from, &place, &dir.path().join("data.new")).unwrap();
        assert!(!from.exists() && adoption.at == place);
        adoption.put_back();
        assert_eq!(fs::read(from.join("sub/file")).unwrap(), b"text");
        assert!(!place.exists());
    }

    #[test]
    fn an_attempt_that_was_cut_off_goes_on_with_the_same_directory_only() {
        let (dir, from, place) = folder();
        let resume = |there| Adoption::resume(&from, &place, (&there, dir.path()));
        let taken = resume(DataCopy::Complete).unwrap_err().to_string();
        assert!(taken.contains("has data already"), "{taken}");
        assert!(resume(DataCopy::Missing).unwrap().is_none());
        let _cut_off = Adoption::begin(&me(), &from, &place, &dir.path().join("data.new")).unwrap();
        let again = resume(DataCopy::Missing).unwrap().unwrap();
        assert!(again.at == place && again.moved);
        fs::create_dir(&from).unwrap();
        let refused = resume(DataCopy::Missing).unwrap_err().to_string();
        assert!(refused.contains("data.adopt"), "{refused}");
        assert!(place.join("sub/file").exists(), "the only copy was touched");
        again.complete(&dir.path().join("data")).unwrap();
        assert!(dir.path().join("data/sub/file").exists());
    }

    #[test]
    fn a_copy_has_all_of_it() {
        let (dir, from, _) = folder();
        let to = dir.path().join("copy");
        copy_tree(&me(), &from, &to).unwrap();
        assert_eq!(fs::read(to.join("sub/file")).unwrap(), b"text");
        let copied = Adoption { from: from.clone(), at: to.clone(), moved: false };
        copied.put_back();
        assert!(from.join("sub/file").exists() && !to.exists());
    }
}
