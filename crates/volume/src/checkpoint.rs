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

    /// # Errors
    /// [`VolumeError::Strange`]: it is none, or of another version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, VolumeError> {
        let (body, check) = bytes.split_last_chunk::<8>().ok_or(VolumeError::Strange("no checkpoint"))?;
        if xxh3_64(body) != u64::from_le_bytes(*check) {
            return Err(VolumeError::Strange("a damaged checkpoint"));
        }
        match postcard::from_bytes::<Self>(body) {
            Ok(found) if found.version == VERSION => Ok(found),
            _ => Err(VolumeError::Strange("a checkpoint of another version of trine")),
        }
    }

    /// `None`: there is no volume.
    pub(crate) fn read(medium: &dyn Medium) -> Result<Option<Self>, VolumeError> {
        let failed = |source: io::Error| VolumeError::Io { action: "read", place: medium.place(), source };
        let Some(bytes) = read_note(medium, CHECKPOINT).map_err(failed)? else { return Ok(None) };
        let damaged = |what| VolumeError::Damaged { place: medium.place(), lsn: 0, what };
        Self::parse(&bytes).map(Some).map_err(|_| damaged("its checkpoint can't be read"))
    }

    pub(crate) fn write(bytes: &[u8], medium: &dyn Medium) -> Result<(), VolumeError> {
        write_note(medium, CHECKPOINT, FRESH, bytes).map_err(|source| VolumeError::Io {
            action: "write the checkpoint in",
            place: medium.place(),
            source,
        })
    }
}
