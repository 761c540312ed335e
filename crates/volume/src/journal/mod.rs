//! The log on this node's disk.

mod append;
mod files;
mod notes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entry::{Entries, HEADER, Header, Mark, Span, decode};
use crate::medium::{Folder, Medium, Part};
use crate::sizes::Sizes;
use crate::{Op, VolumeError};

pub(crate) use files::is_full;
pub(crate) use notes::NOTES;
use notes::{APPLIED, DURABLE};

/// The log, in files of [`Sizes::segment`] bytes.
///
/// One writes at a time; any number may read what has been written. Written means visible; durable is what
/// [`Journal::flush`] has returned for.
#[derive(Debug)]
pub(crate) struct Journal {
    medium: Arc<dyn Medium>,
    sizes: Sizes,
    tail: Mutex<Tail>,
    durable: AtomicU64,
    /// See [`APPLIED`].
    applied: AtomicU64,
    /// A write or a sync has failed: what the disk has is unknown, and a second try would be told that all is well.
    broken: AtomicBool,
    /// Held by who flushes.
    flushing: Mutex<()>,
}

#[derive(Debug)]
struct Tail {
    end: Mark,
    /// Checks at some places, at least one in each segment. The log is kept from the first of them on.
    marks: BTreeMap<u64, u64>,
    /// Of [`Sizes`].
    segment: u64,
    /// Of [`Sizes`].
    mark_every: u64,
    segments: BTreeSet<u64>,
    /// Those that have all their room: writing to them can't fail for want of it.
    whole: BTreeSet<u64>,
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
        sizes: Sizes,
        base: Mark,
        marks: BTreeMap<u64, u64>,
        mut visit: impl FnMut(&Op<'_>, Span) -> Result<(), VolumeError>,
    ) -> Result<Self, VolumeError> {
        let list = medium.list(Folder::Segments).map_err(failed("list", &*medium))?;
        let segments: BTreeSet<u64> = list.into_iter().collect();
        // Backwards from the base, as long as there is no gap.
        let mut first = base.lsn / sizes.segment;
        while first > 0 && segments.contains(&(first - 1)) {
            first -= 1;
        }
        let first = if segments.contains(&first) { first * sizes.segment } else { base.lsn };
        let marks: BTreeMap<u64, u64> = marks.into_iter().filter(|(lsn, _)| (first..=base.lsn).contains(lsn)).collect();
        let tail = Tail {
            end: base,
            marks,
            segment: sizes.segment,
            mark_every: sizes.mark_every,
            segments,
            whole: BTreeSet::new(),
            names: true,
            buffer: Vec::new(),
        };
        let this = Self {
            medium,
            sizes,
            tail: Mutex::new(tail),
            durable: AtomicU64::new(base.lsn),
            applied: AtomicU64::new(base.lsn),
            broken: AtomicBool::new(false),
            flushing: Mutex::new(()),
        };
        this.tail().mark(base);
        this.scan(base, &mut visit)?;
        let end = this.end().lsn;
        let applied = this.noted(APPLIED)?;
        if this.noted(DURABLE)?.max(applied) > end {
            return Err(this.damaged(end, "the log was once longer: an entry that was durable is damaged"));
        }
        this.applied.fetch_max(applied, Ordering::AcqRel);
        this.flush()?;
        // From now on the notes have their room, whatever becomes of the disk.
        this.remember()?;
        this.wish(this.note(APPLIED, this.applied()))?;
        Ok(this)
    }

    fn scan(
        &self,
        base: Mark,
        visit: &mut impl FnMut(&Op<'_>, Span) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let mut at = base;
        let mut chunk = Vec::new();
        let mut want = self.sizes.read;
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
                want = self.sizes.read;
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
            let segment = self.sizes.segment;
            let room = usize::try_from(segment - at % segment).unwrap_or(usize::MAX).min(buffer.len() - done);
            let piece = buffer.get_mut(done..done + room).unwrap_or_default();
            let read = self.medium.read(Part::Segment(at / segment), at % segment, piece)?;
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

    /// From where on it is kept: an entry ends there whose check is known.
    pub(crate) fn first(&self) -> u64 {
        let tail = self.tail();
        tail.marks.first_key_value().map_or(tail.end.lsn, |(lsn, _)| *lsn)
    }

    /// Some places and their checks, to be given to [`Journal::open`] the next time.
    pub(crate) fn marks(&self) -> BTreeMap<u64, u64> {
        self.tail().marks.clone()
    }

    /// # Errors
    /// [`VolumeError::Closed`]: the disk has failed before.
    fn sound(&self) -> Result<(), VolumeError> {
        if self.is_sound() { Ok(()) } else { Err(VolumeError::Closed) }
    }

    /// Whether no write and no sync has failed so far.
    pub(crate) fn is_sound(&self) -> bool {
        !self.broken.load(Ordering::Acquire)
    }

    /// What the disk has of the log is unknown if this went wrong.
    fn sure<T>(&self, done: io::Result<T>, action: &'static str) -> Result<T, VolumeError> {
        done.map_err(failed(action, &*self.medium)).inspect_err(|_| self.broken.store(true, Ordering::Release))
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

    /// Makes all that is written durable: see [`Journal::durable`].
    ///
    /// # Errors
    /// The disk's: then what it kept is unknown. Asking again gets [`VolumeError::Closed`], as the disk would say that all
    /// is well.
    pub(crate) fn flush(&self) -> Result<(), VolumeError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.sound()?;
        let (end, names) = {
            let mut tail = self.tail();
            (tail.end.lsn, std::mem::take(&mut tail.names))
        };
        let durable = self.durable();
        if names {
            self.sure(self.medium.sync_names(Folder::Segments), "sync the log in")?;
        }
        if end > durable {
            self.sync(durable, end)?;
            self.durable.store(end, Ordering::Release);
        }
        Ok(())
    }

    fn sync(&self, from: u64, upto: u64) -> Result<(), VolumeError> {
        for number in from / self.sizes.segment..upto.div_ceil(self.sizes.segment) {
            self.sure(self.medium.sync(Part::Segment(number)), "sync the log in")?;
        }
        Ok(())
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

    /// Takes back everything after `at`, durably. None of it is left on the disk, so none of it comes back when the log
    /// goes on with what it began with.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn truncate(&self, at: Mark) -> Result<(), VolumeError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.sound()?;
        let mut tail = self.tail();
        let end = tail.end.lsn;
        if at.lsn >= end {
            return Ok(());
        }
        // First: else a crash would leave a log that seems to have lost something.
        self.note(DURABLE, at.lsn)?;
        self.sure(self.medium.sync(DURABLE), "sync a note in")?;
        self.sure(self.medium.sync_names(Folder::Notes), "sync a note in")?;
        // With its first entry all of it is gone, whatever else a crash leaves.
        let first = (at.lsn + HEADER as u64).min(end);
        self.put(at.lsn, &[0; HEADER])?;
        self.sync(at.lsn, first)?;
        tail.end = at;
        tail.marks.retain(|lsn, _| *lsn <= at.lsn);
        self.durable.fetch_min(at.lsn, Ordering::AcqRel);
        let segment = self.sizes.segment;
        for number in first / segment..end.div_ceil(segment) {
            let begin = first.saturating_sub(number * segment);
            let upto = (end - number * segment).min(segment);
            self.sure(self.zero(Part::Segment(number), begin, upto), "take back log in")?;
        }
        self.sync(first, end)
    }
}

impl Tail {
    fn mark(&mut self, at: Mark) {
        let last = self.marks.last_key_value().map(|(lsn, _)| *lsn);
        let far = |last: u64| at.lsn >= last + self.mark_every || at.lsn / self.segment > last / self.segment;
        if last.is_none_or(far) {
            self.marks.insert(at.lsn, at.check);
        }
    }
}

fn failed<'a>(action: &'static str, medium: &'a dyn Medium) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { action, place: medium.place(), source }
}
