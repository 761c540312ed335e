//! The keeper of the database: brings it to the node's goal, again and again.
//!
//! It is level-triggered: every turn begins with the whole state, and a turn under way is dropped when the goal changes.
//! Whatever a turn was doing can be begun again (see [`trine_engine::Engine`]).

mod follow;
mod lead;
mod seal;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use trine_engine::{EngineError, Process};
use trine_protocol::{Epoch, Goal, Mandate, NodeName, Standing, mandate};
use trine_transport::CallError;

use crate::node::Node;

/// How soon a turn that failed is tried again.
const AGAIN: Duration = Duration::from_millis(250);

/// How long consensus may take to answer.
const READ: Duration = Duration::from_secs(2);

/// How soon a turn that waits for another node looks again.
const SOON: Duration = Duration::from_millis(40);

/// What a turn has come to.
enum Turn {
    /// The goal is reached: look again when something changes. What it waits for, in words, if for anything.
    ///
    /// Not noted by the turn itself: a turn that changes what the next one finds would never rest.
    Reached(Option<&'static str>),
    /// Something else has to happen first: look again soon.
    Soon,
}

/// Why a turn failed.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("{what}: {}", source.chain())]
    Engine { what: &'static str, source: EngineError },
    #[error("can't ask {node} for the history of its log")]
    History { node: NodeName, source: CallError },
    #[error("can't keep the promise")]
    Promise(#[from] trine_platform::DiskError),
    #[error("{0} has no address in trine.toml")]
    UnknownNode(NodeName),
}

fn engine(what: &'static str) -> impl FnOnce(EngineError) -> KeeperError {
    move |source| KeeperError::Engine { what, source }
}

/// Keeps the database for ever.
pub(crate) async fn keep_database(node: Arc<Node>) {
    recall(&node).await;
    let mut changes = Changes::of(&node);
    loop {
        changes.seen();
        let goal = node.goal();
        let turn = tokio::select! {
            turn = take_turn(&node, &goal) => turn,
            () = changes.until_goal_is_not(&node, &goal) => {
                tracing::debug!(?goal, "dropped: there is another goal");
                continue;
            }
        };
        let pause = match turn {
            Ok(Turn::Reached(waits_for)) => {
                node.note(|d| {
                    d.work = waits_for;
                    d.problem = None;
                });
                None
            }
            Ok(Turn::Soon) => Some(SOON),
            Err(error) => {
                let text = error_chain(&error);
                tracing::warn!(?goal, error = text, "could not reach the goal; trying again");
                node.note(|d| d.problem = Some(text));
                Some(AGAIN)
            }
        };
        match pause {
            Some(pause) => {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = changes.until_goal_is_not(&node, &goal) => {}
                }
            }
            None => changes.any().await,
        }
    }
}

/// A node whose disk has no promise may have been wiped: it neither seals nor follows nor grants a lease before consensus
/// has said what it may have promised.
async fn recall(node: &Node) {
    while !node.desk.remembers() {
        node.note(|d| d.work = Some("asking consensus what it may have promised"));
        let found = node.consensus.read(READ).await;
        match found {
            // An empty state is nobody's: the cluster has not been created yet, or this node has not joined.
            Ok(state) if !state.members.is_empty() => match node.desk.recall(state.epoch).await {
                Ok(()) => tracing::info!(epoch = %state.epoch, "no promise was on the disk: this epoch is promised"),
                Err(error) => {
                    let text = error_chain(&error);
                    tracing::error!(error = text, "the promise can't be written");
                    node.note(|d| d.problem = Some(text));
                    tokio::time::sleep(AGAIN).await;
                }
            },
            _ => tokio::time::sleep(SOON).await,
        }
    }
}

async fn take_turn(node: &Arc<Node>, goal: &Goal) -> Result<Turn, KeeperError> {
    match goal {
        Goal::Rest(why) => Ok(Turn::Reached(Some(why))),
        Goal::Bootstrap => {
            // A seed that lost its data may have an old view: only what consensus says now makes an empty copy the first.
            let state = match node.consensus.read(READ).await {
                Ok(state) => state,
                Err(error) => {
                    tracing::info!(%error, "the first copy waits for consensus");
                    return Ok(Turn::Soon);
                }
            };
            if !state.is_virgin() {
                return Ok(Turn::Soon);
            }
            node.note(|d| d.work = Some("making the first copy"));
            node.engine.bootstrap().await.map_err(engine("can't make the first copy"))?;
            node.inspect().await;
            Ok(Turn::Soon)
        }
        Goal::Seal { epoch } => seal::seal(node, *epoch).await,
        Goal::Lead { epoch, sync, rule, barrier, leave, least } => {
            match mandate(*epoch, *least, *leave, standing(node, *epoch)) {
                // The epoch that follows will say what to do.
                Mandate::Over => Ok(Turn::Reached(None)),
                Mandate::Promote if !lead::promote(node, *epoch, sync).await => Ok(Turn::Soon),
                Mandate::Promote | Mandate::Lead => lead::lead(node, *epoch, sync, rule, *barrier).await,
                Mandate::Leave => lead::leave(node, *epoch).await,
                Mandate::GiveUp(why) => {
                    lead::give_up(node, *epoch, &why);
                    Ok(Turn::Reached(None))
                }
            }
        }
        Goal::Follow { epoch, primary, repair } => follow::follow(node, *epoch, primary, *repair).await,
    }
}

/// What this process has come to in `epoch`.
fn standing(node: &Node, epoch: Epoch) -> Standing {
    let doing = node.doing.borrow();
    // A database that is a primary already, of whatever epoch, is no sealed one.
    let sealed = doing.sealed.filter(|_| node.serving.epoch().is_none());
    let failed = doing.failed.as_ref().map(|(failed, _)| *failed);
    let over = [failed, doing.yielded].into_iter().flatten().find(|e| *e == epoch);
    Standing { sealed, leading: doing.leading, over }
}

/// An error and what is behind it, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(e) = inner {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        inner = e.source();
    }
    text
}

/// Everything that a goal, or a turn's outcome, can depend on.
struct Changes {
    state: watch::Receiver<Arc<trine_protocol::ClusterState>>,
    promises: watch::Receiver<trine_protocol::Epoch>,
    looks: watch::Receiver<trine_engine::Inspection>,
    doing: watch::Receiver<crate::node::Doing>,
    process: watch::Receiver<Process>,
}

impl Changes {
    fn of(node: &Node) -> Self {
        Self {
            state: node.consensus.state(),
            promises: node.desk.promises(),
            looks: node.seen.subscribe(),
            doing: node.doing.subscribe(),
            process: node.engine.process(),
        }
    }

    /// What is there now is no change any more.
    fn seen(&mut self) {
        self.state.borrow_and_update();
        self.promises.borrow_and_update();
        self.looks.borrow_and_update();
        self.doing.borrow_and_update();
        self.process.borrow_and_update();
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.state.changed() => {}
            _ = self.promises.changed() => {}
            _ = self.looks.changed() => {}
            _ = self.doing.changed() => {}
            _ = self.process.changed() => {}
        }
    }

    async fn until_goal_is_not(&mut self, node: &Node, goal: &Goal) {
        while node.goal() == *goal {
            self.any().await;
        }
    }
}
