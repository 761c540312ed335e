//! What is acknowledged goes from the log into the files.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, atomic::Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use trine_platform::{BootClock, Clock};

use crate::checkpoint::Checkpoint;
use crate::entry::{Entries, HEADER, Header, Mark, decode};
use crate::medium::{Folder, Part};
use crate::shared::{Shared, content_of};
use crate::state::{Progress, State};
use crate::{Ino, Lineage, Op, Tree, VolumeError};

/// Log that nobody waits for is made durable after this time at the latest.
const TICK: Duration = Duration::from_millis(50);

/// Room comes and goes for other reasons than the log: it is looked at so often, though nothing is written.
const LOOK_AT_ROOM: Duration = Duration::from_secs(1);

/// The files as they are.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) tree: Tree,
    /// Up to where the log is in them.
    pub(crate) at: Mark,
    pub(crate) lineage: Lineage,
    /// Whose content has changed since the last checkpoint.
    pub(crate) dirty: BTreeSet<Ino>,
}

/// A checkpoint that is ready but for what is not yet on the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    at: u64,
    dirty: BTreeSet<Ino>,
}

/// What a thread does until the volume is closed.
type Duty = Box<dyn FnOnce(&Shared) -> Result<(), VolumeError> + Send>;

/// Goes over the log from `at` to `upto`.
///
/// # Errors
/// What `each` says, and the disk's.
pub(crate) fn redo(
    shared: &Shared,
    at: Mark,
    upto: u64,
    mut each: impl FnMut(&Op<'_>, Mark) -> Result<(), VolumeError>,
) -> Result<(), VolumeError> {
    let mut at = at;
    let mut chunk = Vec::new();
    let mut want = shared.sizes.read;
    while at.lsn < upto {
        let there = usize::try_from(upto - at.lsn).unwrap_or(usize::MAX).min(want);
        chunk.resize(there, 0);
        let read = shared.journal.read(at.lsn, &mut chunk)?;
        let chunk = chunk.get(..read).unwrap_or_default();
        let before = at;
        for (body, mark) in Entries::new(chunk, at) {
            let op = decode(body).map_err(|_| shared.damaged(at.lsn))?;
            each(&op, mark)?;
            at = mark;
        }
        if at == before {
            match Entries::new(chunk, at).next_length() {
                Some(length) if length > want => want = length,
                _ => return Err(shared.damaged(at.lsn)),
            }
        }
    }
    Ok(())
}

impl Shared {
    pub(crate) fn damaged(&self, lsn: u64) -> VolumeError {
        VolumeError::Damaged { place: self.medium.place(), lsn, what: "an entry of the log is damaged" }
    }

    /// Starts the threads of an open volume. They end when it is closed.
    pub(crate) fn start(shared: &Arc<Self>) -> io::Result<Vec<JoinHandle<()>>> {
        let (ready, checkpoints) = sync_channel(1);
        let thread = |name: &str, run: Duty| {
            let shared = shared.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                if let Err(error) = run(&shared) {
                    shared.fail_on_disk(&error);
                }
            })
        };
        Ok(vec![
            thread("volume-flush", Box::new(Self::keep_flushing))?,
            thread("volume-house", Box::new(Self::keep_house))?,
            thread("volume-apply", Box::new(move |s| s.keep_applying(&ready)))?,
            thread("volume-point", Box::new(move |s| s.keep_checkpoints(&checkpoints)))?,
        ])
    }

    fn keep_flushing(&self) -> Result<(), VolumeError> {
        loop {
            let rest = |s: &mut State| !s.progress.closed && !s.is_flush_due();
            let waited = self.flusher.wait_timeout_while(self.state(), TICK, rest);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let Progress { end, durable, closed, .. } = state.progress;
            drop(state);
            if closed {
                return Ok(());
            }
            if end > durable {
                self.flush()?;
            }
        }
    }

    /// Notes, the room, and the file that the log will need next: not on the thread that flushes, which clients wait for.
    fn keep_house(&self) -> Result<(), VolumeError> {
        let (mut noted, mut looked) = (0, BootClock.now());
        loop {
            let end = {
                let rest = |s: &mut State| !s.progress.closed && !s.turned;
                let waited = self.keeper.wait_timeout_while(self.state(), TICK, rest);
                let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                if state.progress.closed {
                    return Ok(());
                }
                state.turned = false;
                state.progress.end
            };
            // By the clock: a database that never rests would else seem to fill the disk with what it writes over.
            let rested = BootClock.now().since(looked);
            if end != noted && rested >= TICK {
                self.journal.remember()?;
            }
            if end != noted && rested >= TICK || rested >= LOOK_AT_ROOM {
                self.look_at_room()?;
                (noted, looked) = (end, BootClock.now());
            }
            self.journal.prepare(self.keep())?;
        }
    }

    fn keep_applying(&self, ready: &SyncSender<Pending>) -> Result<(), VolumeError> {
        loop {
            let rest = |s: &mut State| {
                s.rests = !s.progress.closed && !s.is_apply_possible();
                s.rests
            };
            let state = self.applier.wait_while(self.state(), rest).unwrap_or_else(PoisonError::into_inner);
            let early = |s: &mut State| !s.progress.closed && !s.is_apply_due();
            let waited = self.applier.wait_timeout_while(state, self.sizes.later, early);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.progress.closed {
                return Ok(());
            }
            let upto = state.appliable();
            drop(state);
            self.apply_some(upto)?;
            self.checkpoint(ready)?;
        }
    }

    /// Applies a part of the log up to `commit`, and says how far that was. In steps, so that who waits for a part goes on.
    pub(crate) fn apply_some(&self, commit: u64) -> Result<u64, VolumeError> {
        let mut base = self.base();
        let base = &mut *base;
        let upto = self.step(base.at, commit)?;
        self.journal.will_apply(upto)?;
        let mut found = Vec::new();
        let (tree, dirty, lineage, at) = (&mut base.tree, &mut base.dirty, &mut base.lineage, &mut base.at);
        redo(self, *at, upto, |op, mark| {
            let gone = tree.apply(op).map_err(|errno| self.differs(mark, errno))?;
            self.put(op, tree, dirty)?;
            for ino in gone {
                dirty.remove(&ino);
                self.medium.remove(Part::Object(ino)).map_err(self.failed("remove a file's content in"))?;
            }
            if let Op::Epoch { epoch } = op {
                lineage.begin(*epoch, at.lsn);
            }
            if let Op::Verify { region } = op {
                found.push((mark.lsn, self.look_at(*region, mark, tree)));
            }
            *at = mark;
            Ok(())
        })?;
        let applied = base.at.lsn;
        let mut state = self.state();
        state.progress.applied = applied;
        if let Some(leading) = state.leading.as_mut() {
            leading.unapplied.applied(applied);
        }
        self.publish(&mut state);
        drop(state);
        self.applied.notify_all();
        self.found(found);
        Ok(applied)
    }

    /// The end of the entries from `at` on that are about one step, none of which ends after `commit`.
    fn step(&self, at: Mark, commit: u64) -> Result<u64, VolumeError> {
        let mut end = at.lsn;
        let mut header = [0; HEADER];
        while end < commit.min(at.lsn + self.sizes.step) {
            self.journal.read(end, &mut header)?;
            let next = Header::parse(&header).map(|h| end + (HEADER + h.length) as u64);
            end = next.filter(|next| *next <= commit).ok_or_else(|| self.damaged(end))?;
        }
        Ok(end)
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> VolumeError + '_ {
        move |source| VolumeError::Io { action, place: self.medium.place(), source }
    }

    /// Makes an operation's change to content.
    fn put(&self, op: &Op<'_>, tree: &Tree, dirty: &mut BTreeSet<Ino>) -> Result<(), VolumeError> {
        let done = match op {
            Op::Write { ino, offset, data, .. } => self.medium.write(Part::Object(*ino), *offset, data),
            Op::Resize { ino, size, .. } => self.medium.shorten(Part::Object(*ino), *size),
            Op::Clear { ino, offset, len, .. } => self.medium.clear(Part::Object(*ino), *offset, *len),
            Op::Repair { ino, offset, data } if tree.size(*ino).is_some() => {
                self.medium.write(Part::Object(*ino), *offset, data)
            }
            _ => return Ok(()),
        };
        done.map_err(self.failed("write a file's content in"))?;
        dirty.extend(content_of(op));
        Ok(())
    }

    /// Hands a checkpoint over when it is time for one, unless the last is still being made.
    fn checkpoint(&self, ready: &SyncSender<Pending>) -> Result<(), VolumeError> {
        let mut base = self.base();
        if base.at.lsn < self.kept.load(Ordering::Acquire) + self.sizes.checkpoint_every {
            return Ok(());
        }
        let pending = self.pending(&base)?;
        match ready.try_send(pending) {
            Ok(()) => base.dirty.clear(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
        Ok(())
    }

    pub(crate) fn pending(&self, base: &Base) -> Result<Pending, VolumeError> {
        let marks = self.journal.marks();
        let checkpoint = Checkpoint::new(self.identity, base.at, base.lineage.clone(), marks, base.tree.clone());
        Ok(Pending { bytes: checkpoint.to_bytes()?, at: base.at.lsn, dirty: base.dirty.clone() })
    }

    fn keep_checkpoints(&self, checkpoints: &Receiver<Pending>) -> Result<(), VolumeError> {
        while let Ok(pending) = checkpoints.recv() {
            self.write_checkpoint(&pending)?;
        }
        Ok(())
    }

    pub(crate) fn write_checkpoint(&self, pending: &Pending) -> Result<(), VolumeError> {
        for ino in &pending.dirty {
            self.medium.sync(Part::Object(*ino)).map_err(self.failed("sync a file's content in"))?;
        }
        self.medium.sync_names(Folder::Objects).map_err(self.failed("sync the files' content in"))?;
        Checkpoint::write(&pending.bytes, &*self.medium)?;
        self.kept.store(pending.at, Ordering::Release);
        Ok(())
    }

    /// After the threads have ended: the next opening finds all that is acknowledged in the files. Not when something went
    /// wrong: then nobody knows what is in them.
    pub(crate) fn last_checkpoint(&self) -> Result<(), VolumeError> {
        if self.state().failed {
            return Err(VolumeError::Closed);
        }
        loop {
            let upto = self.state().appliable();
            if self.base().at.lsn >= upto {
                break;
            }
            self.apply_some(upto)?;
        }
        let pending = self.pending(&self.base())?;
        if pending.at == self.kept.load(Ordering::Acquire) {
            return Ok(());
        }
        self.write_checkpoint(&pending)
    }
}
