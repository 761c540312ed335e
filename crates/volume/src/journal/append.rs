//! The log grows at its end.

use std::sync::MutexGuard;

use super::{Journal, Tail};
use crate::entry::{Entries, HEADER, Header, Mark, Span, decode, encode};
use crate::medium::Part;
use crate::{Op, VolumeError};

impl Journal {
    /// Writes an operation at the end.
    ///
    /// # Errors
    /// Those of [`Journal::stage`] and of [`Staged::write`].
    pub(crate) fn append(&self, op: &Op<'_>) -> Result<Mark, VolumeError> {
        self.stage(op)?.write()
    }

    /// Makes all ready to write an operation at the end. Until the answer is gone nobody else writes.
    ///
    /// # Errors
    /// [`VolumeError::TooLarge`], or the disk's, a full one's among them: nothing has changed, and other operations may
    /// do better.
    pub(crate) fn stage(&self, op: &Op<'_>) -> Result<Staged<'_>, VolumeError> {
        self.sound()?;
        let mut tail = self.tail();
        let mut buffer = std::mem::take(&mut tail.buffer);
        let end = encode(op, tail.end, &mut buffer);
        tail.buffer = buffer;
        let end = end.ok_or(VolumeError::TooLarge)?;
        let from = tail.end.lsn;
        self.make_room(&mut tail, from, end.lsn)?;
        Ok(Staged { journal: self, tail, end })
    }

    /// Writes the whole and sound entries at the beginning of `bytes`, which follow the end, and says how many bytes that
    /// was. `check` sees each first.
    ///
    /// # Errors
    /// [`VolumeError::Strange`]: what comes next is no entry of this log. What `check` says, and the disk's.
    pub(crate) fn append_entries(
        &self,
        bytes: &[u8],
        mut check: impl FnMut(&Op<'_>, Span) -> Result<(), VolumeError>,
    ) -> Result<usize, VolumeError> {
        let mut tail = self.tail();
        let start = tail.end;
        let mut ends = Vec::new();
        let mut entries = Entries::new(bytes, start);
        for (body, mark) in entries.by_ref() {
            let op = decode(body).map_err(|_| VolumeError::Strange("an operation that this version does not know"))?;
            check(&op, Span { from: ends.last().map_or(start.lsn, |m: &Mark| m.lsn), end: mark })?;
            ends.push(mark);
        }
        let done = usize::try_from(ends.last().map_or(0, |m| m.lsn - start.lsn)).unwrap_or(usize::MAX);
        let rest = bytes.get(done..).unwrap_or_default();
        let whole = match rest.first_chunk::<HEADER>() {
            Some(header) => Header::parse(header).is_none_or(|h| rest.len() >= HEADER + h.length),
            None => false,
        };
        if whole {
            return Err(VolumeError::Strange("bytes that are no entry of this log"));
        }
        self.sound()?;
        let end = start.lsn + done as u64;
        self.make_room(&mut tail, start.lsn, end)?;
        self.put(start.lsn, bytes.get(..done).unwrap_or_default())?;
        for mark in ends {
            tail.end = mark;
            tail.mark(mark);
        }
        Ok(done)
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) -> Result<(), VolumeError> {
        let segment = self.sizes.segment;
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let room = usize::try_from(segment - at % segment).unwrap_or(usize::MAX);
            let (piece, more) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            let written = self.medium.write(Part::Segment(at / segment), at % segment, piece);
            self.sure(written, "write the log in")?;
            at += piece.len() as u64;
            rest = more;
        }
        Ok(())
    }
}

/// An operation that is ready to be written, and the log held still for it. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    journal: &'a Journal,
    tail: MutexGuard<'a, Tail>,
    end: Mark,
}

impl Staged<'_> {
    /// Where it will end.
    pub(crate) fn end(&self) -> Mark {
        self.end
    }

    /// Writes it, and says where it ends.
    ///
    /// # Errors
    /// The disk's: then the log takes nothing more, as nobody knows what of the entry is there.
    pub(crate) fn write(mut self) -> Result<Mark, VolumeError> {
        self.journal.put(self.tail.end.lsn, &self.tail.buffer)?;
        self.tail.end = self.end;
        self.tail.mark(self.end);
        Ok(self.end)
    }
}
