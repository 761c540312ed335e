//! Keeps this node in the group: joins it, and notices when it has been put out of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error};
use trine_protocol::NodeName;
use trine_transport::Peers;

use crate::gate::Heard;
use crate::messages::{JOIN, Join, Joined};
use crate::observer::Signals;
use crate::types::{Raft, Standing};

/// A voter that has had no leader for so long asks whether it still is one.
const ALONE: Duration = Duration::from_secs(2);

/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(200);

/// For one peer's answer. The leader may watch for two seconds how this node catches up.
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) struct Keeper {
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<Peers>,
    pub(crate) id: u64,
    pub(crate) me: NodeName,
    pub(crate) voter: bool,
    pub(crate) was_voter: watch::Receiver<bool>,
    pub(crate) signals: Signals,
    pub(crate) heard: Heard,
}

impl Keeper {
    /// Until this node can't be in the group any more.
    pub(crate) async fn run(self) {
        let mut standing = self.signals.standing.subscribe();
        loop {
            if self.is_settled(&standing.borrow()) {
                tokio::select! {
                    left = standing.wait_for(|s| !self.is_settled(s)) => if left.is_err() { return },
                    () = self.alone() => {}
                }
            }
            if matches!(*standing.borrow(), Standing::Replaced | Standing::Failed(_)) {
                return;
            }
            match self.ask().await {
                Some(Joined::Done) => {
                    // Its own log says so a moment later.
                    let _ = timeout(ALONE, standing.wait_for(|s| self.is_settled(s))).await;
                }
                Some(Joined::Replaced) => {
                    error!(
                        id = self.id,
                        "this node has been removed from consensus, or another one has taken its name; it never votes again \
                         under this id: run `trine node replace {}` on a healthy node if it is to come back",
                        self.me
                    );
                    self.raft.runtime_config().elect(false);
                    self.signals.standing.send_replace(Standing::Replaced);
                    return;
                }
                Some(Joined::NotYet) | None => {}
            }
            sleep(PAUSE).await;
        }
    }

    fn is_settled(&self, standing: &Standing) -> bool {
        match standing {
            Standing::Voter => true,
            Standing::Learner => !self.voter,
            Standing::Joining | Standing::Replaced | Standing::Failed(_) => false,
        }
    }

    /// Asks one after the other until the leader answers.
    async fn ask(&self) -> Option<Joined> {
        let was_voter = *self.was_voter.borrow() || *self.signals.standing.borrow() == Standing::Voter;
        let join = Join { id: self.id, name: self.me.clone(), voter: self.voter, was_voter };
        let mut names = self.peers.names();
        let leader = self.signals.leader.borrow().clone();
        names.sort_by_key(|n| Some(n) != leader.as_ref());
        for name in names.iter().filter(|n| **n != self.me) {
            match self.peers.call::<_, Joined>(name, JOIN, &join, ANSWER).await {
                Ok(joined) => return Some(joined),
                Err(error) => debug!(peer = %name, %error, "asked to be in the group"),
            }
        }
        None
    }

    /// Returns once no leader has been heard for [`ALONE`].
    async fn alone(&self) {
        loop {
            let leads = self.signals.leader.borrow().as_ref() == Some(&self.me);
            let until = if leads { Instant::now() } else { self.heard.last() } + ALONE;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}
