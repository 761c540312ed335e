//! The controller's side: takes every node's account while this node leads consensus, decides, proposes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use trine_platform::Clock;
use trine_protocol::{Controller, Heard, Moment, NodeName, Outcome};

use crate::digest::{Account, Digest};
use crate::node::Node;

/// How often it looks at the state when no account comes in.
const LOOK: Duration = Duration::from_millis(100);

/// An account older than this is of a node that is not heard any more.
const HEARD: Duration = Duration::from_millis(1500);

/// The latest account of each node. Only the controller's node has any.
#[derive(Debug)]
pub(crate) struct Bureau {
    me: NodeName,
    clock: Arc<dyn Clock>,
    accounts: Mutex<BTreeMap<NodeName, (Account, Moment)>>,
    news: Notify,
}

impl Bureau {
    pub(crate) fn new(me: NodeName, clock: Arc<dyn Clock>) -> Self {
        Self { me, clock, accounts: Mutex::default(), news: Notify::new() }
    }

    /// Takes a node's account and gives it everybody's.
    pub(crate) fn take(&self, from: NodeName, account: Account) -> Digest {
        let now = self.clock.now();
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.insert(from, (account, now));
        let heard = accounts.iter().filter(|(_, (_, at))| now.since(*at) < HEARD);
        let digest = Digest {
            from: Some(self.me.clone()),
            accounts: heard.map(|(n, (a, _))| (n.clone(), a.clone())).collect(),
            at: None,
        };
        drop(accounts);
        self.news.notify_one();
        digest
    }

    fn heard(&self) -> BTreeMap<NodeName, Heard> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let heard =
            |(n, (a, at)): (&NodeName, &(Account, Moment))| (n.clone(), Heard { report: a.report.clone(), at: *at });
        accounts.iter().map(heard).collect()
    }

    fn forget(&self) {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Decides for ever, while this node leads consensus.
pub(crate) async fn keep_controlling(node: Arc<Node>) {
    let mut leader = node.consensus.leader();
    let mut state = node.consensus.state();
    loop {
        if leader.borrow_and_update().as_ref() != Some(node.me()) {
            node.bureau.forget();
            if leader.changed().await.is_err() {
                return;
            }
            continue;
        }
        tracing::info!("this node leads consensus: it controls the cluster");
        node.tell.notify_one();
        let mut controller = Controller::default();
        let mut beat = interval(LOOK);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while leader.borrow().as_ref() == Some(node.me()) {
            tokio::select! {
                _ = beat.tick() => {}
                () = node.bureau.news.notified() => {}
                _ = state.changed() => {}
                _ = leader.changed() => {}
            }
            let now_state = state.borrow_and_update().clone();
            for change in controller.step(&now_state, &node.bureau.heard(), node.clock.now()) {
                tracing::info!(?change, "proposing");
                if let Some(Outcome::Refused(why)) = node.propose(change).await {
                    tracing::debug!(why, "refused: the state has moved on");
                }
            }
        }
    }
}
