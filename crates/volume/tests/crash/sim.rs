//! A disk that is simulated down to what a loss of power leaves of it.
//!
//! What was written is seen at once, and is on the disk for sure only after a sync. Until then each 512-byte sector of each
//! write, each change of a length and each change of a name is a piece of its own, which a loss of power keeps or not, whatever
//! it does with the others; only a rename in one folder is one piece. This is stricter than any file system is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use trine_volume::{Folder, Ino, Medium, Part, Room};

const SECTOR: u64 = 512;

/// A number for a file that stays the same whatever names it has.
type File = u64;

/// What a disk has for sure: files by their names.
#[derive(Clone, Default, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Image {
    files: BTreeMap<File, Vec<u8>>,
    names: BTreeMap<Part, File>,
}

/// A change that a loss of power keeps or not.
#[derive(Clone, Debug)]
enum Piece {
    Data { file: File, offset: u64, data: Vec<u8> },
    Longer { file: File, length: u64 },
    Shorter { file: File, length: u64 },
    Enter { part: Part, file: File },
    Leave { part: Part, file: File },
    Rename { from: Part, to: Part, file: File },
}

/// What the volume asked the disk to change: one of many in a row.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Write { part: Part, offset: u64, data: Vec<u8> },
    Shorten { part: Part, length: u64 },
    Clear { part: Part, offset: u64, length: u64 },
    Sync(Part),
    SyncNames(Folder),
    Rename(Part, Part),
    Remove(Part),
}

/// A disk: what it shows, what it has for sure, and what lies between.
#[derive(Clone, Default, Debug)]
pub(crate) struct Disk {
    shown: Image,
    sure: Image,
    pieces: Vec<Piece>,
    next: File,
}

fn folder(part: Part) -> Folder {
    match part {
        Part::Segment(_) => Folder::Segments,
        Part::Object(_) => Folder::Objects,
        Part::Note(_) => Folder::Notes,
    }
}

fn put(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, upto) = (usize::try_from(offset).unwrap(), usize::try_from(offset).unwrap() + data.len());
    if content.len() < upto {
        content.resize(upto, 0);
    }
    content[from..upto].copy_from_slice(data);
}

impl Image {
    fn make(&mut self, piece: &Piece) {
        match piece {
            Piece::Data { file, offset, data } => {
                // What is beyond the length that the disk knows is not there.
                let content = self.files.entry(*file).or_default();
                let end = (content.len() as u64).min(offset + data.len() as u64);
                if *offset < end {
                    put(content, *offset, &data[..usize::try_from(end - offset).unwrap()]);
                }
            }
            Piece::Longer { file, length } => {
                let content = self.files.entry(*file).or_default();
                content.resize(content.len().max(usize::try_from(*length).unwrap()), 0);
            }
            Piece::Shorter { file, length } => {
                self.files.entry(*file).or_default().truncate(usize::try_from(*length).unwrap());
            }
            Piece::Enter { part, file } => {
                self.files.entry(*file).or_default();
                self.names.insert(*part, *file);
            }
            Piece::Leave { part, file } => {
                if self.names.get(part) == Some(file) {
                    self.names.remove(part);
                }
            }
            Piece::Rename { from, to, file } => {
                self.make(&Piece::Leave { part: *from, file: *file });
                self.make(&Piece::Enter { part: *to, file: *file });
            }
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        // Which number a file has makes no difference but for those with two names.
        for (part, file) in &self.names {
            (part, file, &self.files[file]).hash(&mut hasher);
        }
        hasher.finish()
    }

    pub(crate) fn disk(self) -> Disk {
        let next = self.files.keys().last().map_or(0, |last| last + 1);
        let named: BTreeSet<File> = self.names.values().copied().collect();
        let mut sure = self;
        sure.files.retain(|file, _| named.contains(file));
        Disk { shown: sure.clone(), sure, pieces: Vec::new(), next }
    }
}

impl Disk {
    fn named(&self, part: Part) -> Option<File> {
        self.shown.names.get(&part).copied()
    }

    fn content(&self, part: Part) -> Option<&Vec<u8>> {
        self.shown.files.get(&self.named(part)?)
    }

    fn piece(&mut self, piece: Piece) {
        self.shown.make(&piece);
        self.pieces.push(piece);
    }

    pub(crate) fn call(&mut self, call: &Call) {
        match call {
            Call::Write { part, offset, data } => {
                let file = self.named(*part).unwrap_or_else(|| {
                    self.next += 1;
                    self.piece(Piece::Enter { part: *part, file: self.next });
                    self.next
                });
                let end = offset + data.len() as u64;
                if end > self.shown.files[&file].len() as u64 {
                    self.piece(Piece::Longer { file, length: end });
                }
                self.data(file, *offset, data);
            }
            Call::Shorten { part, length } => {
                let longer = self.content(*part).is_some_and(|c| c.len() as u64 > *length);
                if let Some(file) = self.named(*part).filter(|_| longer) {
                    self.piece(Piece::Shorter { file, length: *length });
                }
            }
            Call::Clear { part, offset, length } => {
                let Some(file) = self.named(*part) else { return };
                let end = offset.saturating_add(*length).min(self.shown.files[&file].len() as u64);
                if *offset < end {
                    self.data(file, *offset, &vec![0; usize::try_from(end - offset).unwrap()]);
                }
            }
            Call::Sync(part) => {
                if let Some(file) = self.named(*part) {
                    self.sync(file);
                }
            }
            Call::SyncNames(folder) => self.sync_names(*folder),
            Call::Rename(from, to) => {
                let file = self.named(*from).unwrap();
                self.piece(Piece::Rename { from: *from, to: *to, file });
            }
            Call::Remove(part) => {
                if let Some(file) = self.named(*part) {
                    self.piece(Piece::Leave { part: *part, file });
                }
            }
        }
    }

    fn data(&mut self, file: File, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let room = usize::try_from(SECTOR - at % SECTOR).unwrap().min(rest.len());
            self.piece(Piece::Data { file, offset: at, data: rest[..room].to_vec() });
            rest = &rest[room..];
            at += room as u64;
        }
    }

    fn sync(&mut self, synced: File) {
        let of = |piece: &Piece| match piece {
            Piece::Data { file, .. } | Piece::Longer { file, .. } | Piece::Shorter { file, .. } => *file == synced,
            _ => false,
        };
        for piece in self.pieces.extract_if(.., |piece| of(piece)) {
            self.sure.make(&piece);
        }
    }

    fn sync_names(&mut self, synced: Folder) {
        let mut left = Vec::new();
        for piece in std::mem::take(&mut self.pieces) {
            match piece {
                Piece::Enter { part, .. } | Piece::Leave { part, .. } if folder(part) == synced => {
                    self.sure.make(&piece)
                }
                Piece::Rename { from, to, file } => match (folder(from) == synced, folder(to) == synced) {
                    (true, true) => self.sure.make(&piece),
                    // Only half of it is for sure.
                    (true, false) => {
                        self.sure.make(&Piece::Leave { part: from, file });
                        left.push(Piece::Enter { part: to, file });
                    }
                    (false, true) => {
                        self.sure.make(&Piece::Enter { part: to, file });
                        left.push(Piece::Leave { part: from, file });
                    }
                    (false, false) => left.push(piece),
                },
                piece => left.push(piece),
            }
        }
        self.pieces = left;
    }

    /// How many pieces there are that a loss of power keeps or not.
    pub(crate) fn unsure(&self) -> usize {
        self.pieces.len()
    }

    /// What is left after a loss of power that keeps the pieces that `kept` names.
    pub(crate) fn after(&self, kept: impl Fn(usize) -> bool) -> Image {
        let mut image = self.sure.clone();
        let mut lengths: HashMap<File, usize> = image.files.iter().map(|(file, c)| (*file, c.len())).collect();
        for (_, piece) in self.pieces.iter().enumerate().filter(|(number, _)| kept(*number)) {
            match piece {
                // The length is known to the disk apart from the data.
                Piece::Data { file, offset, data } => put(image.files.entry(*file).or_default(), *offset, data),
                Piece::Longer { file, length } => {
                    let known = lengths.entry(*file).or_default();
                    *known = (*known).max(usize::try_from(*length).unwrap());
                }
                Piece::Shorter { file, length } => {
                    image.make(piece);
                    let known = lengths.entry(*file).or_default();
                    *known = (*known).min(usize::try_from(*length).unwrap());
                }
                _ => image.make(piece),
            }
        }
        for (file, content) in &mut image.files {
            content.resize(lengths.get(file).copied().unwrap_or(0), 0);
        }
        image
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The write of this number, counted from 0, finds no room, after half of it.
    Full(usize),
    /// All from this write on, until there is room again.
    FullFrom(usize),
    /// The sync of this number fails; what it should have made sure is lost or kept, and no later sync changes that.
    Sync(usize),
}

#[derive(Debug, Default)]
struct Inner {
    disk: Disk,
    calls: Vec<Call>,
    fault: Option<Fault>,
    writes: usize,
    syncs: usize,
    faulted: bool,
    /// Files whose sync has failed, by the number of pieces that it should have made sure.
    lost: HashMap<File, usize>,
}

/// The disk as a medium that takes down all that it was asked to change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sim {
    inner: Arc<Mutex<Inner>>,
}

impl Sim {
    pub(crate) fn new(image: Image) -> Self {
        let sim = Self::default();
        sim.inner().disk = image.disk();
        sim
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// All that it was asked to change so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.inner().calls.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.inner().calls.len()
    }

    /// How many writes and syncs there were.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.writes, inner.syncs)
    }

    pub(crate) fn fail(&self, fault: Option<Fault>) {
        self.inner().fault = fault;
    }

    /// Whether what should go wrong has.
    pub(crate) fn faulted(&self) -> bool {
        self.inner().faulted
    }

    pub(crate) fn disk(&self) -> Disk {
        self.inner().disk.clone()
    }

    /// As it is seen now, without a loss of power.
    pub(crate) fn shown(&self) -> Image {
        self.inner().disk.shown.clone()
    }

    /// Flips a bit.
    pub(crate) fn flip(&self, part: Part, byte: usize) {
        let mut inner = self.inner();
        let file = inner.disk.named(part).unwrap();
        for image in [0, 1] {
            let disk = &mut inner.disk;
            let image = if image == 0 { &mut disk.shown } else { &mut disk.sure };
            image.files.get_mut(&file).unwrap()[byte] ^= 1;
        }
    }

    fn change(&self, call: Call) {
        let mut inner = self.inner();
        inner.disk.call(&call);
        inner.calls.push(call);
    }
}

impl Inner {
    fn sync_fails(&mut self) -> bool {
        let fails = self.fault == Some(Fault::Sync(self.syncs));
        self.syncs += 1;
        self.faulted |= fails;
        fails
    }
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Medium for Sim {
    fn read(&self, part: Part, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = self.inner();
        let Some(content) = inner.disk.content(part) else { return Ok(0) };
        let from = usize::try_from(offset).unwrap().min(content.len());
        let length = buffer.len().min(content.len() - from);
        buffer[..length].copy_from_slice(&content[from..from + length]);
        Ok(length)
    }

    fn write(&self, part: Part, offset: u64, data: &[u8]) -> io::Result<()> {
        let fails = {
            let mut inner = self.inner();
            let fails = match inner.fault {
                Some(Fault::Full(number)) => inner.writes == number,
                Some(Fault::FullFrom(number)) => {
                    // What has its room can be written over.
                    let has = inner.disk.content(part).map_or(0, |c| c.len() as u64);
                    inner.writes >= number && offset + data.len() as u64 > has
                }
                _ => false,
            };
            inner.writes += 1;
            inner.faulted |= fails;
            fails
        };
        let data = if fails { &data[..data.len() / 2] } else { data };
        if !data.is_empty() {
            self.change(Call::Write { part, offset, data: data.to_vec() });
        }
        if fails { Err(full()) } else { Ok(()) }
    }

    fn length(&self, part: Part) -> io::Result<Option<u64>> {
        Ok(self.inner().disk.content(part).map(|c| c.len() as u64))
    }

    fn shorten(&self, part: Part, length: u64) -> io::Result<()> {
        self.change(Call::Shorten { part, length });
        Ok(())
    }

    fn clear(&self, part: Part, offset: u64, length: u64) -> io::Result<()> {
        self.change(Call::Clear { part, offset, length });
        Ok(())
    }

    fn sync(&self, part: Part) -> io::Result<()> {
        let mut inner = self.inner();
        if inner.sync_fails() {
            if let Some(file) = inner.disk.named(part) {
                let pieces = inner.disk.pieces.len();
                inner.lost.insert(file, pieces);
            }
            return Err(broken());
        }
        // What a failed sync has let go is clean for the system: no later one writes it.
        if inner.disk.named(part).is_some_and(|file| inner.lost.contains_key(&file)) {
            return Ok(());
        }
        drop(inner);
        self.change(Call::Sync(part));
        Ok(())
    }

    fn sync_names(&self, folder: Folder) -> io::Result<()> {
        if self.inner().sync_fails() {
            return Err(broken());
        }
        self.change(Call::SyncNames(folder));
        Ok(())
    }

    fn rename(&self, from: Part, to: Part) -> io::Result<()> {
        self.inner().disk.named(from).ok_or(io::ErrorKind::NotFound)?;
        self.change(Call::Rename(from, to));
        Ok(())
    }

    fn remove(&self, part: Part) -> io::Result<()> {
        self.change(Call::Remove(part));
        Ok(())
    }

    fn list(&self, of: Folder) -> io::Result<Vec<u64>> {
        let number = |part: &Part| match part {
            Part::Segment(number) if of == Folder::Segments => Some(*number),
            Part::Object(Ino(number)) if of == Folder::Objects => Some(*number),
            _ => None,
        };
        Ok(self.inner().disk.shown.names.keys().filter_map(number).collect())
    }

    fn room(&self) -> io::Result<Room> {
        Ok(Room { total: 1 << 40, free: 1 << 39 })
    }

    fn place(&self) -> String {
        "a simulated disk".to_owned()
    }
}
