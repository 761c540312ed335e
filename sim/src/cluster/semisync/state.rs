//! What a database of MariaDB or MySQL has besides a log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::database::Entry;
use super::commits::{Barrier, Nudge};
use super::feed::Feed;

/// What a standby has said of itself, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// So many records it has received.
    pub(super) received: usize,
    /// So many it has applied.
    pub(super) applied: usize,
    pub(super) streaming: bool,
    pub(super) at: u64,
}

/// A database's own part of semi-synchronous replication. The first half ends with the process, the rest is on disk.
#[derive(Debug, Default)]
pub(in crate::cluster) struct SemiSync {
    /// As a standby: where its log comes from.
    pub(super) feed: Option<Feed>,
    /// Commits that are not written to the log yet.
    pub(in crate::cluster) pending: VecDeque<Entry>,
    /// Where the groups of commits end that were each written at once, and wait.
    pub(super) groups: VecDeque<usize>,
    /// Whose acknowledgements count.
    pub(super) counted: BTreeSet<usize>,
    /// So many records one of them has acknowledged, or another before it.
    pub(super) acked: usize,
    pub(super) heard: BTreeMap<usize, Heard>,
    /// Its epoch's barrier has passed: it takes writes.
    pub(in crate::cluster) open: bool,
    pub(super) barrier: Option<Barrier>,
    pub(super) nudges: Vec<Nudge>,
    /// How often its sync rule has changed.
    pub(super) changes: u64,
    /// The end of a log whose commits wait though a standby that counts has them, and since when that is seen.
    pub(super) unanswered: Option<(u64, u64)>,
    /// Somebody who copies it holds its commits up until then.
    pub(super) held_up: u64,
    /// Its disk is full, and it waits for room.
    pub(super) waits_for_room: bool,
    /// The run before was a primary's, which did not end cleanly.
    pub(super) led: bool,
    /// So many records that run had committed.
    pub(super) committed: usize,
    /// MariaDB: the end of the log, set aside.
    pub(super) tail: Option<Vec<Entry>>,
}

impl SemiSync {
    /// The process ends, whatever it was in the middle of. `committed`: so many records it had committed as a primary.
    pub(in crate::cluster) fn end(&mut self, committed: Option<usize>) {
        let before = std::mem::take(self);
        (self.led, self.tail, self.changes) = (before.led, before.tail, before.changes);
        self.committed = committed.unwrap_or(before.committed);
    }

    /// The data is gone, or another's.
    pub(in crate::cluster) fn forget(&mut self) {
        *self = Self { changes: self.changes, ..Self::default() };
    }

    /// A primary has said who counts, and that is void now.
    pub(super) fn forget_standbys(&mut self) {
        self.changes += 1;
        self.counted.clear();
        self.heard.clear();
        self.nudges.clear();
    }

    /// Whom it takes the log from.
    pub(in crate::cluster) fn upstream(&self) -> Option<(usize, u64)> {
        self.feed.as_ref().map(|f| (f.upstream, f.epoch))
    }

    pub(in crate::cluster) fn streams(&self) -> bool {
        self.feed.as_ref().is_some_and(Feed::streams)
    }

    /// How things are, for whoever wonders why it is not well.
    pub(in crate::cluster) fn condition(&self) -> String {
        let (pending, counted, acked) = (self.pending.len(), &self.counted, self.acked);
        let (open, tail) = (self.open, self.tail.as_ref().map_or(0, Vec::len));
        format!(
            "{pending} pending, counted {counted:?}, acknowledged {acked}, open {open}, set aside {tail}, {:?}",
            self.feed
        )
    }
}
