//! A real disk with faults that only some tests need.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use trine_volume::{Disk, Folder, Medium, Part, Room};

/// What is kept back, and 4 MiB.
const TIGHT: u64 = (96 << 20) + (4 << 20);

/// A disk that has room for what is on it and little beside, whose syncs cost nothing, and that hangs when told to.
#[derive(Debug)]
pub(crate) struct Bent {
    disk: Disk,
    gate: Mutex<Gate>,
    moved: Condvar,
    free: AtomicU64,
}

#[derive(Debug, Default)]
struct Gate {
    shut: bool,
    writers: usize,
    /// How often it was asked for its room.
    looks: usize,
}

impl Bent {
    pub(crate) fn tight(disk: Disk) -> Self {
        Self { disk, gate: Mutex::default(), moved: Condvar::new(), free: AtomicU64::new(TIGHT) }
    }

    /// So much room is left, and no more.
    pub(crate) fn set_free(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
    }

    /// Whatever changes a file waits from now on, or goes on.
    pub(crate) fn hang(&self, shut: bool) {
        self.gate.lock().unwrap().shut = shut;
        self.moved.notify_all();
    }

    /// Returns once somebody waits to write log.
    pub(crate) fn wait_hung(&self) {
        drop(self.moved.wait_while(self.gate.lock().unwrap(), |g| g.writers == 0).unwrap());
    }

    /// Returns once it was asked for its room so often.
    pub(crate) fn wait_looked(&self, times: usize) {
        drop(self.moved.wait_while(self.gate.lock().unwrap(), |g| g.looks < times).unwrap());
    }

    fn pass(&self, writers: usize) {
        let mut gate = self.gate.lock().unwrap();
        gate.writers += writers;
        self.moved.notify_all();
        self.moved.wait_while(gate, |g| g.shut).unwrap().writers -= writers;
    }
}

impl Medium for Bent {
    fn read(&self, part: Part, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read(part, offset, buffer)
    }
    fn write(&self, part: Part, offset: u64, data: &[u8]) -> io::Result<()> {
        self.pass(matches!(part, Part::Segment(_)).into());
        self.disk.write(part, offset, data)
    }
    fn length(&self, part: Part) -> io::Result<Option<u64>> {
        self.disk.length(part)
    }
    fn shorten(&self, part: Part, length: u64) -> io::Result<()> {
        self.pass(0);
        self.disk.shorten(part, length)
    }
    fn clear(&self, part: Part, offset: u64, length: u64) -> io::Result<()> {
        self.pass(0);
        self.disk.clear(part, offset, length)
    }
    fn sync(&self, _part: Part) -> io::Result<()> {
        self.pass(0);
        Ok(())
    }
    fn sync_names(&self, _folder: Folder) -> io::Result<()> {
        self.pass(0);
        Ok(())
    }
    fn rename(&self, from: Part, to: Part) -> io::Result<()> {
        self.pass(0);
        self.disk.rename(from, to)
    }
    fn remove(&self, part: Part) -> io::Result<()> {
        self.pass(0);
        self.disk.remove(part)
    }
    fn list(&self, folder: Folder) -> io::Result<Vec<u64>> {
        self.disk.list(folder)
    }
    fn room(&self) -> io::Result<Room> {
        self.gate.lock().unwrap().looks += 1;
        self.moved.notify_all();
        Ok(Room { total: 1 << 30, free: self.free.load(Ordering::Relaxed) })
    }
    fn place(&self) -> String {
        self.disk.place()
    }
}
