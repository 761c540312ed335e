//! The log on this node's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use crate::entry::{Entries, HEADER, Header, Mark, Span, decode, encode};
use crate::medium::{Folder, Medium, Part};
use crate::{Op, VolumeError};

/// Bytes of log in one file. Small enough that making one ahead takes a blink, large enough that there are few.
pub(crate) const SEGMENT: u64 = 16 << 20;

/// About every so many bytes of log a mark is kept in memory, to find the check at a place without reading all before.
const MARK_EVERY: u64 = 1 << 20;

/// Says up to where the log was durable.
const DURABLE: Part = Part::Note("durable");

/// A file that becomes a segment.
const NEXT: Part = Part::Note("journal.next");

/// The log, in files of [`SEGMENT`] bytes.
///
/// One writes at a time; any number may read what has been written. Written means visible; durable is what
/// [`Journal::flush`] has returned for.
#[derive(Debug)]
pub(crate) struct Journal {
    medium: Arc<dyn Medium>,
    tail: Mutex<Tail>,
    durable: AtomicU64,
    /// Held by who flushes.
    flushing: Mutex<()>,
}

#[derive(Debug)]
struct Tail {
    end: Mark,
    /// From where on it is all here; the beginning of a segment, or of the log.
    first: u64,
    /// Checks at some places.
    marks: BTreeMap<u64, u64>,
    segments: BTreeSet<u64>,
    /// Segments have come or gone since the names were synced.
    names: bool,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the log and goes over all that follows `base`, whose entry is known to be durable: `visit` gets each operation
    /// and where it stands. What comes after the last sound entry was never acknowledged, and counts as not there.
    ///
    /// When it returns, all of it is durable.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`]: an entry is damaged that was durable once. What `visit` says, and the disk's.
    pub(crate) fn open(
        medium: Arc<dyn Medium>,
        base: Mark,
        marks: BTreeMap<u64, u64>,
        mut visit: impl FnMut(&Op<'_>, Span) -> Result<(), VolumeError>,
    ) -> Result<Self, VolumeError> {
        let list = medium.list(Folder::Segments).map_err(failed("list", &*medium))?;
        let segments: BTreeSet<u64> = list.into_iter().collect();
        // Backwards from the base, as long as there is no gap.
        let mut first = base.lsn / SEGMENT;
        while first > 0 && segments.contains(&(first - 1)) {
            first -= 1;
        }
        let first = if segments.contains(&first) { first * SEGMENT } else { base.lsn };
        let marks: BTreeMap<u64, u64> = marks.into_iter().filter(|(lsn, _)| (first..=base.lsn).contains(lsn)).collect();
        let tail = Tail { end: base, first, marks, segments, names: true, buffer: Vec::new() };
        let this = Self { medium, tail: Mutex::new(tail), durable: AtomicU64::new(base.lsn), flushing: Mutex::new(()) };
        this.tail().mark(base);
        this.scan(base, &mut visit)?;
        let end = this.end().lsn;
        if this.remembered()? > end {
            return Err(this.damaged(end, "the log was once longer: an entry that was durable is damaged"));
        }
        this.flush()?;
        Ok(this)
    }

    fn scan(
        &self,
        base: Mark,
        visit: &mut impl FnMut(&Op<'_>, Span) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let mut at = base;
        let mut chunk = Vec::new();
        let mut want = 1 << 20;
        loop {
            self.fill(at.lsn, want, &mut chunk)?;
            let before = at;
            for (body, mark) in Entries::new(&chunk, at) {
                let op = decode(body).map_err(|_| self.damaged(at.lsn, "an entry that this version can't read"))?;
                visit(&op, Span { from: at.lsn, end: mark })?;
                at = mark;
                let mut tail = self.tail();
                tail.end = at;
                tail.mark(at);
            }
            if at != before {
                want = 1 << 20;
                continue;
            }
            match Entries::new(&chunk, at).next_length() {
                // It may only be longer than what was read.
                Some(length) if length > chunk.len() && chunk.len() >= want => want = length,
                _ => break,
            }
        }
        Ok(())
    }

    fn damaged(&self, lsn: u64, what: &'static str) -> VolumeError {
        VolumeError::Damaged { place: self.medium.place(), lsn, what }
    }

    /// Reads as much as there is of the files, up to `length` bytes, whether it is log or not.
    fn fill(&self, from: u64, length: usize, chunk: &mut Vec<u8>) -> Result<(), VolumeError> {
        chunk.clear();
        chunk.resize(length, 0);
        let read = self.read_files(from, chunk).map_err(failed("read", &*self.medium))?;
        chunk.truncate(read);
        Ok(())
    }

    fn read_files(&self, from: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let at = from + done as u64;
            let room = usize::try_from(SEGMENT - at % SEGMENT).unwrap_or(usize::MAX).min(buffer.len() - done);
            let piece = buffer.get_mut(done..done + room).unwrap_or_default();
            let read = self.medium.read(Part::Segment(at / SEGMENT), at % SEGMENT, piece)?;
            done += read;
            if read < room {
                break;
            }
        }
        Ok(done)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the log ends.
    pub(crate) fn end(&self) -> Mark {
        self.tail().end
    }

    /// Up to where it is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// From where on it is kept.
    pub(crate) fn first(&self) -> u64 {
        self.tail().first
    }

    /// Some places and their checks, to be given to [`Journal::open`] the next time.
    pub(crate) fn marks(&self) -> BTreeMap<u64, u64> {
        self.tail().marks.clone()
    }

    /// Writes an operation at the end.
    ///
    /// # Errors
    /// The disk's: then the log must be written no more, as nobody knows what of the entry is there.
    pub(crate) fn append(&self, op: &Op<'_>) -> Result<Mark, VolumeError> {
        let mut tail = self.tail();
        let mut buffer = std::mem::take(&mut tail.buffer);
        let end = encode(op, tail.end, &mut buffer);
        let written = match end {
            Some(end) => {
                let from = tail.end.lsn;
                self.put(&mut tail, from, &buffer)
            }
            .map(|()| end),
            None => Err(VolumeError::TooLarge),
        };
        tail.buffer = buffer;
        let end = written?;
        tail.end = end;
        tail.mark(end);
        Ok(end)
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
        self.put(&mut tail, start.lsn, bytes.get(..done).unwrap_or_default())?;
        for mark in ends {
            tail.end = mark;
            tail.mark(mark);
        }
        Ok(done)
    }

    fn put(&self, tail: &mut Tail, at: u64, bytes: &[u8]) -> Result<(), VolumeError> {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let number = at / SEGMENT;
            if tail.segments.insert(number) {
                tail.names = true;
            }
            let room = usize::try_from(SEGMENT - at % SEGMENT).unwrap_or(usize::MAX);
            let (piece, more) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.medium
                .write(Part::Segment(number), at % SEGMENT, piece)
                .map_err(failed("write the log in", &*self.medium))?;
            at += piece.len() as u64;
            rest = more;
        }
        Ok(())
    }

    /// Reads the log from a place on: as much as there is, up to `buffer.len()` bytes.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn read(&self, from: u64, buffer: &mut [u8]) -> Result<usize, VolumeError> {
        let there = usize::try_from(self.end().lsn.saturating_sub(from)).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..there).unwrap_or_default();
        let read = self.read_files(from, buffer).map_err(failed("read the log in", &*self.medium))?;
        if read < there {
            return Err(self.damaged(from, "a part of the log is missing"));
        }
        Ok(read)
    }

    /// Makes all that is written durable, and says how far that is.
    ///
    /// # Errors
    /// The disk's: then what it kept is unknown, and asking again does not help.
    pub(crate) fn flush(&self) -> Result<u64, VolumeError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, names) = {
            let mut tail = self.tail();
            (tail.end.lsn, std::mem::take(&mut tail.names))
        };
        let durable = self.durable();
        if names {
            self.medium.sync_names(Folder::Segments).map_err(failed("sync the log in", &*self.medium))?;
        }
        if end > durable {
            for number in durable / SEGMENT..=(end - 1) / SEGMENT {
                self.medium.sync(Part::Segment(number)).map_err(failed("sync the log in", &*self.medium))?;
            }
            self.durable.store(end, Ordering::Release);
        }
        Ok(end)
    }

    /// Notes how far the log is durable, so that a disk that loses some of it is noticed. The note itself may be lost.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn remember(&self) -> Result<(), VolumeError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.note(self.durable())
    }

    fn note(&self, durable: u64) -> Result<(), VolumeError> {
        let note = [durable.to_le_bytes(), xxh3_64(&durable.to_le_bytes()).to_le_bytes()].concat();
        self.medium.write(DURABLE, 0, &note).map_err(failed("write a note in", &*self.medium))
    }

    /// Up to where the log was durable once, as far as that is known.
    fn remembered(&self) -> Result<u64, VolumeError> {
        let mut note = [0; 16];
        self.medium.read(DURABLE, 0, &mut note).map_err(failed("read a note in", &*self.medium))?;
        let (Some(lsn), Some(check)) = (note.first_chunk::<8>(), note.last_chunk::<8>()) else { return Ok(0) };
        let sound = xxh3_64(lsn) == u64::from_le_bytes(*check);
        Ok(if sound { u64::from_le_bytes(*lsn) } else { 0 })
    }

    /// The check at a place between two entries; `None`: there is none at that place, or it is no longer kept.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn check_at(&self, lsn: u64) -> Result<Option<u64>, VolumeError> {
        let (mut at, end) = {
            let tail = self.tail();
            if tail.end.lsn == lsn {
                return Ok(Some(tail.end.check));
            }
            match tail.marks.range(..=lsn).next_back() {
                Some((&lsn, &check)) => (Mark { lsn, check }, tail.end),
                None => return Ok(None),
            }
        };
        let mut header = [0; HEADER];
        while at.lsn < lsn && at.lsn < end.lsn {
            self.read(at.lsn, &mut header)?;
            let Some(header) = Header::parse(&header) else {
                return Err(self.damaged(at.lsn, "an entry of the log is damaged"));
            };
            at = Mark { lsn: at.lsn + (HEADER + header.length) as u64, check: header.check };
        }
        Ok((at.lsn == lsn).then_some(at.check))
    }

    /// Takes back everything after `at`, durably.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn truncate(&self, at: Mark) -> Result<(), VolumeError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tail = self.tail();
        if at.lsn >= tail.end.lsn {
            return Ok(());
        }
        self.note(at.lsn)?;
        self.medium.sync(DURABLE).map_err(failed("sync a note in", &*self.medium))?;
        self.medium.sync_names(Folder::Notes).map_err(failed("sync a note in", &*self.medium))?;
        // Its own continuation would fit there.
        self.put(&mut tail, at.lsn, &[0; HEADER])?;
        for number in at.lsn / SEGMENT..=(at.lsn + HEADER as u64 - 1) / SEGMENT {
            self.medium.sync(Part::Segment(number)).map_err(failed("sync the log in", &*self.medium))?;
        }
        tail.end = at;
        tail.marks.retain(|lsn, _| *lsn <= at.lsn);
        self.durable.fetch_min(at.lsn, Ordering::AcqRel);
        drop(tail);
        Ok(())
    }

    /// Makes the file that will be needed next, if it is not there: of one that nobody needs (all before `keep`) or a new one,
    /// written over once, as a file that only has room reserved costs more at each flush. Removes what else nobody needs.
    ///
    /// # Errors
    /// The disk's; nothing is lost by it.
    pub(crate) fn prepare(&self, keep: u64) -> Result<(), VolumeError> {
        let error = || failed("make a file for the log in", &*self.medium);
        let (next, old) = {
            let mut tail = self.tail();
            let old: Vec<u64> = tail.segments.range(..keep.min(tail.end.lsn) / SEGMENT).copied().collect();
            for number in &old {
                tail.segments.remove(number);
                tail.names = true;
            }
            if let Some(last) = old.last() {
                tail.first = tail.first.max((last + 1) * SEGMENT);
                let first = tail.first;
                tail.marks.retain(|lsn, _| *lsn >= first);
            }
            let next = tail.end.lsn / SEGMENT + 1;
            ((!tail.segments.contains(&next)).then_some(next), old)
        };
        let mut old = old.into_iter();
        if let Some(next) = next {
            match old.next() {
                Some(number) => self.medium.rename(Part::Segment(number), NEXT).map_err(error())?,
                None => self.blank().map_err(error())?,
            }
            let mut tail = self.tail();
            if tail.segments.insert(next) {
                self.medium.rename(NEXT, Part::Segment(next)).map_err(error())?;
                tail.names = true;
            }
        }
        for number in old {
            self.medium.remove(Part::Segment(number)).map_err(error())?;
        }
        Ok(())
    }

    fn blank(&self) -> io::Result<()> {
        let zeros = vec![0; 1 << 20];
        for step in 0..SEGMENT >> 20 {
            self.medium.write(NEXT, step << 20, &zeros)?;
        }
        self.medium.sync(NEXT)
    }
}

impl Tail {
    fn mark(&mut self, at: Mark) {
        let last = self.marks.last_key_value().map(|(lsn, _)| *lsn);
        if last.is_none_or(|last| at.lsn >= last + MARK_EVERY) {
            self.marks.insert(at.lsn, at.check);
        }
    }
}

fn failed<'a>(action: &'static str, medium: &'a dyn Medium) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { action, place: medium.place(), source }
}
