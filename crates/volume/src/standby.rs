//! The copy that takes the log from another node.

use crate::entry::Mark;
use crate::state::Acked;
use crate::volume::{Volume, follow_lineage};
use crate::{Grade, Op, VolumeError};

impl Volume {
    /// Takes log from the node that writes it: the whole and sound entries at the beginning of `bytes`, which follow the end.
    /// Says how many bytes that was.
    ///
    /// # Errors
    /// [`VolumeError::Strange`]: it is no log, or not what follows; [`VolumeError::Closed`]; the disk's.
    pub fn receive(&self, bytes: &[u8]) -> Result<usize, VolumeError> {
        let shared = &self.shared;
        {
            let state = shared.state();
            if state.progress.closed || state.leading.is_some() {
                return Err(VolumeError::Closed);
            }
        }
        let mut lineage = self.lineage();
        let mut eager = 0;
        let done = shared.journal.append_entries(bytes, |op, span| {
            if matches!(op, Op::Verify { .. }) {
                eager = span.end.lsn;
            }
            follow_lineage(&mut lineage, op, span)
        });
        let done = done.inspect_err(|e| shared.fail_on_disk(e))?;
        let end = shared.journal.end().lsn;
        let mut state = shared.state();
        state.lineage = lineage;
        state.progress.end = end;
        state.eager = state.eager.max(eager);
        Ok(done)
    }

    /// How far this copy is, for the node that writes the log.
    #[must_use]
    pub fn reached(&self) -> Acked {
        let state = self.shared.state();
        Acked { received: state.progress.end, durable: state.progress.durable, room: state.room }
    }

    /// When another node counts.
    #[must_use]
    pub fn grade(&self) -> Grade {
        self.shared.settings.grade
    }

    /// The node that writes the log says up to where it is acknowledged.
    pub fn told(&self, commit: u64) {
        let mut state = self.shared.state();
        let commit = commit.min(state.progress.end);
        if commit > state.progress.commit && state.leading.is_none() {
            state.progress.commit = commit;
            self.shared.wake(&mut state);
        }
    }

    /// Takes back what follows `to` in the log. Nothing may be received meanwhile.
    ///
    /// # Errors
    /// [`VolumeError::Applied`]: it was acknowledged; [`VolumeError::Strange`]: no entry ends there; the disk's.
    pub fn truncate(&self, to: u64) -> Result<(), VolumeError> {
        let shared = &self.shared;
        let base = shared.base();
        // Of what was in the files before a restart the checkpoint says nothing.
        let applied = base.at.lsn.max(shared.journal.applied());
        if applied > to {
            return Err(VolumeError::Applied { to, applied });
        }
        if shared.state().leading.is_some() {
            return Err(VolumeError::Strange("a wish to take back what this node writes"));
        }
        let check = shared.journal.check_at(to)?.ok_or(VolumeError::Strange("a place where no entry ends"))?;
        shared.journal.truncate(Mark { lsn: to, check }).inspect_err(|e| shared.fail_on_disk(e))?;
        let mut state = shared.state();
        state.lineage.cut(to);
        state.progress.end = to;
        state.progress.durable = state.progress.durable.min(to);
        state.progress.commit = state.progress.commit.min(to);
        state.eager = state.eager.min(to);
        shared.publish(&mut state);
        drop(state);
        drop(base);
        Ok(())
    }
}
