//! The files that the log is in: they get their room before they are needed.

use std::io;

use super::{Journal, Tail, failed};
use crate::VolumeError;
use crate::medium::{Folder, Part};

/// A file that becomes a segment.
pub(super) const NEXT: Part = Part::Note("journal.next");

impl Journal {
    /// Sees to it that the files have room for the log from `from` to `upto`, without changing what they have.
    pub(super) fn make_room(&self, tail: &mut Tail, from: u64, upto: u64) -> Result<(), VolumeError> {
        let segment = self.sizes.segment;
        for number in from / segment..upto.div_ceil(segment) {
            if tail.whole.contains(&number) {
                continue;
            }
            if tail.segments.insert(number) {
                tail.names = true;
            }
            let part = Part::Segment(number);
            let room = || failed("make room for the log in", &*self.medium);
            let begin =
                self.medium.length(part).map_err(room())?.unwrap_or(0).max(from.saturating_sub(number * segment));
            self.zero(part, begin, segment).map_err(room())?;
            tail.whole.insert(number);
        }
        Ok(())
    }

    pub(super) fn zero(&self, part: Part, begin: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(end.saturating_sub(begin).min(1 << 20)).unwrap_or(0)];
        let mut at = begin;
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
            self.medium.write(part, at, zeros.get(..step).unwrap_or_default())?;
            at += step as u64;
        }
        Ok(())
    }

    /// Makes the file that will be needed next, if it is not there: of one that nobody needs (all before `keep`) or a new one,
    /// written over once, as a file that only has room reserved costs more at each flush. Removes what else nobody needs.
    ///
    /// On a disk that is full there is none: [`Journal::stage`] tells who writes.
    ///
    /// # Errors
    /// The disk's; nothing is lost by it.
    pub(crate) fn prepare(&self, keep: u64) -> Result<(), VolumeError> {
        let error = || failed("make a file for the log in", &*self.medium);
        let segment = self.sizes.segment;
        let (next, old) = {
            let mut tail = self.tail();
            let old: Vec<u64> = tail.segments.range(..keep.min(tail.end.lsn) / segment).copied().collect();
            for number in &old {
                tail.segments.remove(number);
                tail.whole.remove(number);
                tail.names = true;
            }
            if let Some(last) = old.last() {
                let first = (last + 1) * segment;
                tail.marks.retain(|lsn, _| *lsn >= first);
            }
            let next = tail.end.lsn / segment + 1;
            ((!tail.segments.contains(&next)).then_some(next), old)
        };
        let mut old = old.into_iter();
        if let Some(next) = next {
            let made = match old.next() {
                Some(number) => self.reuse(number),
                None => self.blank(),
            };
            match made {
                Err(e) if is_full(&e) => {
                    tracing::warn!(place = self.medium.place(), "no room for the next file of the log");
                    self.medium.remove(NEXT).map_err(error())?;
                }
                made => {
                    made.map_err(error())?;
                    let mut tail = self.tail();
                    if tail.segments.insert(next) {
                        self.medium.rename(NEXT, Part::Segment(next)).map_err(error())?;
                        tail.whole.insert(next);
                        tail.names = true;
                    }
                }
            }
        }
        for number in old {
            self.medium.remove(Part::Segment(number)).map_err(error())?;
        }
        Ok(())
    }

    /// Makes [`NEXT`] of a file of the log that nobody needs.
    fn reuse(&self, number: u64) -> io::Result<()> {
        self.medium.rename(Part::Segment(number), NEXT)?;
        // Before it has other content its old name is gone: that would be log that it is not.
        self.medium.sync_names(Folder::Segments)?;
        if self.medium.length(NEXT)? == Some(self.sizes.segment) { Ok(()) } else { self.blank() }
    }

    fn blank(&self) -> io::Result<()> {
        // What a crash has left under this name may be a part of the log under another.
        self.medium.remove(NEXT)?;
        self.zero(NEXT, 0, self.sizes.segment)?;
        self.medium.sync(NEXT)
    }
}

/// Whether there is no room for what was asked.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
