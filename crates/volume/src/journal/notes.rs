//! What is noted about the log beside it: how far it was once.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use xxhash_rust::xxh3::xxh3_64;

use super::files::NEXT;
use super::{Journal, failed};
use crate::VolumeError;
use crate::medium::Part;

/// Says up to where the log was durable.
pub(super) const DURABLE: Part = Part::Note("durable");

/// Says up to where the log may be in the other files: less of it was acknowledged never.
pub(super) const APPLIED: Part = Part::Note("applied");

/// All of the log but its segments.
pub(crate) const NOTES: [Part; 3] = [DURABLE, APPLIED, NEXT];

impl Journal {
    /// Notes how far the log is durable, so that a disk that loses some of it is noticed. The note itself may be lost.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn remember(&self) -> Result<(), VolumeError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.wish(self.note(DURABLE, self.durable()))
    }

    /// On a full disk it is as well not done.
    pub(super) fn wish(&self, done: Result<(), VolumeError>) -> Result<(), VolumeError> {
        match done {
            Err(error) if error.is_full() => {
                tracing::warn!(place = self.medium.place(), "no room for a note");
                Ok(())
            }
            done => done,
        }
    }

    /// Notes that the log up to `upto`, which is acknowledged and durable, is about to go into the other files. The note
    /// itself may be lost with the machine's power, not with the process.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn will_apply(&self, upto: u64) -> Result<(), VolumeError> {
        if self.applied.fetch_max(upto, Ordering::AcqRel) < upto { self.note(APPLIED, upto) } else { Ok(()) }
    }

    /// Up to where the log may be in the other files. What comes before was acknowledged.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    pub(super) fn note(&self, part: Part, lsn: u64) -> Result<(), VolumeError> {
        let note = [lsn.to_le_bytes(), xxh3_64(&lsn.to_le_bytes()).to_le_bytes()].concat();
        self.medium.write(part, 0, &note).map_err(failed("write a note in", &*self.medium))
    }

    /// What a note says, as far as there is one.
    pub(super) fn noted(&self, part: Part) -> Result<u64, VolumeError> {
        let mut note = [0; 16];
        self.medium.read(part, 0, &mut note).map_err(failed("read a note in", &*self.medium))?;
        let (Some(lsn), Some(check)) = (note.first_chunk::<8>(), note.last_chunk::<8>()) else { return Ok(0) };
        let sound = xxh3_64(lsn) == u64::from_le_bytes(*check);
        Ok(if sound { u64::from_le_bytes(*lsn) } else { 0 })
    }
}
