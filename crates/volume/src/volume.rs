//! A copy of a volume, open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use trine_platform::{BootClock, Clock as _};
use trine_protocol::{Epoch, NodeName, Position, SyncSetting};

use crate::apply::{Base, redo};
use crate::checkpoint::Checkpoint;
use crate::entry::{Mark, Span};
use crate::journal::Journal;
use crate::medium::{Folder, Medium, Part};
use crate::shared::{Shared, tell};
use crate::sizes::Sizes;
use crate::state::{Acked, Done, Follower, Grade, Leading, Progress, State};
use crate::unapplied::Unapplied;
use crate::verify::{Comparisons, tell_all};
use crate::{Ino, Lineage, Op, Room, Tree, VolumeError};

/// How a volume is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// When another node counts.
    pub grade: Grade,
    /// How much log is kept for nodes that come back, in bytes.
    pub retain: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { grade: Grade::Disk, retain: 1 << 30 }
    }
}

/// A copy of a volume, open: its log, and the files that the log makes.
///
/// It takes the log from another node ([`Volume::receive`]) or writes it ([`Volume::lead`], then as a [`crate::Store`]). What
/// is acknowledged goes into the files, and only that: so a log that has to be taken back ([`Volume::truncate`]) has left
/// no trace in them.
#[derive(Clone, Debug)]
pub struct Volume {
    pub(crate) shared: Arc<Shared>,
}

/// A number for the volume of a cluster, of the cluster's own number.
#[must_use]
pub fn identity_of(cluster: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(cluster.as_bytes())
}

impl Volume {
    /// Makes an empty volume: the first copy there is.
    ///
    /// # Errors
    /// [`VolumeError::Exists`], or the disk's.
    pub fn create(medium: &dyn Medium, identity: u64, first: Epoch, tree: Tree) -> Result<(), VolumeError> {
        if Checkpoint::read(medium)?.is_some() {
            return Err(VolumeError::Exists(medium.place()));
        }
        // What an older one has left would be taken for what follows.
        let failed = |source| VolumeError::Io { action: "clear", place: medium.place(), source };
        for number in medium.list(Folder::Segments).map_err(failed)? {
            medium.remove(Part::Segment(number)).map_err(failed)?;
        }
        for note in crate::journal::NOTES {
            medium.remove(note).map_err(failed)?;
        }
        for folder in [Folder::Segments, Folder::Notes] {
            medium.sync_names(folder).map_err(failed)?;
        }
        let at = Mark { lsn: 0, check: identity };
        let checkpoint = Checkpoint::new(identity, at, Lineage::new(first), BTreeMap::new(), tree);
        Checkpoint::write(&checkpoint.to_bytes()?, medium)
    }

    /// Whose volume is kept there; `None`: there is none.
    ///
    /// # Errors
    /// It can't be read.
    pub fn identity_in(medium: &dyn Medium) -> Result<Option<u64>, VolumeError> {
        Ok(Checkpoint::read(medium)?.map(|c| c.identity))
    }

    /// Opens a copy. It takes nothing from anybody yet. All that its log says is on its disk when this returns.
    ///
    /// # Errors
    /// [`VolumeError::Missing`], [`VolumeError::Damaged`], or the disk's.
    pub fn open(medium: Arc<dyn Medium>, settings: Settings) -> Result<Self, VolumeError> {
        Self::open_sized(medium, settings, Sizes::default())
    }

    pub(crate) fn open_sized(medium: Arc<dyn Medium>, settings: Settings, sizes: Sizes) -> Result<Self, VolumeError> {
        let this = Self::open_still(medium, settings, sizes)?;
        let shared = &this.shared;
        let threads = Shared::start(shared).map_err(|source| VolumeError::Io {
            action: "start threads for",
            place: shared.medium.place(),
            source,
        })?;
        *shared.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(this)
    }

    /// [`Volume::open`] without its threads: nothing happens by itself.
    pub(crate) fn open_still(medium: Arc<dyn Medium>, settings: Settings, sizes: Sizes) -> Result<Self, VolumeError> {
        let checkpoint = Checkpoint::read(&*medium)?.ok_or_else(|| VolumeError::Missing(medium.place()))?;
        let mut lineage = checkpoint.lineage.clone();
        let journal = Journal::open(medium.clone(), sizes, checkpoint.at, checkpoint.marks, |op, span| {
            follow_lineage(&mut lineage, op, span)
        })?;
        remove_strays(&*medium, &checkpoint.tree)?;
        let at = checkpoint.at;
        let end = journal.end().lsn;
        let progress = Progress { end, durable: end, commit: at.lsn, applied: at.lsn, ..Progress::default() };
        let state = State {
            progress,
            lineage,
            leading: None,
            setting: SyncSetting::Wait,
            grade: settings.grade,
            waiters: BTreeMap::new(),
            number: 0,
            told: end,
            eager: 0,
            turned: false,
            rests: false,
            room: Room::default(),
            pins: BTreeMap::new(),
            found: Vec::new(),
            why: None,
            broken: false,
            failed: false,
        };
        let base = Base { tree: checkpoint.tree, at, lineage: checkpoint.lineage, dirty: BTreeSet::new() };
        let shared = Arc::new(Shared {
            medium,
            journal,
            identity: checkpoint.identity,
            settings,
            sizes,
            opened_at: end,
            writing: Mutex::new(()),
            state: Mutex::new(state),
            flusher: Condvar::new(),
            applier: Condvar::new(),
            keeper: Condvar::new(),
            applied: Condvar::new(),
            base: Mutex::new(base),
            kept: AtomicU64::new(at.lsn),
            progress: watch::channel(progress).0,
            feed: watch::channel(progress).0,
            threads: Mutex::default(),
        });
        shared.look_at_room()?;
        Ok(Self { shared })
    }

    /// Whether both are the same opening of the same copy.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whose it is: the same in all copies.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.shared.identity
    }

    /// How far the log reaches.
    #[must_use]
    pub fn position(&self) -> Position {
        let state = self.shared.state();
        state.lineage.position(state.progress.end)
    }

    /// Which epochs the log is made of, and how far it reaches: both of the same moment, also while it grows.
    #[must_use]
    pub fn extent(&self) -> (Lineage, u64) {
        let state = self.shared.state();
        (state.lineage.clone(), state.progress.end)
    }

    /// Which epochs the log is made of.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.shared.state().lineage.clone()
    }

    /// The end of the log.
    #[must_use]
    pub fn log_end(&self) -> Mark {
        self.shared.journal.end()
    }

    /// From where on the log is kept.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.shared.journal.first()
    }

    /// How far everything is, as it changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// The same for those who only want to know when there is something to send, or that it was closed: the rest is not
    /// told until then.
    pub(crate) fn feed(&self) -> watch::Receiver<Progress> {
        self.shared.feed.subscribe()
    }

    /// Why it was closed; `None`: it is open.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        self.shared.state().why.clone()
    }

    /// Waits until it is closed, and says why.
    pub async fn until_closed(&self) -> String {
        let mut progress = self.feed();
        // What the wait gives keeps whoever publishes waiting, and who publishes has the state: it must be gone before the state
        // is asked.
        drop(progress.wait_for(|p| p.closed).await);
        self.closed().unwrap_or_default()
    }

    /// Whether it was closed because the copy is of no use any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.shared.state().broken
    }

    /// Which epoch this copy writes, if it does.
    #[must_use]
    pub fn leading(&self) -> Option<Epoch> {
        self.shared.state().leading.as_ref().map(|l| l.epoch)
    }

    /// Who takes the log from here, and how far each is.
    #[must_use]
    pub fn followers(&self) -> BTreeMap<NodeName, Follower> {
        self.shared.state().leading.as_ref().map(|l| l.followers.clone()).unwrap_or_default()
    }

    /// Begins to write the log, in a new epoch, whose first entry is on this node's disk when this returns. Nothing may be
    /// received any more.
    ///
    /// # Errors
    /// [`VolumeError::NotLeading`]: it has an epoch already that is as new; [`VolumeError::Closed`]; the disk's.
    pub fn lead(&self, epoch: Epoch) -> Result<(), VolumeError> {
        let shared = &self.shared;
        let base = shared.base();
        let mut tree = base.tree.clone();
        let mut unapplied = Unapplied::default();
        let end = shared.journal.end().lsn;
        redo(shared, base.at, end, |op, mark| {
            unapplied.add(op, mark.lsn);
            tree.apply(op).map(drop).map_err(|errno| shared.differs(mark, errno))
        })?;
        drop(base);
        let one = shared.writing();
        {
            let state = shared.state();
            if state.progress.closed {
                return Err(VolumeError::Closed);
            }
            if state.leading.is_some() || epoch <= state.lineage.epoch() || end != state.progress.end {
                return Err(VolumeError::NotLeading(epoch));
            }
        }
        let op = Op::Epoch { epoch };
        let mark = shared.journal.append(&op).inspect_err(|error| shared.fail_if_written(error))?;
        tree.apply(&op).map_err(|errno| shared.differs(mark, errno))?;
        let mut state = shared.state();
        state.lineage.begin(epoch, end);
        state.progress.end = mark.lsn;
        state.leading = Some(Leading {
            epoch,
            begun: mark.lsn,
            tree,
            unapplied,
            followers: BTreeMap::new(),
            comparisons: Comparisons::default(),
        });
        shared.publish(&mut state);
        drop((state, one));
        self.flush()
    }

    /// What has to have the log before it is acknowledged.
    pub fn set_sync(&self, setting: &SyncSetting) {
        let shared = &self.shared;
        let mut state = shared.state();
        state.setting = setting.clone();
        let done = state.settle(BootClock.now());
        shared.publish(&mut state);
        drop(state);
        tell(done, Ok(()));
    }

    /// Calls `done` once all that is in the log by now is acknowledged, under whatever rule holds then.
    ///
    /// # Errors
    /// [`VolumeError::NotLeading`], [`VolumeError::Closed`], the disk's.
    pub fn barrier(&self, done: Done) -> Result<(), VolumeError> {
        let shared = &self.shared;
        self.append_and(&Op::Barrier, |state, mark| shared.wait_for(state, mark.lsn, done))
    }

    /// Writes an operation that changes nothing, and does `then` before anybody can know of it.
    pub(crate) fn append_and(&self, op: &Op<'_>, then: impl FnOnce(&mut State, Mark)) -> Result<(), VolumeError> {
        self.append_holding(&self.shared.writing(), op, then)
    }

    /// [`Volume::append_and`] for who holds [`Shared::writing`] already.
    pub(crate) fn append_holding(
        &self,
        _one: &MutexGuard<'_, ()>,
        op: &Op<'_>,
        then: impl FnOnce(&mut State, Mark),
    ) -> Result<(), VolumeError> {
        let shared = &self.shared;
        let leads = |state: &State| state.leading.is_some() && !state.progress.closed;
        if !leads(&shared.state()) {
            return Err(VolumeError::Closed);
        }
        let mark = shared.journal.append(op).inspect_err(|error| shared.fail_if_written(error))?;
        let mut state = shared.state();
        state.progress.end = mark.lsn;
        // Nobody tells who begins to wait after it was closed.
        if !leads(&state) {
            return Err(VolumeError::Closed);
        }
        then(&mut state, mark);
        Ok(())
    }

    /// Makes all of the log durable that there is.
    ///
    /// # Errors
    /// The disk's: the volume is closed then, as nobody knows what the disk has kept.
    pub fn flush(&self) -> Result<(), VolumeError> {
        self.shared.flush()
    }

    /// Reads the log from a place on, up to `buffer.len()` bytes, as much as there is.
    ///
    /// # Errors
    /// [`VolumeError::Strange`]: it is no longer kept; the disk's.
    pub fn read_log(&self, from: u64, buffer: &mut [u8]) -> Result<usize, VolumeError> {
        let read = self.shared.journal.read(from, buffer)?;
        // What was read is good only if it was still kept then.
        if self.first() > from {
            return Err(VolumeError::Strange("a wish for log that is no longer kept"));
        }
        Ok(read)
    }

    /// The check at a place in the log; `None`: no entry ends there, or it is no longer kept.
    ///
    /// # Errors
    /// The disk's.
    pub fn check_at(&self, lsn: u64) -> Result<Option<u64>, VolumeError> {
        self.shared.journal.check_at(lsn)
    }

    /// A node takes the log from here, or says how far it is.
    pub fn acked(&self, node: &NodeName, epoch: Epoch, acked: Acked) {
        let mut state = self.shared.state();
        if state.leading.as_ref().is_none_or(|l| l.epoch != epoch) {
            return;
        }
        state.hear(node, acked);
        let done = state.settle(BootClock.now());
        self.shared.publish(&mut state);
        drop(state);
        tell(done, Ok(()));
    }

    /// A node takes the log from here no longer.
    pub fn left(&self, node: &NodeName, epoch: Epoch) {
        let mut state = self.shared.state();
        let Some(leading) = state.leading.as_mut().filter(|l| l.epoch == epoch) else { return };
        leading.followers.remove(node);
        leading.comparisons.left(node);
        let answered = leading.comparisons.answered();
        drop(state);
        tell_all(answered);
    }

    /// Where it is kept.
    pub(crate) fn medium(&self) -> &dyn Medium {
        &*self.shared.medium
    }

    /// Keeps the log from the checkpoint on that there is now, until [`Volume::unpin`].
    pub(crate) fn pin(&self) -> u64 {
        let shared = &self.shared;
        let mut state = shared.state();
        state.number += 1;
        let number = state.number;
        state.pins.insert(number, shared.kept.load(Ordering::Acquire));
        number
    }

    pub(crate) fn unpin(&self, number: u64) {
        self.shared.state().pins.remove(&number);
    }

    /// It takes and gives nothing more from now on, and whoever waits gets an error. Returns at once.
    pub fn close(&self, why: &str) {
        self.shared.close(why);
    }

    /// Closes it and waits until its threads have ended: only then may it be opened anew.
    pub fn end(&self, why: &str) {
        self.close(why);
        // What was being written when it was closed comes to the disk as well.
        drop(self.shared.writing());
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Ends it, and makes the next opening short.
    pub fn finish(&self) {
        self.end("it was closed");
        // Only a wish: without it the opening takes longer.
        if let Err(error) = self.shared.last_checkpoint() {
            tracing::warn!(%error, "can't write a last checkpoint");
        }
    }
}

pub(crate) fn follow_lineage(lineage: &mut Lineage, op: &Op<'_>, span: Span) -> Result<(), VolumeError> {
    match op {
        Op::Epoch { epoch } if !lineage.begin(*epoch, span.from) => {
            Err(VolumeError::Strange("an epoch that is not newer than the one before"))
        }
        _ => Ok(()),
    }
}

/// Content of files that are not in the checkpoint: what the log says of them is done again.
fn remove_strays(medium: &dyn Medium, tree: &Tree) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Io { action: "look over", place: medium.place(), source };
    for number in medium.list(Folder::Objects).map_err(failed)? {
        if tree.size(Ino(number)).is_none() {
            medium.remove(Part::Object(Ino(number))).map_err(failed)?;
        }
    }
    Ok(())
}
