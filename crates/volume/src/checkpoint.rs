//! Up to where the log is in the other files, too.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::medium::{Medium, read_note, write_note};
use crate::{Lineage, Mark, Tree, VolumeError};

/// The version of the files. What is newer is refused.
const VERSION: u32 = 1;

/// The file.
pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const FRESH: &str = "checkpoint.new";

/// A state of the volume at one place in its log, whose content is durable in the objects.
///
/// Content that the objects have of later operations does no harm: all of these are in the log, and are done again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    version: u32,
    pub(crate) identity: u64,
    pub(crate) at: Mark,
    pub(crate) lineage: Lineage,
    /// See [`crate::journal::Journal::marks`].
    pub(crate) marks: BTreeMap<u64, u64>,
    pub(crate) tree: Tree,
}

impl Checkpoint {
    pub(crate) fn new(identity: u64, at: Mark, lineage: Lineage, marks: BTreeMap<u64, u64>, tree: Tree) -> Self {
        Self { version: VERSION, identity, at, lineage, marks, tree }
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, VolumeError> {
        let mut bytes = postcard::to_stdvec(self).map_err(|_| VolumeError::TooLarge)?;
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// Reads one that was found at `place`.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`]: it is none; [`VolumeError::Version`]: it is whole, and of another version.
    pub(crate) fn parse(bytes: &[u8], place: &str) -> Result<Self, VolumeError> {
        let damaged = || VolumeError::Damaged { place: place.to_owned(), lsn: 0, what: "its checkpoint can't be read" };
        let (body, check) = bytes.split_last_chunk::<8>().ok_or_else(damaged)?;
        if xxh3_64(body) != u64::from_le_bytes(*check) {
            return Err(damaged());
        }
        // The version comes first in every one of them: what follows is known only then.
        let (found, _) = postcard::take_from_bytes::<u32>(body).map_err(|_| damaged())?;
        if found != VERSION {
            return Err(VolumeError::Version { place: place.to_owned(), found, known: VERSION });
        }
        postcard::from_bytes(body).map_err(|_| damaged())
    }

    /// `None`: there is no volume.
    ///
    /// # Errors
    /// Those of [`Checkpoint::parse`], and the disk's.
    pub(crate) fn read(medium: &dyn Medium) -> Result<Option<Self>, VolumeError> {
        let failed = |source: io::Error| VolumeError::Io { action: "read", place: medium.place(), source };
        let Some(bytes) = read_note(medium, CHECKPOINT).map_err(failed)? else { return Ok(None) };
        Self::parse(&bytes, &medium.place()).map(Some)
    }

    pub(crate) fn write(bytes: &[u8], medium: &dyn Medium) -> Result<(), VolumeError> {
        write_note(medium, CHECKPOINT, FRESH, bytes).map_err(|source| VolumeError::Io {
            action: "write the checkpoint in",
            place: medium.place(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_has_written_is_not_called_damaged() {
        let at = Mark { lsn: 0, check: 5 };
        let lineage = Lineage::new(trine_protocol::Epoch(1));
        let mut checkpoint = Checkpoint::new(5, at, lineage, BTreeMap::new(), Tree::default());
        let bytes = checkpoint.to_bytes().unwrap();
        assert_eq!(Checkpoint::parse(&bytes, "here").unwrap().tree, Tree::default());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = Checkpoint::parse(&damaged, "here");
            assert!(matches!(found, Err(VolumeError::Damaged { .. })), "bit {bit}");
        }
        for length in 0..bytes.len() {
            let found = Checkpoint::parse(&bytes[..length], "here");
            assert!(matches!(found, Err(VolumeError::Damaged { .. })), "{length} bytes");
        }
        checkpoint.version = VERSION + 1;
        let found = Checkpoint::parse(&checkpoint.to_bytes().unwrap(), "here");
        assert!(matches!(found, Err(VolumeError::Version { found: 2, known: 1, .. })), "{found:?}");
    }
}
