//! What a volume's threads do, one step at a time, for tests: the same calls, in an order that the test chooses.

use std::sync::Arc;

use crate::apply::Pending;
use crate::sizes::Sizes;
use crate::{Medium, Settings, Volume, VolumeError};

/// An open volume without threads.
#[derive(Clone, Debug)]
pub struct Steps {
    /// The volume. What waits for a thread waits for ever.
    pub volume: Volume,
}

/// A checkpoint that is not on the disk yet.
#[derive(Debug)]
pub struct Point(Pending);

/// [`Volume::open`], with its threads, but of these sizes.
///
/// # Errors
/// Those of [`Volume::open`].
pub fn running(medium: Arc<dyn Medium>, settings: Settings, sizes: Sizes) -> Result<Volume, VolumeError> {
    Volume::open_sized(medium, settings, sizes)
}

impl Steps {
    /// See [`Volume::open`].
    ///
    /// # Errors
    /// Those of [`Volume::open`].
    pub fn open(medium: Arc<dyn Medium>, settings: Settings, sizes: Sizes) -> Result<Self, VolumeError> {
        Ok(Self { volume: Volume::open_still(medium, settings, sizes)? })
    }

    /// Applies a little of what is acknowledged. False: there is nothing more to do.
    ///
    /// # Errors
    /// Those of the thread, which close the volume.
    pub fn apply(&self) -> Result<bool, VolumeError> {
        let shared = &self.volume.shared;
        let progress = shared.state().progress;
        let upto = progress.commit.min(progress.durable);
        let from = shared.base().at.lsn;
        if upto <= from {
            return Ok(false);
        }
        self.done(shared.apply_some(upto)).map(|applied| applied < upto)
    }

    /// The first half of a checkpoint: what it says.
    ///
    /// # Errors
    /// Those of the thread, which close the volume.
    pub fn point(&self) -> Result<Point, VolumeError> {
        let shared = &self.volume.shared;
        let mut base = shared.base();
        let pending = self.done(shared.pending(&base))?;
        base.dirty.clear();
        Ok(Point(pending))
    }

    /// The second half: it is made durable, with all that it stands for.
    ///
    /// # Errors
    /// Those of the thread, which close the volume.
    pub fn keep(&self, point: &Point) -> Result<(), VolumeError> {
        self.done(self.volume.shared.write_checkpoint(&point.0))
    }

    /// What is done for the log beside making it durable: its notes and files.
    ///
    /// # Errors
    /// Those of the thread, which close the volume.
    pub fn tend(&self) -> Result<(), VolumeError> {
        let shared = &self.volume.shared;
        self.done(shared.journal.remember())?;
        self.done(shared.journal.prepare(shared.keep()))
    }

    fn done<T>(&self, done: Result<T, VolumeError>) -> Result<T, VolumeError> {
        done.inspect_err(|error| self.volume.shared.fail_on_disk(error))
    }
}
