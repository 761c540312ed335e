//! Following: take the primary's log, or be repaired until that is possible.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use trine_engine::{EngineError, Followed, History, Process, Role, Upstream};
use trine_protocol::{Change, ClusterState, Copy, Epoch, EventKind, Evidence, NodeName, Repair, Wish};

use super::{KeeperError, Turn, engine};
use crate::lease::{fence, wait_stopped};
use crate::node::{Node, copy_of};
use crate::service::LogOf;

/// How long a primary may take to tell its log's history.
const HISTORY: Duration = Duration::from_millis(500);

/// After so many starts in a row that failed, the copy is held to be broken.
const BROKEN: u32 = 5;

pub(super) async fn follow(
    node: &Arc<Node>,
    epoch: Epoch,
    primary: &NodeName,
    repair: Option<Repair>,
) -> Result<Turn, KeeperError> {
    // Whoever takes a primary's log takes no older one's any more, nor renews its lease: whatever it knows after a restart.
    node.desk.promise(epoch).await?;
    if let Some(serving) = node.serving.epoch() {
        fence(node, serving, "another node leads");
    }
    node.note(|d| {
        d.leading = None;
        d.yielded = None;
        d.failed = None;
        // What was sealed holds until something new is taken.
        if d.following != Some(epoch) {
            d.following = None;
        }
    });
    let seen = node.inspect().await;
    let missing = copy_of(&seen) != Copy::Complete;
    if !missing && seen.role == Some(Role::Primary) {
        node.engine.kill();
        wait_stopped(node).await;
    }
    let upstream = upstream(node, primary)?;
    let log: Result<Option<LogOf>, _> = node.peers.call(primary, "engine/history", &epoch, HISTORY).await;
    let LogOf { history, rewind_ready } = match log {
        Ok(Some(log)) => log,
        // It is not promoted yet.
        Ok(None) => return Ok(Turn::Soon),
        Err(source) => return Err(KeeperError::History { node: primary.clone(), source }),
    };
    // One that is still starting, for a goal of before, is waited for.
    let up = !matches!(*node.engine.process().borrow(), Process::Stopped | Process::Starting);
    if !missing && !up && repair != Some(Repair::Rebuild) {
        node.note(|d| d.work = Some("starting the database"));
        check_identity(node, &history).await?;
        start(node).await?;
    }
    match repair {
        Some(Repair::Rebuild) => return rebuild(node, primary, &upstream, &history).await,
        Some(Repair::Rewind) if !rewind_ready => {
            node.note(|d| d.work = Some("waiting for the primary's first checkpoint, to rewind to it"));
            return Ok(Turn::Soon);
        }
        Some(Repair::Rewind) => return rewind(node, &upstream, &history).await,
        None if missing => {
            return Ok(Turn::Reached(Some("its copy is unusable, and automatic repair is paused")));
        }
        None => {}
    }
    if node.doing.borrow().needs.is_some() {
        // The controller takes this node out of the sync rule first.
        return Ok(Turn::Reached(Some("waiting until its copy may be repaired")));
    }
    let followed = node.engine.follow(&upstream, &history).await.map_err(engine("can't follow the primary"))?;
    let seen = node.inspect().await;
    match followed {
        Followed::Streaming => {
            node.note(|d| {
                d.following = Some(epoch);
                d.sealed = None;
                d.work = None;
            });
            // Not reached for good: a stream that breaks shows in the inspection, which wakes the keeper.
            Ok(if seen.streaming { Turn::Reached(None) } else { Turn::Soon })
        }
        Followed::NotYet => {
            node.note(|d| {
                d.following = Some(epoch);
                d.sealed = None;
                d.work = Some("connecting to the primary");
            });
            if let Some(need) = seen.receiver_error.as_deref().and_then(need_of) {
                let why = seen.receiver_error.unwrap_or_default();
                tracing::info!(%epoch, %primary, why, ?need, "the primary can't be followed as it is");
                node.note(|d| d.needs = Some(need));
            }
            Ok(Turn::Soon)
        }
        Followed::TooFarBehind(why) => {
            tracing::info!(%epoch, %primary, why, "the primary no longer has the log that this copy needs");
            node.note(|d| d.needs = Some(Repair::Rebuild));
            Ok(Turn::Reached(None))
        }
        Followed::Diverged(why) => {
            tracing::info!(%epoch, %primary, why, "this copy has what the primary has not");
            node.note(|d| d.needs = Some(Repair::Rewind));
            Ok(Turn::Reached(None))
        }
    }
}

/// Another cluster's data in this node's folder is never started, let alone replaced.
async fn check_identity(node: &Node, history: &History) -> Result<(), KeeperError> {
    let found = match node.engine.identity().await {
        // Too damaged to say whose it is: then it can't be started either, and the start says why.
        Err(EngineError::StartFailed { .. }) => None,
        found => found.map_err(engine("can't read the copy that is here"))?,
    };
    match found {
        Some(found) if found != history.identity => {
            let what = format!("the folder {}", node.config.data_dir().display());
            Err(engine("can't follow the primary")(EngineError::OtherCluster {
                what,
                found,
                expected: history.identity,
            }))
        }
        _ => Ok(()),
    }
}

/// Starts the standby. A copy that does not start again and again is broken, and another node leads: it is made anew,
/// once; when that one does not start either, the reason is not in the copy, and a person has to look.
async fn start(node: &Arc<Node>) -> Result<(), KeeperError> {
    match node.engine.start().await {
        Ok(()) => {
            node.note(|d| d.start_failures = 0);
            Ok(())
        }
        Err(error) => {
            if matches!(error, EngineError::StartFailed { .. }) {
                node.note(|d| {
                    d.start_failures += 1;
                    if d.start_failures == BROKEN {
                        d.needs = Some(Repair::Rebuild);
                    }
                });
            }
            Err(engine("can't start the database as a standby")(error))
        }
    }
}

/// What a refused stream needs. The texts are the untranslated ones of PostgreSQL 13 to 18 (`walsender.c`, `slot.c`).
fn need_of(error: &str) -> Option<Repair> {
    if error.contains("has already been removed") || error.contains("invalidated due to \"wal_removed\"") {
        Some(Repair::Rebuild)
    } else if error.contains("not in this server's history") || error.contains("is ahead of the WAL flush position") {
        Some(Repair::Rewind)
    } else {
        None
    }
}

async fn rewind(node: &Arc<Node>, upstream: &Upstream, history: &History) -> Result<Turn, KeeperError> {
    node.note(|d| d.work = Some("rewinding: taking back what the primary has not"));
    match node.engine.rejoin(upstream, history, &node.progress).await {
        Ok(()) => {
            let text = format!("{} was rewound to the log of {}", node.me(), upstream.node);
            node.event_anyway(EventKind::Recovery, text, Evidence::new());
            node.note(|d| d.needs = None);
        }
        Err(EngineError::NeedsRebuild(why)) => {
            tracing::warn!(why, "the rewind is impossible; the copy has to be rebuilt");
            node.note(|d| d.needs = Some(Repair::Rebuild));
        }
        Err(error) => return Err(engine("can't rewind")(error)),
    }
    node.inspect().await;
    Ok(Turn::Soon)
}

async fn rebuild(
    node: &Arc<Node>,
    primary: &NodeName,
    upstream: &Upstream,
    history: &History,
) -> Result<Turn, KeeperError> {
    // What is there is of the copy before.
    node.progress.send_replace(trine_engine::Progress::default());
    node.note(|d| {
        d.work = Some("copying the primary's data");
        d.needs = Some(Repair::Rebuild);
    });
    let seen = node.inspect().await;
    if copy_of(&seen) == Copy::Complete && seen.process == Process::Running && seen.role == Some(Role::Standby) {
        // What the old copy acknowledged after the new one was read would be gone with it.
        match node.engine.seal().await {
            Ok(_) => {}
            // It is cut off, and no good.
            Err(EngineError::NeedsRebuild(why)) => tracing::info!(why, "the old copy is not sealed"),
            // It can't even take what it had received: ended, it acknowledges nothing more.
            Err(error @ EngineError::StartFailed { .. }) => {
                tracing::info!(error = error.chain(), "the old copy is not sealed, and ended");
                node.engine.kill();
                wait_stopped(node).await;
            }
            Err(error) => return Err(engine("can't cut the old copy off")(error)),
        }
        node.note(|d| d.following = None);
    }
    // By its full name: every `Arc` has a `clone_from` of its own.
    trine_engine::Engine::clone_from(&*node.engine, upstream, Some(history.identity), &node.progress)
        .await
        .map_err(engine("can't copy the primary's data"))?;
    let text = format!("{} has a fresh copy of the data of {primary}", node.me());
    node.event_anyway(EventKind::Recovery, text, Evidence::new());
    node.note(|d| {
        d.needs = None;
        d.sealed = None;
    });
    node.inspect().await;
    end_wish(node).await;
    Ok(Turn::Soon)
}

/// The rebuild that was asked for is done. Until the state here says so too, the goal would be another rebuild.
async fn end_wish(node: &Arc<Node>) {
    let asked = |state: &ClusterState| match &state.wish {
        Some((number, Wish::Rebuild { node: asked })) if asked == node.me() => Some(*number),
        _ => None,
    };
    let mut states = node.consensus.state();
    while let Some(number) = asked(&node.state()) {
        let _ = node.propose(Change::EndWish { number, outcome: Ok(()) }).await;
        let _ = tokio::time::timeout(HISTORY, states.wait_for(|s| asked(s) != Some(number))).await;
    }
}

fn upstream(node: &Node, primary: &NodeName) -> Result<Upstream, KeeperError> {
    let member = node.config.member(primary).ok_or_else(|| KeeperError::UnknownNode(primary.clone()))?;
    let address: SocketAddr = member.at(node.config.ports.database);
    Ok(Upstream { node: primary.clone(), address })
}
