//! The log on this node's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use crate::entry::{Entries, HEADER, Header, Mark, Span, decode, encode};
use crate::medium::{Folder, Medium, Part};
use crate::sizes::Sizes;
use crate::{Op, VolumeError};

/// Says up to where the log was durable.
const DURABLE: Part = Part::Note("durable");

/// Says up to where the log may be in the other files: less of it was acknowledged never.
const APPLIED: Part = Part::Note("applied");

/// A file that becomes a segment.
const NEXT: Part = Part::Note("journal.next");

/// All of the log but its segments.
pub(crate) const NOTES: [Part; 3] = [DURABLE, APPLIED, NEXT];

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

    /// Sees to it that the files have room for the log from `from` to `upto`, without changing what they have.
    fn make_room(&self, tail: &mut Tail, from: u64, upto: u64) -> Result<(), VolumeError> {
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

    fn zero(&self, part: Part, begin: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(end.saturating_sub(begin).min(1 << 20)).unwrap_or(0)];
        let mut at = begin;
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
            self.medium.write(part, at, zeros.get(..step).unwrap_or_default())?;
            at += step as u64;
        }
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), VolumeError> {
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

    /// Notes how far the log is durable, so that a disk that loses some of it is noticed. The note itself may be lost.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn remember(&self) -> Result<(), VolumeError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.wish(self.note(DURABLE, self.durable()))
    }

    /// On a full disk it is as well not done.
    fn wish(&self, done: Result<(), VolumeError>) -> Result<(), VolumeError> {
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

    fn note(&self, part: Part, lsn: u64) -> Result<(), VolumeError> {
        let note = [lsn.to_le_bytes(), xxh3_64(&lsn.to_le_bytes()).to_le_bytes()].concat();
        self.medium.write(part, 0, &note).map_err(failed("write a note in", &*self.medium))
    }

    /// What a note says, as far as there is one.
    fn noted(&self, part: Part) -> Result<u64, VolumeError> {
        let mut note = [0; 16];
        self.medium.read(part, 0, &mut note).map_err(failed("read a note in", &*self.medium))?;
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

/// An operation that is ready to be written, and the log held still for it. Dropped, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    journal: &'a Journal,
    tail: MutexGuard<'a, Tail>,
    end: Mark,
}

impl Staged<'_> {
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

impl Tail {
    fn mark(&mut self, at: Mark) {
        let last = self.marks.last_key_value().map(|(lsn, _)| *lsn);
        let far = |last: u64| at.lsn >= last + self.mark_every || at.lsn / self.segment > last / self.segment;
        if last.is_none_or(far) {
            self.marks.insert(at.lsn, at.check);
        }
    }
}

/// Whether there is no room for what was asked.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn failed<'a>(action: &'static str, medium: &'a dyn Medium) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { action, place: medium.place(), source }
}
