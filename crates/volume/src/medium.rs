//! The files that a copy of a volume is made of.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

use crate::{Ino, Room};

/// One file of a copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// A piece of the log, by its number.
    Segment(u64),
    /// A file's content.
    Object(Ino),
    /// A small one, by its name.
    Note(&'static str),
}

/// Whose names are synced together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Folder {
    /// That of the log.
    Segments,
    /// That of the content.
    Objects,
    /// That of the small ones.
    Notes,
}

/// Where a copy is kept: a folder on a disk, or what stands for one in a test.
///
/// As on a disk, what was written is there at once for whoever reads, and survives a power loss only once it was synced:
/// content by [`Medium::sync`], names by [`Medium::sync_names`]. Before that any part of it may be there, in any mixture.
/// All calls block.
pub trait Medium: Send + Sync + fmt::Debug + 'static {
    /// Reads up to `buffer.len()` bytes; fewer only at the file's end. A missing file is an empty one.
    ///
    /// # Errors
    /// What the operating system says.
    fn read(&self, part: Part, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of it, and makes the file when it is missing.
    ///
    /// # Errors
    /// What the operating system says; a part of it may be written.
    fn write(&self, part: Part, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Lets memory go that holds a part of a file's content, as far as that is on the disk, so that the next read asks the
    /// disk. Only a wish.
    fn forget(&self, part: Part, offset: u64, length: u64) {
        let _ = (part, offset, length);
    }

    /// The file's length in bytes; `None`: it is missing.
    ///
    /// # Errors
    /// What the operating system says.
    fn length(&self, part: Part) -> io::Result<Option<u64>>;

    /// Makes a file shorter. One that is not longer, or missing, stays as it is.
    ///
    /// # Errors
    /// What the operating system says.
    fn shorten(&self, part: Part, length: u64) -> io::Result<()>;

    /// Makes a range zeros, without making the file longer; its room may be given back.
    ///
    /// # Errors
    /// What the operating system says.
    fn clear(&self, part: Part, offset: u64, length: u64) -> io::Result<()>;

    /// Makes the file's content and length durable. A missing file is fine.
    ///
    /// # Errors
    /// What the operating system says: then nothing of the file may be trusted any more.
    fn sync(&self, part: Part) -> io::Result<()>;

    /// Makes durable which names there are.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_names(&self, folder: Folder) -> io::Result<()>;

    /// Gives a file another name; one that has it goes.
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: Part, to: Part) -> io::Result<()>;

    /// Removes a file. A missing one is fine.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, part: Part) -> io::Result<()>;

    /// The numbers of the files in a folder: of segments, or of objects.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self, folder: Folder) -> io::Result<Vec<u64>>;

    /// How much room there is.
    ///
    /// # Errors
    /// What the operating system says.
    fn room(&self) -> io::Result<Room>;

    /// Where it is, for messages.
    fn place(&self) -> String;
}

/// How many files are kept open.
const OPEN: usize = 400;

/// A folder on this machine's disk: `journal/`, `objects/`, and small files beside them.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    open: Mutex<HashMap<Part, Arc<File>>>,
}

impl Disk {
    /// Uses `folder`, and makes what is missing of it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(folder.join("journal"))?;
        fs::create_dir_all(folder.join("objects"))?;
        File::open(&folder)?.sync_all()?;
        // The folder's own name, too: without it nothing in it is there.
        match folder.parent() {
            Some(above) if !above.as_os_str().is_empty() => File::open(above)?.sync_all()?,
            _ => File::open(".")?.sync_all()?,
        }
        Ok(Self { folder, open: Mutex::default() })
    }

    fn path(&self, part: Part) -> PathBuf {
        match part {
            Part::Segment(number) => self.folder.join(format!("journal/{number:012x}")),
            Part::Object(ino) => self.folder.join(format!("objects/{:012x}", ino.0)),
            Part::Note(name) => self.folder.join(name),
        }
    }

    fn folder(&self, folder: Folder) -> PathBuf {
        match folder {
            Folder::Segments => self.folder.join("journal"),
            Folder::Objects => self.folder.join("objects"),
            Folder::Notes => self.folder.clone(),
        }
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Part, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, open; `None`: it is missing.
    fn get(&self, part: Part) -> io::Result<Option<Arc<File>>> {
        self.take(part, OpenOptions::new().read(true).write(true))
    }

    fn make(&self, part: Part) -> io::Result<Arc<File>> {
        let made = self.take(part, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
        made.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn take(&self, part: Part, how: &OpenOptions) -> io::Result<Option<Arc<File>>> {
        // Held while it is opened: a rename in between would leave an old file under a new one's name.
        let mut open = self.opened();
        if let Some(file) = open.get(&part) {
            return Ok(Some(file.clone()));
        }
        let file = match how.open(self.path(part)) {
            Ok(file) => Arc::new(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if open.len() >= OPEN {
            // Any of them will do: whoever uses one holds it, and opening it again is cheap.
            let some: Vec<Part> = open.keys().take(OPEN / 4).copied().collect();
            for part in some {
                open.remove(&part);
            }
        }
        open.insert(part, file.clone());
        Ok(Some(file))
    }
}

impl Medium for Disk {
    fn read(&self, part: Part, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = self.get(part)? else { return Ok(0) };
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn forget(&self, part: Part, offset: u64, length: u64) {
        if let (Ok(Some(file)), Some(length)) = (self.get(part), NonZeroU64::new(length)) {
            let _ = rustix::fs::fadvise(&*file, offset, Some(length), rustix::fs::Advice::DontNeed);
        }
    }

    fn write(&self, part: Part, offset: u64, data: &[u8]) -> io::Result<()> {
        self.make(part)?.write_all_at(data, offset)
    }

    fn length(&self, part: Part) -> io::Result<Option<u64>> {
        match self.get(part)? {
            Some(file) => Ok(Some(file.metadata()?.len())),
            None => Ok(None),
        }
    }

    fn shorten(&self, part: Part, length: u64) -> io::Result<()> {
        match self.get(part)? {
            Some(file) if file.metadata()?.len() > length => file.set_len(length),
            _ => Ok(()),
        }
    }

    fn clear(&self, part: Part, offset: u64, length: u64) -> io::Result<()> {
        let Some(file) = self.get(part)? else { return Ok(()) };
        let end = offset.saturating_add(length).min(file.metadata()?.len());
        if offset >= end {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&*file, punch, offset, end - offset) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write_zeros(&file, offset, end),
            Err(e) => Err(e.into()),
        }
    }

    fn sync(&self, part: Part) -> io::Result<()> {
        match self.get(part)? {
            Some(file) => file.sync_data(),
            None => Ok(()),
        }
    }

    fn sync_names(&self, folder: Folder) -> io::Result<()> {
        File::open(self.folder(folder))?.sync_all()
    }

    fn rename(&self, from: Part, to: Part) -> io::Result<()> {
        let mut open = self.opened();
        open.remove(&from);
        open.remove(&to);
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, part: Part) -> io::Result<()> {
        let mut open = self.opened();
        open.remove(&part);
        match fs::remove_file(self.path(part)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.folder(folder))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
            // What has another's name, even if it is one of a number, is none of ours.
            numbers.extend(number.filter(|number| name == *format!("{number:012x}")));
        }
        Ok(numbers)
    }

    fn room(&self) -> io::Result<Room> {
        let s = rustix::fs::statvfs(&self.folder)?;
        Ok(Room { total: s.f_blocks.saturating_mul(s.f_frsize), free: s.f_bavail.saturating_mul(s.f_frsize) })
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }
}

/// For disks that can't give room back.
fn write_zeros(file: &File, offset: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; 64 << 10];
    let mut at = offset;
    while at < end {
        let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..step).unwrap_or_default(), at)?;
        at += step as u64;
    }
    Ok(())
}

/// Reads a small file whole; `None`: it is missing.
///
/// # Errors
/// What the medium says.
pub(crate) fn read_note(medium: &dyn Medium, name: &'static str) -> io::Result<Option<Vec<u8>>> {
    let part = Part::Note(name);
    let Some(length) = medium.length(part)? else { return Ok(None) };
    let mut content = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = medium.read(part, 0, &mut content)?;
    content.truncate(read);
    Ok(Some(content))
}

/// Writes a small file whole: a power loss leaves the old content or the new.
///
/// # Errors
/// What the medium says; the old content stays.
pub(crate) fn write_note(
    medium: &dyn Medium,
    name: &'static str,
    fresh: &'static str,
    content: &[u8],
) -> io::Result<()> {
    let new = Part::Note(fresh);
    medium.remove(new)?;
    medium.write(new, 0, content)?;
    medium.sync(new)?;
    medium.rename(new, Part::Note(name))?;
    medium.sync_names(Folder::Notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_has_put_there_is_no_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        disk.write(Part::Object(Ino(0x2a)), 0, b"ours").unwrap();
        for name in ["2b", "+00000000002b", "00000000002B", "lost+found", "00000000002b~"] {
            fs::write(folder.path().join("objects").join(name), "a stranger's").unwrap();
        }
        assert_eq!(disk.list(Folder::Objects).unwrap(), [0x2a]);
    }

    #[test]
    fn a_renamed_file_is_read_under_its_new_name_whoever_reads_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let (old, new) = (Part::Note("note"), Part::Note("note.new"));
        disk.write(old, 0, &0_u64.to_le_bytes()).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    disk.read(old, 0, &mut [0; 8]).unwrap();
                }
            });
            for round in 1..1000_u64 {
                disk.write(new, 0, &round.to_le_bytes()).unwrap();
                disk.rename(new, old).unwrap();
                let mut read = [0; 8];
                disk.read(old, 0, &mut read).unwrap();
                let stale = (u64::from_le_bytes(read) != round).then_some(round);
                if stale.is_some() {
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                assert_eq!(stale, None, "an old file is read");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
