//! A database that fails again and again before anybody could use it: another node is tried, then more slowly, with an alarm.

use std::time::Duration;

use crate::command::Change;
use crate::controller::{alarm, begin};
use crate::state::{ClusterState, Held};
use crate::{Epoch, Moment, NodeName};

/// An epoch that was open for less than this did nobody any good. Less than any person or test takes to end one on purpose.
const BRIEF: Duration = Duration::from_secs(2);

/// After so many such epochs in a row under the same primary its copy is left out, if the others' are safe without.
const ANOTHER: u32 = 2;

/// After so many in a row there is a pause before the next, a second at first and twice as long each time.
const SLOWER: u32 = 4;

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// The alarm.
pub(crate) const FAILS: &str = "database-fails";

/// What the controller remembers of it. It only delays.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    /// The epoch that is open, and since when.
    open: Option<(Epoch, Moment)>,
    /// The last epoch that failed, and when that was seen.
    last: Option<(Epoch, Moment)>,
    /// How many have failed in a row.
    count: u32,
    /// How many of them, the latest, under this primary.
    same: Option<(NodeName, u32)>,
}

impl Failing {
    /// The epoch has not failed so far.
    pub(crate) fn well(&mut self, state: &ClusterState, held: &Held, now: Moment) -> Option<Change> {
        if !held.opened {
            return None;
        }
        if self.open.is_none_or(|(epoch, _)| epoch != state.epoch) {
            self.open = Some((state.epoch, now));
        }
        if self.brief(state.epoch, now) {
            return None;
        }
        self.count = 0;
        self.same = None;
        state.alarms.contains_key(FAILS).then(|| Change::ClearAlarm { alarm: FAILS.to_owned() })
    }

    fn brief(&self, epoch: Epoch, now: Moment) -> bool {
        self.open.is_none_or(|(open, since)| open != epoch || now.since(since) < BRIEF)
    }

    /// Its primary says that it can't go on: `why`.
    pub(crate) fn failed(&mut self, state: &ClusterState, held: &Held, why: &str, now: Moment) -> Vec<Change> {
        let since = match self.last {
            Some((epoch, since)) if epoch == state.epoch => since,
            _ => {
                let brief = self.brief(state.epoch, now);
                self.count = if brief { self.count + 1 } else { 1 };
                let before = self.same.take().filter(|(node, _)| brief && *node == held.primary);
                self.same = Some((held.primary.clone(), before.map_or(0, |(_, times)| times) + 1));
                self.last = Some((state.epoch, now));
                now
            }
        };
        let pause = match self.count.checked_sub(SLOWER) {
            Some(more) => Duration::from_secs(1 << more.min(6)).min(LONGEST),
            None => Duration::ZERO,
        };
        let primary = &held.primary;
        if now.since(since) < pause {
            let count = self.count;
            let text = format!(
                "the database has failed {count} times in a row, last on {primary}: {why}; it is tried again after a pause: look \
                 at its log there"
            );
            return alarm(state, FAILS, text);
        }
        let again = self.same.as_ref().is_some_and(|(_, times)| *times >= ANOTHER);
        let because = format!("{primary} says: {why}");
        let next = begin(state, state.epoch.next(), &because, held.leaving.clone());
        let without = again.then(|| primary.clone());
        next.map(|change| leave_out(change, without)).into_iter().collect()
    }
}

fn leave_out(change: Change, node: Option<NodeName>) -> Change {
    match change {
        Change::BeginEpoch { from, epoch, because, prefer, accept_loss, evidence, .. } => {
            Change::BeginEpoch { from, epoch, because, prefer, accept_loss, without: node, evidence }
        }
        other => other,
    }
}
