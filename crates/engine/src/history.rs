//! Which epochs a log is made of, and where two logs part.

use serde::{Deserialize, Serialize};
use trine_protocol::Epoch;

use crate::CopyId;

/// A log's descent: `forks` oldest first, then its own epoch, which is still being written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct History {
    /// Whose data.
    pub identity: CopyId,
    /// The epochs before, each with the place where the log left it.
    pub forks: Vec<Fork>,
    /// The epoch that is written now.
    pub epoch: Epoch,
    /// How far it was written when this was asked.
    pub end: u64,
    /// Whether others can rewind to it already (a primary is ready once it has passed its first checkpoint).
    pub rewind_ready: bool,
}

/// The end of one epoch's part of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fork {
    /// The epoch (PostgreSQL: the timeline).
    pub epoch: Epoch,
    /// Where the log left it for the next.
    pub end: u64,
}

impl History {
    /// Where `epoch` ends in this log: `None` when it has no part in it, `u64::MAX` when it is still written.
    #[must_use]
    pub fn end_of(&self, epoch: Epoch) -> Option<u64> {
        if epoch == self.epoch {
            return Some(u64::MAX);
        }
        self.forks.iter().find(|f| f.epoch == epoch).map(|f| f.end)
    }

    /// The place up to which both logs are the same, and the last epoch of that part. `None`: nothing in common.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Fork> {
        let own = self.forks.iter().map(|f| f.epoch).chain([self.epoch]);
        own.filter_map(|epoch| {
            let end = self.end_of(epoch)?.min(other.end_of(epoch)?);
            Some(Fork { epoch, end })
        })
        .next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(forks: &[(u64, u64)], epoch: u64) -> History {
        let forks = forks.iter().map(|&(e, end)| Fork { epoch: Epoch(e), end }).collect();
        History { identity: CopyId(7), forks, epoch: Epoch(epoch), end: 1000, rewind_ready: true }
    }

    #[test]
    fn where_logs_part() {
        let one = history(&[], 1);
        let five = history(&[(1, 100)], 5);
        let six = history(&[(1, 100)], 6);
        let seven = history(&[(1, 100), (5, 200)], 7);
        assert_eq!(five.common(&one), Some(Fork { epoch: Epoch(1), end: 100 }));
        assert_eq!(one.common(&seven), Some(Fork { epoch: Epoch(1), end: 100 }));
        assert_eq!(five.common(&six), Some(Fork { epoch: Epoch(1), end: 100 }));
        assert_eq!(five.common(&seven), Some(Fork { epoch: Epoch(5), end: 200 }));
        assert_eq!(five.common(&five), Some(Fork { epoch: Epoch(5), end: u64::MAX }));
        assert_eq!(history(&[], 3).common(&seven), None);
    }
}
