//! What the tasks of one agent share.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use trine_consensus::Consensus;
use trine_endpoint::Endpoint;
use trine_engine::{DataCopy, Engine, Inspection, Progress};
use trine_platform::Clock;
use trine_protocol::{
    Change, ClusterState, Command, Condition, Copy, Epoch, EventKind, Evidence, Goal, Moment, NodeName, Outcome,
    Position, Repair, goal,
};
use trine_transport::Peers;

use crate::bureau::Bureau;
use crate::config::{Config, Secrets};
use crate::desk::Desk;
use crate::digest::Digest;
use crate::generation::Restart;
use crate::known::Known;
use crate::routes::Routes;
use crate::serving::Serving;

/// How long a proposal may take before it is given up; whoever proposed it looks at the state again anyway.
const PROPOSE: Duration = Duration::from_secs(3);

/// One node: what its tasks share. Each task has its own file.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) secrets: Secrets,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) consensus: Arc<dyn Consensus>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) desk: Desk,
    pub(crate) serving: Arc<Serving>,
    /// The controller's desk, in use while this node leads consensus.
    pub(crate) bureau: Bureau,
    /// Where the endpoints lead.
    pub(crate) routes: Routes,
    /// The writer endpoint, once it is open.
    pub(crate) writer: OnceLock<Endpoint>,
    /// Until when a majority has granted the lease of which epoch.
    pub(crate) leases: watch::Sender<Option<(Epoch, Moment)>>,
    /// The latest look at the database.
    pub(crate) seen: watch::Sender<Inspection>,
    /// When the database was last seen to stream; not since it was a primary.
    pub(crate) streamed: watch::Sender<Option<Moment>>,
    /// The nodes whose databases its own reaches; asked while it follows and does not stream.
    pub(crate) reaches: watch::Sender<BTreeSet<NodeName>>,
    /// What the keeper has come to.
    pub(crate) doing: watch::Sender<Doing>,
    /// What the controller last told of all nodes.
    pub(crate) digest: watch::Sender<Digest>,
    /// How far the data was ever told to reach.
    pub(crate) known: Mutex<Known>,
    /// Where the copy under way stands.
    pub(crate) progress: watch::Sender<Progress>,
    /// The latest comparison of the copies' content that this node has led.
    pub(crate) verification: watch::Sender<Option<trine_api::Verification>>,
    /// Compare the copies' content now.
    pub(crate) verify: Notify,
    /// The agent has to start anew.
    pub(crate) restart: watch::Sender<Option<Restart>>,
    /// Look at the database now.
    pub(crate) look: Notify,
    /// Tell the controller now.
    pub(crate) tell: Notify,
}

/// What the keeper of the database has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doing {
    /// The epoch that it has sealed, and how far the data reaches, once that may be read.
    pub(crate) sealed: Option<(Epoch, Option<Position>)>,
    /// The epoch whose primary's log it takes.
    pub(crate) following: Option<Epoch>,
    /// The epoch that it leads: promoted, and not fenced since.
    pub(crate) leading: Option<Epoch>,
    /// The epoch that it can't lead, and why.
    pub(crate) failed: Option<(Epoch, String)>,
    /// The epoch that it has stopped leading for a switchover.
    pub(crate) yielded: Option<Epoch>,
    /// What its copy needs.
    pub(crate) needs: Option<Repair>,
    /// How often in a row the database did not start on its copy.
    pub(crate) start_failures: u32,
    /// In words, for people; `None`: nothing in particular.
    pub(crate) work: Option<&'static str>,
    /// What went wrong last.
    pub(crate) problem: Option<String>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.config.node).finish_non_exhaustive()
    }
}

impl Node {
    /// This node's name.
    pub(crate) fn me(&self) -> &NodeName {
        &self.config.node
    }

    /// How far the data was ever told to reach.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replicated state as applied here.
    pub(crate) fn state(&self) -> Arc<ClusterState> {
        self.consensus.state().borrow().clone()
    }

    /// What this node should be doing.
    pub(crate) fn goal(&self) -> Goal {
        let condition = Condition {
            promised: self.desk.promised(),
            data: copy_of(&self.seen.borrow()),
            needs: self.doing.borrow().needs,
        };
        goal(&self.state(), self.me(), condition)
    }

    /// Changes what the keeper has come to, and tells the controller if that is news.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Doing)) {
        let news = self.doing.send_if_modified(|doing| {
            let before = doing.clone();
            change(doing);
            *doing != before
        });
        if news {
            self.tell.notify_one();
        }
    }

    /// Looks at the database now, and tells the others what tasks see.
    pub(crate) async fn inspect(&self) -> Inspection {
        let seen = self.engine.inspect().await;
        if seen.streaming {
            self.streamed.send_replace(Some(self.clock.now()));
        }
        self.seen.send_if_modified(|old| {
            let news = old.copy != seen.copy
                || old.process != seen.process
                || old.role != seen.role
                || old.streaming != seen.streaming
                || old.rewind_ready != seen.rewind_ready;
            *old = seen.clone();
            if news {
                self.tell.notify_one();
            }
            news
        });
        seen
    }

    /// A command of this node.
    pub(crate) fn command(&self, change: Change) -> Command {
        let at_ms = u64::try_from(self.clock.wall().as_millis()).unwrap_or(u64::MAX);
        Command { by: self.me().clone(), at_ms, change }
    }

    /// Proposes a change. A refusal is an answer; no answer is `None`, and the change may or may not have happened.
    pub(crate) async fn propose(&self, change: Change) -> Option<Outcome> {
        match self.consensus.propose(self.command(change), PROPOSE).await {
            Ok(outcome) => Some(outcome),
            Err(error) => {
                tracing::warn!(%error, "a proposal got no answer; it is looked at again");
                None
            }
        }
    }

    /// Leaves an event behind.
    pub(crate) async fn event(&self, kind: EventKind, text: String, evidence: Evidence) {
        let _ = self.propose(Change::Tell { kind, text, evidence }).await;
    }

    /// As [`event`](Self::event), also when whoever has it to tell is ended by what it tells of: with a goal that is reached
    /// the work for it ends, at whatever it waits for.
    pub(crate) fn event_anyway(self: &Arc<Self>, kind: EventKind, text: String, evidence: Evidence) {
        let node = Arc::clone(self);
        tokio::spawn(async move { node.event(kind, text, evidence).await });
    }
}

/// The copy as the rules see it.
pub(crate) fn copy_of(seen: &Inspection) -> Copy {
    match seen.copy {
        DataCopy::Missing => Copy::Missing,
        DataCopy::Incomplete(_) => Copy::Incomplete,
        DataCopy::Complete => Copy::Complete,
    }
}
