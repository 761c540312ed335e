//! The copy that writes the log, as what a mount stands on.

use std::sync::PoisonError;

use rustix::io::Errno;

use crate::medium::Part;
use crate::state::State;
use crate::{Ino, Op, Room, Store, Tree, Volume, VolumeError};

/// Room that the database does not get: for the log that is written anyway, for checkpoints, for what makes room.
const RESERVE: u64 = 96 << 20;

/// Log that nobody waits for is sent to the others once there is so much of it. Waking them costs more than a small write.
const SEND_AT: u64 = 256 << 10;

impl Store for Volume {
    fn look<T>(&self, look: impl FnOnce(&Tree) -> T) -> T {
        let state = self.shared.state();
        match &state.leading {
            Some(leading) => look(&leading.tree),
            None => look(&Tree::default()),
        }
    }

    fn change<'a, T>(&self, make: impl FnOnce(&Tree) -> Result<(Op<'a>, T), Errno>) -> Result<T, Errno> {
        let shared = &self.shared;
        let behind = shared.settings.retain / 2;
        let full = |s: &mut State| !s.progress.closed && s.progress.end > s.progress.applied.saturating_add(behind);
        let mut state = shared.state();
        if full(&mut state) {
            let end = state.progress.end;
            shared.hurry(&mut state, end);
            state = shared.applied.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        // The state is never locked while the disk is waited for: one that hangs must not hold up who asks or closes.
        let one = shared.writing();
        let (op, answer) = {
            let state = shared.state();
            let leading = state.leading.as_ref().filter(|_| !state.progress.closed).ok_or(Errno::IO)?;
            let (op, answer) = make(&leading.tree)?;
            let size = grows_by(&op);
            if size > 0 && state.smallest().free < RESERVE.saturating_add(2 * size) {
                return Err(Errno::NOSPC);
            }
            (op, answer)
        };
        // All that can be refused is refused before the first thing changes: tree and log never part.
        let written = match shared.journal.stage(&op) {
            Ok(staged) => {
                let mut state = shared.state();
                let leading = state.leading.as_mut().ok_or(Errno::IO)?;
                leading.tree.apply(&op)?;
                leading.comparisons.changes(&op);
                leading.unapplied.add(&op, staged.end().lsn);
                drop(state);
                staged.write()
            }
            Err(error) if error.is_full() => return Err(Errno::NOSPC),
            Err(VolumeError::TooLarge) => return Err(Errno::TOOBIG),
            Err(error) => Err(error),
        };
        let mark = match written {
            Ok(mark) => mark,
            Err(error) => {
                drop(one);
                shared.fail_on_disk(&error);
                return Err(Errno::IO);
            }
        };
        let mut state = shared.state();
        // The log and the content.
        state.room.free = state.room.free.saturating_sub(2 * grows_by(&op));
        state.progress.end = mark.lsn;
        if mark.lsn >= state.told + SEND_AT || state.progress.wanted >= mark.lsn {
            shared.publish(&mut state);
        }
        Ok(answer)
    }

    fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let shared = &self.shared;
        let mut state = shared.state();
        let leading = state.leading.as_ref().ok_or(Errno::IO)?;
        let size = leading.tree.size(ino).ok_or(Errno::NOENT)?;
        let len = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let last = leading.unapplied.last(ino, &(offset..offset.saturating_add(len as u64)));
        if last > state.progress.applied {
            shared.hurry(&mut state, last);
            let early = |s: &mut State| !s.progress.closed && s.progress.applied < last;
            state = shared.applied.wait_while(state, early).unwrap_or_else(PoisonError::into_inner);
        }
        if state.progress.closed {
            return Err(Errno::IO);
        }
        drop(state);
        let mut content = vec![0; len];
        // What was never written is zeros.
        shared.medium.read(Part::Object(ino), offset, &mut content).map_err(|error| {
            tracing::error!(%error, place = shared.medium.place(), ?ino, "can't read a file's content");
            Errno::IO
        })?;
        Ok(content)
    }

    fn sync(&self, done: Box<dyn FnOnce(Result<(), Errno>) + Send>) {
        let shared = &self.shared;
        let mut state = shared.state();
        let end = state.progress.end;
        if state.progress.closed || state.leading.is_none() {
            drop(state);
            return done(Err(Errno::IO));
        }
        if end <= state.progress.commit {
            drop(state);
            return done(Ok(()));
        }
        shared.wait_for(&mut state, end, done);
    }

    fn room(&self) -> Room {
        let room = self.shared.state().smallest();
        Room { total: room.total, free: room.free.saturating_sub(RESERVE) }
    }
}

/// About how many bytes more an operation needs on a disk; 0 for what makes room or needs next to none.
fn grows_by(op: &Op<'_>) -> u64 {
    match op {
        Op::Write { data, .. } => data.len() as u64,
        Op::Make { .. } | Op::Link { .. } | Op::SetXattr { .. } => 4096,
        Op::Reserve { len, .. } => *len,
        _ => 0,
    }
}
