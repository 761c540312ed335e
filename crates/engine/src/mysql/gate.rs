//! The primary's side of replication: which standbys come in, and as what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trine_protocol::{Epoch, Moment, NodeName};

use crate::StandbySeen;

/// A standby that has said nothing for so long is not there.
const HEARD: Duration = Duration::from_secs(1);

/// How far a standby is, in its own words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The last transaction that it has durably.
    pub(super) received: u64,
    /// The last one that it has applied.
    pub(super) applied: u64,
    /// Whether the log flows in.
    pub(super) streaming: bool,
}

/// Who is let in.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Whose acknowledgements count. Standbys are told.
    counted: watch::Sender<BTreeSet<NodeName>>,
    /// Counts up when somebody has come to the database, or left.
    moved: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Of which epoch the database is the primary; `None`: nobody comes in.
    open: Option<Epoch>,
    inside: BTreeMap<u64, Inside>,
    next: u64,
    heard: BTreeMap<NodeName, (Progress, Moment)>,
}

#[derive(Debug)]
struct Inside {
    node: NodeName,
    /// Its acknowledgements count.
    acknowledges: bool,
    /// The database's number of its connection.
    thread: Option<u64>,
    end: CancellationToken,
}

/// A standby that was let in; dropped, it has left.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    /// It has to leave.
    pub(super) end: CancellationToken,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database is the primary of `epoch`. Nobody's acknowledgement counts yet.
    pub(super) fn open(&self, epoch: Epoch) {
        self.close();
        self.state().open = Some(epoch);
    }

    /// Nobody comes in any more, and whoever is inside leaves.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.open = None;
        state.heard.clear();
        for inside in state.inside.values() {
            inside.end.cancel();
        }
        // While it is held: nobody is let in by the rule before.
        self.counted.send_replace(BTreeSet::new());
    }

    /// Lets a standby in; `acknowledges`: as one whose acknowledgements count. `None`: not now, or not so.
    pub(super) fn enter(&self, node: &NodeName, epoch: Epoch, acknowledges: bool) -> Option<Ticket> {
        let mut state = self.state();
        if state.open != Some(epoch) || (acknowledges && !self.counted.borrow().contains(node)) {
            return None;
        }
        let number = state.next;
        state.next += 1;
        let end = CancellationToken::new();
        let inside = Inside { node: node.clone(), acknowledges, thread: None, end: end.clone() };
        state.inside.insert(number, inside);
        Some(Ticket { number, end })
    }

    /// The database's number of a standby's connection is known.
    pub(super) fn connected(&self, ticket: &Ticket, thread: u64) {
        if let Some(inside) = self.state().inside.get_mut(&ticket.number) {
            inside.thread = Some(thread);
        }
        self.moved.send_modify(|n| *n += 1);
    }

    /// A standby has left.
    pub(super) fn leave(&self, ticket: &Ticket) {
        self.state().inside.remove(&ticket.number);
        self.moved.send_modify(|n| *n += 1);
    }

    /// From now on the acknowledgements of these count, and nobody else's. Returns once the others have left, with the
    /// database's numbers of their connections.
    pub(super) async fn count(&self, counted: BTreeSet<NodeName>) -> Vec<u64> {
        let mut moved = self.moved.subscribe();
        let (going, threads): (BTreeSet<u64>, Vec<u64>) = {
            let state = self.state();
            let going = state.inside.iter().filter(|(_, i)| i.acknowledges && !counted.contains(&i.node));
            let going: Vec<_> = going.inspect(|(_, i)| i.end.cancel()).collect();
            self.counted.send_if_modified(|now| {
                let changed = *now != counted;
                *now = counted;
                changed
            });
            (going.iter().map(|(n, _)| **n).collect(), going.iter().filter_map(|(_, i)| i.thread).collect())
        };
        let gone = |state: &State| going.iter().all(|n| !state.inside.contains_key(n));
        let _ = moved.wait_for(|_| gone(&self.state())).await;
        threads
    }

    /// Whose acknowledgements count, as it changes.
    pub(super) fn counted(&self) -> watch::Receiver<BTreeSet<NodeName>> {
        self.counted.subscribe()
    }

    /// Changes when somebody has come to the database, or left.
    pub(super) fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Is there a standby, connected to the database, whose acknowledgements count?
    pub(super) fn is_acknowledged(&self) -> bool {
        self.state().inside.values().any(|i| i.acknowledges && i.thread.is_some())
    }

    /// Has a standby whose acknowledgements count received up to `end`?
    pub(super) fn is_received(&self, end: u64, now: Moment) -> bool {
        let state = self.state();
        let has = |node: &NodeName| {
            state.heard.get(node).is_some_and(|(p, at)| p.received >= end && p.streaming && now.since(*at) < HEARD)
        };
        state.inside.values().any(|i| i.acknowledges && i.thread.is_some() && has(&i.node))
    }

    /// A standby has said how far it is.
    pub(super) fn heard(&self, node: &NodeName, progress: Progress, now: Moment) {
        let mut state = self.state();
        if state.open.is_some() {
            state.heard.insert(node.clone(), (progress, now));
        }
    }

    /// Nothing is heard of it any more.
    pub(super) fn unheard(&self, node: &NodeName) {
        self.state().heard.remove(node);
    }

    /// The standbys that take the log.
    pub(super) fn standbys(&self, now: Moment) -> BTreeMap<NodeName, StandbySeen> {
        let state = self.state();
        let there = state.heard.iter().filter(|(node, (progress, at))| {
            progress.streaming && now.since(*at) < HEARD && state.inside.values().any(|i| i.node == **node)
        });
        there
            .map(|(node, (progress, _))| {
                let seen = StandbySeen {
                    streaming: true,
                    flushed: Some(progress.received),
                    replayed: Some(progress.applied),
                    replay_lag: None,
                };
                (node.clone(), seen)
            })
            .collect()
    }
}

/// A ticket that is given back whatever happens.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) ticket: Ticket,
    pub(super) engine: Arc<super::state::Mysql>,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.engine.gate.leave(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn set(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|n| node(n)).collect()
    }

    #[tokio::test]
    async fn only_standbys_of_the_rule_acknowledge() {
        let gate = Gate::default();
        assert!(gate.enter(&node("n2"), Epoch(5), false).is_none(), "closed");
        gate.open(Epoch(5));
        assert!(gate.enter(&node("n2"), Epoch(4), false).is_none(), "another epoch");
        assert!(gate.enter(&node("n2"), Epoch(5), true).is_none(), "it does not count yet");
        assert!(gate.enter(&node("n2"), Epoch(5), false).is_some());
        assert!(gate.count(set(&["n2"])).await.is_empty());
        assert!(gate.enter(&node("n2"), Epoch(5), true).is_some());
        gate.close();
        assert!(gate.enter(&node("n2"), Epoch(5), true).is_none());
        gate.open(Epoch(6));
        assert!(gate.enter(&node("n2"), Epoch(6), true).is_none(), "the rule of an earlier epoch is forgotten");
    }

    /// The rule has changed only when nobody is inside any more who counted by the one before.
    #[tokio::test]
    async fn a_change_waits_until_the_others_have_left() {
        let gate = Gate::default();
        gate.open(Epoch(5));
        gate.count(set(&["n2", "n3"])).await;
        let two = gate.enter(&node("n2"), Epoch(5), true).unwrap();
        let three = gate.enter(&node("n3"), Epoch(5), true).unwrap();
        assert!(!gate.is_acknowledged(), "the database has no connection of either");
        gate.connected(&three, 17);
        assert!(gate.is_acknowledged());
        let (now, later) = (Moment::from_nanos(1_000_000_000), Moment::from_nanos(3_000_000_000));
        gate.heard(&node("n2"), Progress { received: 9, applied: 9, streaming: true }, now);
        assert!(!gate.is_received(9, now), "the database has no connection of n2");
        gate.heard(&node("n3"), Progress { received: 8, applied: 7, streaming: true }, now);
        assert!(gate.is_received(8, now) && !gate.is_received(9, now) && !gate.is_received(8, later));
        let change = gate.count(set(&["n2"]));
        tokio::pin!(change);
        assert!(futures::poll!(&mut change).is_pending());
        assert!(three.end.is_cancelled() && !two.end.is_cancelled());
        gate.leave(&three);
        assert_eq!(change.await, [17]);
    }
}
