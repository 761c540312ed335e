//! A database's log.

use std::fmt;

use trine_protocol::{Epoch, Position};

/// A log: runs of entries, each of one epoch. The first entry of a run is the one that names its epoch.
///
/// An entry is its epoch and its place in the run. That is enough to tell two entries apart as long as an epoch has one
/// primary, which is checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Log {
    /// Those that are there come first; in place, because a search copies little else so often.
    runs: [(u8, u8); RUNS],
    count: u8,
}

/// Each epoch that has had a primary can add one.
const RUNS: usize = 8;

impl Log {
    fn runs(&self) -> &[(u8, u8)] {
        &self.runs[..self.count.into()]
    }

    /// How many entries it has.
    pub(super) fn len(&self) -> u8 {
        self.runs().iter().map(|(_, count)| count).sum()
    }

    /// The position that it proves.
    pub(super) fn position(&self) -> Position {
        Position { epoch: Epoch(self.epoch().into()), offset: self.len().into() }
    }

    /// The epoch of its last entry; 0 for an empty log.
    pub(super) fn epoch(&self) -> u8 {
        self.runs().last().map_or(0, |(epoch, _)| *epoch)
    }

    /// A primary of `epoch` appends an entry.
    pub(super) fn push(&mut self, epoch: u8) {
        if self.epoch() != epoch || self.count == 0 {
            self.runs[usize::from(self.count)].0 = epoch;
            self.count += 1;
        }
        self.runs[usize::from(self.count) - 1].1 += 1;
    }

    /// Its first `length` entries.
    #[must_use]
    pub(super) fn prefix(&self, length: u8) -> Self {
        let mut left = length;
        let mut prefix = Self::default();
        for (run, (epoch, count)) in prefix.runs.iter_mut().zip(self.runs()) {
            let taken = left.min(*count);
            if taken == 0 {
                break;
            }
            *run = (*epoch, taken);
            prefix.count += 1;
            left -= taken;
        }
        prefix
    }

    /// How many entries both have in common from the start.
    pub(super) fn common(&self, other: &Self) -> u8 {
        let mut common = 0;
        for ((a, m), (b, n)) in self.runs().iter().zip(other.runs()) {
            if a != b {
                break;
            }
            common += m.min(n);
            if m != n {
                break;
            }
        }
        common
    }

    /// Are the first entries those of `other`?
    pub(super) fn starts_with(&self, other: &Self) -> bool {
        self.common(other) == other.len()
    }
}

/// `2×3 4×1`: three entries of epoch 2, one of epoch 4.
impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs: Vec<String> = self.runs().iter().map(|(epoch, count)| format!("{epoch}\u{d7}{count}")).collect();
        write!(f, "[{}]", runs.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(runs: &[(u8, u8)]) -> Log {
        let mut log = Log::default();
        runs.iter().for_each(|(epoch, count)| (0..*count).for_each(|_| log.push(*epoch)));
        log
    }

    #[test]
    fn prefixes_and_what_two_logs_share() {
        let long = log(&[(2, 3), (4, 2)]);
        assert_eq!(long.len(), 5);
        assert_eq!(long.prefix(4), log(&[(2, 3), (4, 1)]));
        assert_eq!(long.prefix(3), log(&[(2, 3)]));
        assert_eq!(long.prefix(9), long);
        assert!(long.starts_with(&log(&[(2, 3)])) && long.starts_with(&Log::default()));
        assert!(!long.starts_with(&log(&[(2, 4)])) && !long.starts_with(&log(&[(2, 2), (4, 1)])));
        assert_eq!(long.common(&log(&[(2, 2), (4, 9)])), 2);
        assert_eq!(long.common(&log(&[(2, 3), (3, 1)])), 3);
    }

    #[test]
    fn the_data_epoch_comes_first_in_a_position() {
        assert!(log(&[(2, 1), (3, 1)]).position() > log(&[(2, 9)]).position());
    }
}
