//! How far the cluster's data was ever told to reach, so that a person who is about to give some of it up can be told how
//! much that is. For people only: no rule reads it, and an agent that starts knows nothing.

use std::collections::VecDeque;
use std::time::Duration;

use trine_protocol::{Moment, NodeName, Position};

/// How far apart the primary's positions are kept.
const STEP: Duration = Duration::from_secs(1);

/// How many of them are kept: four hours.
const KEPT: usize = 4 * 3600;

/// What this node has heard of positions since it started.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The furthest that any node ever told.
    furthest: Option<Told>,
    /// What primaries told, oldest first; the last is the latest of all.
    primary: VecDeque<Told>,
}

/// A position, who told it, and when it was heard last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) node: NodeName,
    pub(crate) position: Position,
    pub(crate) at: Moment,
}

impl Known {
    /// Positions that the nodes tell now.
    pub(crate) fn hear<'a>(
        &mut self,
        primary: Option<&NodeName>,
        positions: impl Iterator<Item = (&'a NodeName, Position)>,
        now: Moment,
    ) {
        for (node, position) in positions {
            let told = Told { node: node.clone(), position, at: now };
            let leads = primary == Some(node);
            // Of equals the primary's counts: it was there first.
            if self.furthest.as_ref().is_none_or(|f| position > f.position || (position == f.position && leads)) {
                self.furthest = Some(told.clone());
            }
            if leads {
                self.keep(told);
            }
        }
    }

    fn keep(&mut self, told: Told) {
        let last = self.primary.len().checked_sub(1);
        let before_last = last.and_then(|l| l.checked_sub(1)).and_then(|i| self.primary.get(i));
        let replaces = before_last.is_some_and(|b| told.at.since(b.at) < STEP);
        match self.primary.back_mut() {
            Some(back) if replaces => *back = told,
            _ => self.primary.push_back(told),
        }
        if self.primary.len() > KEPT {
            self.primary.pop_front();
        }
    }

    /// The furthest that was ever told, and by whom it was heard last.
    pub(crate) fn furthest(&self) -> Option<&Told> {
        self.furthest.as_ref()
    }

    /// For how long the primary has been telling positions that `reached` does not reach: what it acknowledged in that time
    /// may be missing there. `None`: not known, or longer than what is kept.
    pub(crate) fn behind(&self, reached: Position, now: Moment) -> Option<Duration> {
        let covered = self.primary.iter().rev().find(|told| told.position <= reached)?;
        Some(now.since(covered.at))
    }
}

#[cfg(test)]
mod tests {
    use trine_protocol::Epoch;

    use super::*;

    fn name(i: u8) -> NodeName {
        format!("n{i}").parse().unwrap()
    }

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn position(offset: u64) -> Position {
        Position { epoch: Epoch(2), offset }
    }

    fn hear(known: &mut Known, ms: u64, positions: [u64; 2]) {
        let names = [name(1), name(2)];
        known.hear(Some(&names[0]), names.iter().zip(positions.map(position)), at(ms));
    }

    #[test]
    fn nothing_is_known_at_first() {
        let known = Known::default();
        assert_eq!(known.furthest(), None);
        assert_eq!(known.behind(position(5), at(9)), None);
    }

    #[test]
    fn a_copy_is_as_old_as_the_last_position_of_the_primary_that_it_has_reached() {
        let mut known = Known::default();
        // n2 stops at 30, three seconds later n1 is lost.
        for ms in (0..6000).step_by(100) {
            hear(&mut known, ms, [ms / 100, (ms / 100).min(30)]);
        }
        assert_eq!(known.furthest().map(|t| (&t.node, t.position.offset)), Some((&name(1), 59)));
        let behind = known.behind(position(30), at(10_000)).unwrap();
        // One position a second is kept.
        assert!((Duration::from_secs(7)..=Duration::from_secs(8)).contains(&behind), "{behind:?}");
        assert_eq!(known.behind(position(59), at(10_000)), Some(Duration::from_millis(4100)));
        let older = Position { epoch: Epoch(1), offset: 99 };
        assert_eq!(known.behind(older, at(10_000)), None, "the data epoch comes first");
        assert!(known.primary.len() <= 8, "{}", known.primary.len());
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let mut known = Known::default();
        for second in 0..2 * KEPT as u64 {
            hear(&mut known, second * 1000, [second, second]);
        }
        assert_eq!(known.primary.len(), KEPT);
        assert_eq!(known.behind(position(3), at(0)), None);
    }
}
