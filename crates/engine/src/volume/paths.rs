//! The folders of a volume on a node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::EngineError;
use crate::files::{remove_tree, sync_dir};

/// In a new copy that has become complete.
const COMPLETE: &str = "complete";

/// Where what is, below the node's folder.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) dir: PathBuf,
    /// The copy: its log and its files' content.
    pub(super) copy: PathBuf,
    /// A new copy that is being made.
    pub(super) fresh: PathBuf,
    /// The old copy, on its way out.
    pub(super) old: PathBuf,
    /// Where the volume is mounted, and the database works.
    pub(super) data: PathBuf,
    /// What was taken back.
    pub(super) kept: PathBuf,
}

impl Paths {
    /// Makes the folders that are needed at all times.
    pub(super) fn prepare(dir: &Path) -> Result<Self, EngineError> {
        let below = |name: &str| dir.join(name);
        let this = Self {
            dir: dir.to_owned(),
            copy: below("volume"),
            fresh: below("volume.new"),
            old: below("volume.old"),
            data: below("data"),
            kept: below("kept"),
        };
        for folder in [&this.data, &below("run"), &below("log")] {
            fs::create_dir_all(folder).map_err(EngineError::io("make the folder", folder))?;
        }
        Ok(this)
    }

    /// The new copy is whole: it may take the old one's place, also after a crash.
    pub(super) fn mark_complete(&self) -> Result<(), EngineError> {
        let mark = self.fresh.join(COMPLETE);
        fs::write(&mark, b"").map_err(EngineError::io("write", &mark))?;
        fs::File::open(&mark).and_then(|f| f.sync_all()).map_err(EngineError::io("sync", &mark))?;
        sync_dir(&self.fresh)
    }

    /// Puts the complete new copy in the old one's place. A crash at any point leaves what [`Paths::finish`] finishes.
    pub(super) fn swap(&self) -> Result<(), EngineError> {
        let failed = EngineError::io("put the new copy in the place of", &self.copy);
        let done = match renameat_with(CWD, &self.fresh, CWD, &self.copy, RenameFlags::EXCHANGE) {
            // Now the old one is where the new one was made.
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOENT) => fs::rename(&self.fresh, &self.copy),
            Err(_) => fs::rename(&self.copy, &self.old).and_then(|()| fs::rename(&self.fresh, &self.copy)),
        };
        done.map_err(failed)?;
        sync_dir(&self.dir)?;
        self.finish()
    }

    /// Clears up what a swap, or a copy that was not finished, has left.
    pub(super) fn finish(&self) -> Result<(), EngineError> {
        let complete = self.fresh.join(COMPLETE).exists();
        if !self.copy.exists() {
            let from = if complete { &self.fresh } else { &self.old };
            match fs::rename(from, &self.copy) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(EngineError::io("put in place", &self.copy))?,
            }
            sync_dir(&self.dir)?;
        }
        remove_tree(&self.fresh)?;
        if self.copy.exists() { remove_tree(&self.old) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(dir: &Path, which: &[&str]) -> Paths {
        let paths = Paths::prepare(dir).unwrap();
        for name in which {
            fs::create_dir(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("of"), name).unwrap();
        }
        paths
    }

    fn of(paths: &Paths) -> String {
        fs::read_to_string(paths.copy.join("of")).unwrap_or_default()
    }

    #[test]
    fn a_complete_copy_takes_the_place_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let paths = copies(dir.path(), &["volume", "volume.new"]);
        paths.mark_complete().unwrap();
        paths.swap().unwrap();
        assert_eq!(of(&paths), "volume.new");
        assert!(!paths.fresh.exists() && !paths.old.exists());
    }

    #[test]
    fn whatever_a_crash_leaves_one_copy_remains() {
        for (left, complete, expected) in [
            (&["volume", "volume.new"][..], false, "volume"),
            (&["volume", "volume.new"], true, "volume"),
            (&["volume.old", "volume.new"], true, "volume.new"),
            (&["volume.old", "volume.new"], false, "volume.old"),
            (&["volume.old"], false, "volume.old"),
            (&["volume", "volume.old"], false, "volume"),
            (&["volume.new"], true, "volume.new"),
            (&["volume.new"], false, ""),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let paths = copies(dir.path(), left);
            if complete {
                paths.mark_complete().unwrap();
            }
            paths.finish().unwrap();
            assert_eq!(of(&paths), expected, "{left:?} {complete}");
            assert!(!paths.fresh.exists() && !paths.old.exists(), "{left:?}");
        }
    }
}
