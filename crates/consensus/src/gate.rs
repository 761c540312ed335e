//! Lets openraft call an election only when a majority of the voters, this node among them, hears no leader.
//!
//! Without it a voter that was cut off comes back with a high term, and makes a healthy leader step down; and it writes a vote
//! to its disk for every election that it calls in vain. openraft 0.9 has no such check of its own. The question binds nobody:
//! what elects a leader is openraft's votes alone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;
use trine_protocol::NodeName;
use trine_transport::Peers;

use crate::messages::{HELLO, Hello};
use crate::observer::Signals;
use crate::types::{Raft, Standing, name_of};

/// When the leader was last heard here.
#[derive(Clone, Debug)]
pub(crate) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    /// As if it were heard now: a node that starts gives the leader time to speak.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(50);

/// For one voter's answer: it only looks at its memory.
const ANSWER: Duration = Duration::from_millis(150);

pub(crate) struct Gate {
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<Peers>,
    pub(crate) id: u64,
    pub(crate) me: NodeName,
    pub(crate) heard: Heard,
    pub(crate) signals: Signals,
    /// A leader that has not been heard for so long is silent. Less than openraft waits before it elects.
    pub(crate) silence: Duration,
}

impl Gate {
    /// Until consensus ends.
    pub(crate) async fn run(self) {
        let mut standing = self.signals.standing.subscribe();
        loop {
            if matches!(*standing.borrow_and_update(), Standing::Replaced | Standing::Failed(_)) {
                self.raft.runtime_config().elect(false);
                return;
            }
            let silent_at = self.heard.last() + self.silence;
            if Instant::now() < silent_at {
                self.raft.runtime_config().elect(false);
                sleep_until(silent_at).await;
                continue;
            }
            // A leader hears no leader either, and openraft asks no election of it.
            let leads = self.signals.leader.borrow().as_ref() == Some(&self.me);
            self.raft.runtime_config().elect(!leads && self.majority_is_without_leader().await);
            sleep(PAUSE).await;
        }
    }

    async fn majority_is_without_leader(&self) -> bool {
        let (configs, names) = {
            let metrics = self.raft.metrics();
            let m = metrics.borrow();
            let group = &m.membership_config;
            let configs: Vec<BTreeSet<u64>> = group.membership().get_joint_config().clone();
            let others = group.voter_ids().filter(|id| *id != self.id);
            (configs, others.filter_map(|id| name_of(group, id).map(|n| (id, n))).collect::<Vec<_>>())
        };
        let mut without = BTreeSet::from([self.id]);
        let enough = |without: &BTreeSet<u64>| {
            !configs.is_empty() && configs.iter().all(|c| c.intersection(without).count() * 2 > c.len())
        };
        let mut asked = JoinSet::new();
        for (id, name) in names {
            let peers = self.peers.clone();
            asked.spawn(async move { (id, peers.call::<_, Hello>(&name, HELLO, &(), ANSWER).await) });
        }
        while !enough(&without) {
            match asked.join_next().await {
                Some(Ok((id, Ok(hello)))) if hello.id == id && hello.no_leader => {
                    without.insert(id);
                }
                Some(_) => {}
                None => break,
            }
        }
        let enough = enough(&without);
        debug!(hear_none = without.len(), enough, "no leader is heard");
        enough
    }
}
