//! What of the files' content is in the log and may not be in the files yet.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::{Ino, Op};

/// Of a file with more pieces than this it is only known when it was last changed: a read of any part of it waits for that.
const MOST_PIECES: usize = 1024;

/// Where files are changed by operations that may not be applied yet: a read waits for what it would see, and for no more. A
/// database on one file that has just been started, with nothing of it in memory, reads all over it while it writes.
#[derive(Debug, Default)]
pub(crate) struct Unapplied(HashMap<Ino, Changes>);

#[derive(Debug, Default)]
struct Changes {
    /// The end of the last operation that may have changed any part.
    whole: u64,
    /// Others: what they change, and where each ends in the log. In the log's order.
    pieces: VecDeque<(Range<u64>, u64)>,
}

impl Unapplied {
    /// An operation changes content; it ends at `lsn`, after all that came before.
    pub(crate) fn add(&mut self, op: &Op<'_>, lsn: u64) {
        let to = |offset: u64, len: u64| offset..offset.saturating_add(len);
        let (ino, range) = match op {
            Op::Write { ino, offset, data, .. } | Op::Repair { ino, offset, data } => {
                (*ino, Some(to(*offset, data.len() as u64)))
            }
            Op::Clear { ino, offset, len, .. } => (*ino, Some(to(*offset, *len))),
            Op::Resize { ino, .. } => (*ino, None),
            _ => return,
        };
        let changes = self.0.entry(ino).or_default();
        match range {
            Some(range) if changes.pieces.len() < MOST_PIECES => changes.pieces.push_back((range, lsn)),
            _ => {
                changes.whole = lsn;
                changes.pieces.clear();
            }
        }
    }

    /// The end of the last operation that changes something of this part of a file; 0: all is applied.
    pub(crate) fn last(&self, ino: Ino, part: &Range<u64>) -> u64 {
        let Some(changes) = self.0.get(&ino) else { return 0 };
        let meets = |range: &Range<u64>| range.start < part.end && part.start < range.end;
        let piece = changes.pieces.iter().rev().find(|(range, _)| meets(range)).map_or(0, |(_, lsn)| *lsn);
        piece.max(changes.whole)
    }

    /// All up to `applied` is in the files.
    pub(crate) fn applied(&mut self, applied: u64) {
        self.0.retain(|_, changes| {
            while changes.pieces.front().is_some_and(|(_, lsn)| *lsn <= applied) {
                changes.pieces.pop_front();
            }
            changes.whole > applied || !changes.pieces.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stamp;

    const FILE: Ino = Ino(2);
    const AT: Stamp = Stamp { secs: 1, nanos: 0 };

    fn write(offset: u64, len: usize) -> Op<'static> {
        Op::Write { ino: FILE, offset, data: vec![1; len].into(), at: AT }
    }

    #[test]
    fn a_read_waits_for_what_it_would_see_and_for_no_more() {
        let mut it = Unapplied::default();
        it.add(&write(0, 100), 10);
        it.add(&write(50, 100), 20);
        assert_eq!(it.last(FILE, &(0..50)), 10);
        assert_eq!(it.last(FILE, &(0..51)), 20);
        assert_eq!(it.last(FILE, &(149..200)), 20);
        assert_eq!(it.last(FILE, &(150..200)), 0);
        assert_eq!(it.last(Ino(3), &(0..u64::MAX)), 0);
        it.applied(10);
        assert_eq!((it.last(FILE, &(0..50)), it.last(FILE, &(0..51))), (0, 20));
        it.add(&Op::Resize { ino: FILE, size: 10, at: AT }, 30);
        assert_eq!(it.last(FILE, &(0..1)), 30, "a new size may change any part");
        it.add(&write(5, 1), 40);
        assert_eq!((it.last(FILE, &(0..5)), it.last(FILE, &(5..6))), (30, 40));
        it.applied(40);
        assert!(it.0.is_empty());
    }

    #[test]
    fn of_many_changes_only_the_last_is_known() {
        let mut it = Unapplied::default();
        for n in 0..=MOST_PIECES as u64 {
            it.add(&write(n, 1), n + 1);
        }
        assert_eq!(it.last(FILE, &(7..8)), MOST_PIECES as u64 + 1);
        it.applied(MOST_PIECES as u64);
        assert_eq!(it.last(FILE, &(7..8)), MOST_PIECES as u64 + 1);
        it.applied(MOST_PIECES as u64 + 1);
        assert!(it.0.is_empty());
    }
}
