//! Turns openraft's metrics into what others watch.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::Fatal;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info};
use trine_protocol::NodeName;

use crate::gate::Heard;
use crate::members::Members;
use crate::store::Store;
use crate::types::{Metrics, Raft, Standing, name_of};

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    pub(crate) leader: watch::Sender<Option<NodeName>>,
    pub(crate) standing: watch::Sender<Standing>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self { leader: watch::Sender::new(None), standing: watch::Sender::new(Standing::Joining) }
    }
}

pub(crate) struct Observer {
    pub(crate) raft: Raft,
    pub(crate) id: u64,
    pub(crate) me: NodeName,
    pub(crate) store: Arc<Store>,
    pub(crate) members: Arc<Members>,
    pub(crate) signals: Signals,
    pub(crate) was_voter: watch::Sender<bool>,
    pub(crate) heard: Heard,
    /// A leader that has not heard from a majority for so long is none, and neither is one that is not heard.
    pub(crate) patience: Duration,
}

impl Observer {
    /// Until consensus ends.
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.metrics();
        let mut told = Instant::now();
        loop {
            let (leader, standing, votes, ended) = {
                let m = metrics.borrow_and_update();
                let votes = m.membership_config.voter_ids().any(|id| id == self.id);
                (self.leader(&m, told.elapsed()), self.standing(&m), votes, m.running_state.is_err())
            };
            self.show(leader, standing);
            if ended {
                return;
            }
            if votes && !*self.was_voter.borrow() {
                self.note_vote().await;
            }
            // openraft tells something with every heartbeat. One that waits for a disk that hangs tells nothing.
            match timeout(self.patience, metrics.changed()).await {
                Ok(Ok(())) => told = Instant::now(),
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }

    /// Who leads, from what openraft told `ago`.
    fn leader(&self, m: &Metrics, ago: Duration) -> Option<NodeName> {
        m.running_state.as_ref().ok()?;
        let leader = m.current_leader?;
        let name = if leader == self.id { Some(self.me.clone()) } else { name_of(&m.membership_config, leader) };
        if leader == self.id && m.membership_config.voter_ids().count() == 1 {
            return name;
        }
        // One that is cut off learns of its successor only when the cut heals.
        let since = match leader == self.id {
            true => m.millis_since_quorum_ack.map(|ms| Duration::from_millis(ms) + ago),
            false => Some(self.heard.last().elapsed()),
        };
        name.filter(|_| since.is_some_and(|since| since <= self.patience))
    }

    fn standing(&self, m: &Metrics) -> Standing {
        match &m.running_state {
            Err(Fatal::Stopped) => return Standing::Failed("it was shut down".to_owned()),
            Err(fatal) => return Standing::Failed(fatal.to_string()),
            Ok(()) => {}
        }
        let group = m.membership_config.membership();
        let configs = group.get_joint_config();
        // In every one: while it is being taken in, the group still needs a majority without it.
        if !configs.is_empty() && configs.iter().all(|c| c.contains(&self.id)) {
            Standing::Voter
        } else if group.get_node(&self.id).is_some() {
            Standing::Learner
        } else {
            Standing::Joining
        }
    }

    fn show(&self, leader: Option<NodeName>, standing: Standing) {
        let mut gained = false;
        self.signals.leader.send_if_modified(|old| {
            let changed = *old != leader;
            if changed {
                debug!(?leader, "the leader of consensus");
                gained = leader.as_ref() == Some(&self.me);
                *old = leader;
            }
            changed
        });
        self.signals.standing.send_if_modified(|old| {
            // Nothing but a wiped state makes up for having been replaced.
            let changed = *old != standing && *old != Standing::Replaced;
            if changed {
                match &standing {
                    Standing::Failed(reason) => error!(%reason, "consensus has stopped on this node"),
                    _ => info!(?standing, id = self.id, "this node's part in consensus"),
                }
                *old = standing;
            }
            changed
        });
        if gained {
            let members = self.members.clone();
            tokio::spawn(async move { members.settle().await });
        }
    }

    /// Keeps for good that this id has been a voter. The entry that made it one need not be committed: the one that made it a
    /// member was, so a later leader that does not know the id at all has seen it removed.
    async fn note_vote(&self) {
        match self.store.run(Store::save_was_voter).await {
            Ok(()) => {
                self.was_voter.send_replace(true);
            }
            Err(error) => error!(%error, "can't note that this node is a voter"),
        }
    }
}
