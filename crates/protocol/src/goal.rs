//! What a node does about the replicated state.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::command::{Durability, Wish};
use crate::controller::NOT_OPEN;
use crate::report::{Copy, Repair};
use crate::state::ClusterState;
use crate::{Epoch, Moment, NodeName, Position, SyncRule};

/// What a node should be doing. It is a function of the state alone, so the first run, the retry after a crash and the
/// repair are one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing to run: there is no cluster yet, or no copy and nobody to copy from.
    Rest(&'static str),
    /// Make the first copy.
    Bootstrap,
    /// Promise the epoch, cut replication, report how far the data reaches.
    Seal {
        /// The promise.
        epoch: Epoch,
    },
    /// Be the epoch's primary.
    Lead {
        /// Which epoch.
        epoch: Epoch,
        /// What the engine must wait for.
        sync: SyncSetting,
        /// The rule that this setting stands for.
        rule: SyncRule,
        /// A barrier has to pass: to open, or because the rule changes. It begins after the engine has taken over
        /// `sync`; one that was under way before proves nothing about it.
        barrier: bool,
        /// Drain and stop: a switchover has begun.
        leave: bool,
        /// What it said to have when it was elected. A node that has started anew since, and comes back with less, must not
        /// be promoted: what is missing may have been acknowledged.
        least: Position,
    },
    /// Follow the epoch's primary. Its promise comes first, as in a seal: a node that has followed an epoch and starts again
    /// with an older view of the state must neither follow an older primary nor repair its copy to suit one.
    Follow {
        /// Which epoch.
        epoch: Epoch,
        /// Whom.
        primary: NodeName,
        /// The repair that may be done on the way. While a rebuild runs the old copy takes nothing more: what it
        /// acknowledged after the new copy was read would be gone when the new one takes its place.
        repair: Option<Repair>,
    },
}

/// The engine's part of a sync rule: what a commit waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncSetting {
    /// For ever: nobody can acknowledge. How a database starts.
    Wait,
    /// For the primary's own disk.
    Alone,
    /// Until `acks` of `standbys` have it durably.
    Any {
        /// How many, at least 1.
        acks: usize,
        /// Of whom.
        standbys: BTreeSet<NodeName>,
    },
}

/// What of a node's own condition its goal depends on.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Its newest promise.
    pub promised: Epoch,
    /// Its copy.
    pub data: Copy,
    /// What the copy needs.
    pub needs: Option<Repair>,
}

/// What `me` should be doing.
#[must_use]
pub fn goal(state: &ClusterState, me: &NodeName, condition: Condition) -> Goal {
    if !state.members.contains_key(me) {
        return Goal::Rest("no member of a cluster yet");
    }
    if condition.promised > state.epoch {
        // It has promised an epoch that it has not heard the end of.
        return Goal::Seal { epoch: condition.promised };
    }
    let Some(held) = state.held() else {
        if state.is_virgin() && state.seed.as_ref() == Some(me) && condition.data == Copy::Missing {
            return Goal::Bootstrap;
        }
        return Goal::Seal { epoch: state.epoch };
    };
    if held.primary == *me {
        let rule = held.target().clone();
        return Goal::Lead {
            epoch: state.epoch,
            sync: sync_setting(state, &rule),
            barrier: !held.opened || !held.pending.is_empty(),
            rule,
            leave: held.leaving.is_some(),
            least: held.elected_at,
        };
    }
    Goal::Follow { epoch: state.epoch, primary: held.primary.clone(), repair: repair(state, me, condition) }
}

/// What the engine must wait for under a rule.
#[must_use]
pub fn sync_setting(state: &ClusterState, rule: &SyncRule) -> SyncSetting {
    if !rule.standbys.is_empty() {
        return SyncSetting::Any { acks: rule.acks, standbys: rule.standbys.clone() };
    }
    match state.settings.durability {
        Durability::Available => SyncSetting::Alone,
        Durability::Strict if state.settings.acks == 0 => SyncSetting::Alone,
        Durability::Strict => SyncSetting::Wait,
    }
}

/// The repair that a copy may undergo now.
///
/// A rewind works in place, so the copy proves nothing until it is done: only when no rule in force names this node. A
/// rebuild goes into a fresh directory beside the old copy, which counts until the new one is complete.
fn repair(state: &ClusterState, me: &NodeName, condition: Condition) -> Option<Repair> {
    let asked = matches!(&state.wish, Some((_, Wish::Rebuild { node })) if node == me);
    if asked || condition.data == Copy::Missing {
        // A person asked, or there is nothing to lose: a pause does not stop that.
        return Some(Repair::Rebuild);
    }
    if state.paused.is_some() {
        return None;
    }
    if condition.data == Copy::Incomplete {
        return Some(Repair::Rebuild);
    }
    let named = state.rules_in_force().iter().any(|r| r.nodes().any(|n| n == me));
    match condition.needs? {
        Repair::Rewind if named => {
            // The barrier that would let go of it waits for this very copy: nothing else is left to acknowledge.
            let stuck = state.held().is_some_and(|h| !h.opened) && state.alarms.contains_key(NOT_OPEN);
            stuck.then_some(Repair::Rebuild)
        }
        needed => Some(needed),
    }
}

/// Why a database that runs as the primary of `serving` must stop at once, if it must.
#[must_use]
pub fn must_fence(
    state: &ClusterState,
    me: &NodeName,
    promised: Epoch,
    serving: Epoch,
    lease_until: Option<Moment>,
    now: Moment,
) -> Option<String> {
    if promised > serving {
        return Some(format!("epoch {promised} is promised, and it is the primary of epoch {serving}"));
    }
    if state.epoch > serving {
        return Some(format!("epoch {} has begun, and it is the primary of epoch {serving}", state.epoch));
    }
    if state.epoch == serving && state.held().is_some_and(|h| h.primary != *me) {
        return Some(format!("another node is the primary of epoch {serving}"));
    }
    match lease_until {
        Some(until) if now < until => None,
        Some(until) => Some(format!("its lease ran out {} ms ago", now.since(until).as_millis())),
        None => Some("it holds no lease".to_owned()),
    }
}
