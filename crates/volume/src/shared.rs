//! What an open volume, its threads and its streams have in common.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;
use trine_platform::{BootClock, Clock as _};

use crate::apply::Base;
use crate::entry::Mark;
use crate::journal::Journal;
use crate::medium::Medium;
use crate::sizes::Sizes;
use crate::state::{Done, Progress, State};
use crate::{Ino, Op, Settings, VolumeError};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) medium: Arc<dyn Medium>,
    pub(crate) journal: Journal,
    pub(crate) identity: u64,
    pub(crate) settings: Settings,
    pub(crate) sizes: Sizes,
    /// The end of the log when it was opened. What comes before may have been applied by whoever had it open before.
    pub(crate) opened_at: u64,
    /// Held while the log gets an entry from this node, before anything else is locked.
    pub(crate) writing: Mutex<()>,
    /// Held for a moment only: never while a disk is waited for.
    pub(crate) state: Mutex<State>,
    /// The thread that flushes waits here. Like the one that applies, it is woken only for what it has to do: waking a thread
    /// costs more than most changes do.
    pub(crate) flusher: Condvar,
    /// The thread that applies waits here.
    pub(crate) applier: Condvar,
    /// The thread that makes the files for the log waits here.
    pub(crate) keeper: Condvar,
    /// More is applied: who reads or writes may wait for that.
    pub(crate) applied: Condvar,
    pub(crate) base: Mutex<Base>,
    /// The checkpoint on the disk.
    pub(crate) kept: AtomicU64,
    pub(crate) progress: watch::Sender<Progress>,
    /// The same, for the streams to those who take the log: they are woken for what they have to send, and for nothing else.
    pub(crate) feed: watch::Sender<Progress>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn base(&self) -> MutexGuard<'_, Base> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells threads and tasks how far everything is.
    pub(crate) fn publish(&self, state: &mut State) {
        let now = state.progress;
        let segment = |lsn: u64| lsn / self.sizes.segment;
        if segment(state.told) != segment(now.end) {
            state.turned = true;
            self.keeper.notify_one();
        }
        state.told = now.end;
        self.progress.send_replace(now);
        self.feed.send_if_modified(|last| {
            let before = std::mem::replace(last, now);
            // How far the log is acknowledged is told with the next log, unless somebody waits until it is applied.
            let hurries = before.commit < now.commit.min(state.eager);
            hurries || (before.end, before.wanted, before.closed) != (now.end, now.wanted, now.closed)
        });
        self.wake(state);
    }

    /// Wakes the threads that have something to do.
    pub(crate) fn wake(&self, state: &mut State) {
        if state.is_flush_due() {
            self.flusher.notify_one();
        }
        if state.is_apply_due() || state.rests && state.is_apply_possible() {
            state.rests = false;
            self.applier.notify_one();
        }
        if state.progress.closed {
            self.flusher.notify_one();
            self.applier.notify_one();
            self.keeper.notify_one();
            self.applied.notify_all();
        }
    }

    /// Somebody waits until all up to `lsn` is applied here.
    pub(crate) fn hurry(&self, state: &mut State, lsn: u64) {
        if lsn > state.eager {
            state.eager = lsn;
            state.progress.wanted = state.progress.wanted.max(lsn);
            self.publish(state);
        }
    }

    pub(crate) fn flush(&self) -> Result<(), VolumeError> {
        // Nobody is told how far a disk is that has failed.
        if self.state().failed {
            return Err(VolumeError::Closed);
        }
        self.journal.flush().inspect_err(|e| self.fail_on_disk(e))?;
        let mut state = self.state();
        // As it is by now: what was flushed may have been taken back since, and other log be in its place.
        state.progress.durable = self.journal.durable().min(state.progress.end);
        let done = state.settle(BootClock.now());
        self.publish(&mut state);
        drop(state);
        tell(done, Ok(()));
        Ok(())
    }

    /// Has `done` called once the log is acknowledged up to `lsn`.
    pub(crate) fn wait_for(&self, state: &mut State, lsn: u64, done: Done) {
        state.number += 1;
        let number = state.number;
        state.waiters.insert((lsn, number), done);
        state.progress.wanted = state.progress.wanted.max(lsn);
        self.publish(state);
    }

    pub(crate) fn close(&self, why: &str) {
        let mut state = self.state();
        let done = state.close(why);
        self.publish(&mut state);
        drop(state);
        tell(done, Err(rustix::io::Errno::IO));
    }

    /// What a disk did not do once it is not asked for again: what it has kept is unknown.
    pub(crate) fn fail_on_disk(&self, error: &VolumeError) {
        if matches!(error, VolumeError::Io { .. } | VolumeError::Damaged { .. } | VolumeError::Differs { .. }) {
            tracing::error!(%error, "the volume is closed");
            if matches!(error, VolumeError::Damaged { .. } | VolumeError::Differs { .. }) {
                self.state().broken = true;
            }
            self.state().failed = true;
            self.close(&error.to_string());
        }
    }

    /// [`Shared::fail_on_disk`], but when there was no room and so nothing was begun.
    pub(crate) fn fail_if_written(&self, error: &VolumeError) {
        if !(error.is_full() && self.journal.is_sound()) {
            self.fail_on_disk(error);
        }
    }

    pub(crate) fn differs(&self, mark: Mark, errno: rustix::io::Errno) -> VolumeError {
        VolumeError::Differs { place: self.medium.place(), lsn: mark.lsn, errno }
    }

    pub(crate) fn look_at_room(&self) -> Result<(), VolumeError> {
        let room = self.medium.room().map_err(|source| VolumeError::Io {
            action: "ask for the room on the disk of",
            place: self.medium.place(),
            source,
        })?;
        let mut state = self.state();
        let news = state.room.mib() != room.mib();
        state.room = room;
        if news {
            self.publish(&mut state);
        }
        Ok(())
    }

    /// Log from here on is kept.
    pub(crate) fn keep(&self) -> u64 {
        // What is pinned after this is at the checkpoint or later.
        let state = self.state();
        let pinned = state.pins.values().min().copied().unwrap_or(u64::MAX);
        let retained = state.progress.end.saturating_sub(self.settings.retain);
        self.kept.load(Ordering::Acquire).min(retained).min(pinned)
    }
}

pub(crate) fn tell(done: Vec<Done>, outcome: Result<(), rustix::io::Errno>) {
    for done in done {
        done(outcome);
    }
}

/// The file whose content an operation changes.
pub(crate) fn content_of(op: &Op<'_>) -> Option<Ino> {
    match op {
        Op::Write { ino, .. } | Op::Resize { ino, .. } | Op::Clear { ino, .. } | Op::Repair { ino, .. } => Some(*ino),
        _ => None,
    }
}
