//! Leading: promote, run the sync rule, pass the barrier; and leaving, for a switchover.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use trine_protocol::{Change, Epoch, NodeName, SyncRule, SyncSetting, Wish};

use super::{KeeperError, Turn, engine, error_chain};
use crate::lease::{fence, release};
use crate::node::Node;
use crate::switchover::{self, wait_drained};

/// A promotion takes about 0.1 s; one that takes so long hangs, and another node should lead.
const PROMOTE: Duration = Duration::from_secs(20);

/// How long clients wait for the target to have everything, before the switchover is given up.
const CATCH_UP: Duration = Duration::from_millis(1500);

/// How long a clean stop may take before another node leads all the same.
const STOP: Duration = Duration::from_secs(10);

/// Runs the sync rule, and passes the barrier where one is asked for.
pub(super) async fn lead(
    node: &Arc<Node>,
    epoch: Epoch,
    sync: &SyncSetting,
    rule: &SyncRule,
    barrier: bool,
) -> Result<Turn, KeeperError> {
    node.engine.set_sync(sync).await.map_err(engine("can't set the sync rule"))?;
    if !barrier {
        return Ok(Turn::Reached(None));
    }
    if *sync == SyncSetting::Wait {
        // Nobody can acknowledge: nothing to prove, and nothing opens. That the primary alone has the data holds already.
        settle(node, epoch, rule, false).await;
        return Ok(Turn::Reached(None));
    }
    node.note(|d| d.work = Some("waiting for one commit to pass through the sync rule"));
    node.engine.barrier(epoch).await.map_err(engine("the open barrier did not pass"))?;
    settle(node, epoch, rule, true).await;
    node.inspect().await;
    Ok(Turn::Soon)
}

/// Tells consensus what the engine now runs.
async fn settle(node: &Node, epoch: Epoch, rule: &SyncRule, passed: bool) {
    let state = node.state();
    let Some(held) = state.held().filter(|_| state.epoch == epoch) else { return };
    if held.pending.last() == Some(rule) {
        let _ = node.propose(Change::RuleRuns { epoch, rule: rule.clone(), number: held.changes }).await;
    }
    if passed && !held.opened {
        let _ = node.propose(Change::BarrierPassed { epoch }).await;
    }
}

/// Promotes. False: not yet, or not at all (then that is noted).
pub(super) async fn promote(node: &Arc<Node>, epoch: Epoch, sync: &SyncSetting) -> bool {
    node.note(|d| d.work = Some("being promoted"));
    let mut leases = node.leases.subscribe();
    let until = loop {
        let lease = *leases.borrow_and_update();
        if let Some((of, until)) = lease
            && of == epoch
            && node.clock.now() < until
        {
            break until;
        }
        if leases.changed().await.is_err() {
            return false;
        }
    };
    let members: BTreeSet<NodeName> = node.state().members.keys().cloned().collect();
    // The rule is set while it is still a standby, so no commit is ever without one.
    if let Err(error) = node.engine.set_sync(sync).await {
        give_up(node, epoch, &format!("the sync rule can't be set: {}", error.chain()));
        return false;
    }
    node.engine.push(until);
    node.serving.begin(epoch, until);
    node.streamed.send_replace(None);
    node.note(|d| d.sealed = None);
    let promoted = timeout(PROMOTE, node.engine.promote(epoch, &members)).await;
    let why = match promoted {
        Ok(Ok(())) => {
            node.note(|d| d.leading = Some(epoch));
            tracing::info!(%epoch, "promoted");
            return true;
        }
        Ok(Err(error)) => error_chain(&error),
        Err(_) => format!("the promotion took longer than {PROMOTE:?}"),
    };
    fence(node, epoch, &why);
    false
}

pub(super) fn give_up(node: &Arc<Node>, epoch: Epoch, why: &str) {
    tracing::warn!(%epoch, why, "this node can't lead the epoch");
    node.engine.kill();
    let why = why.to_owned();
    node.note(|d| d.failed = Some((epoch, why)));
}

/// A switchover: new transactions wait at the endpoints, those under way finish, the database stops cleanly (so its
/// standbys have everything), the lease is released.
pub(super) async fn leave(node: &Arc<Node>, epoch: Epoch) -> Result<Turn, KeeperError> {
    node.note(|d| d.work = Some("leaving: transactions under way finish"));
    let started = Instant::now();
    let ready = wait_drained(node, epoch).await;
    let drained = started.elapsed();
    let ready = match ready {
        Ok(()) => switchover::wait_caught_up(node, epoch, CATCH_UP).await,
        stays => stays,
    };
    if let Err(why) = ready {
        // Nothing has been stopped yet: the transactions that wait go on here.
        if let Some((number, Wish::Switchover { .. })) = node.state().wish {
            let _ = node.propose(Change::EndWish { number, outcome: Err(why) }).await;
        }
        return Ok(Turn::Soon);
    }
    node.note(|d| {
        d.work = Some("leaving: the database stops");
        d.yielded = Some(epoch);
        d.leading = None;
    });
    // From here on there is no way back: the endpoints end their sessions, and the next epoch begins, whoever wins it.
    match timeout(STOP, node.engine.hand_over()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = error.chain(), "the database did not stop cleanly; it is killed"),
        Err(_) => tracing::warn!("the database did not stop within {STOP:?}; it is killed"),
    }
    node.serving.end();
    node.engine.kill();
    crate::lease::wait_stopped(node).await;
    node.inspect().await;
    tracing::info!(%epoch, ?drained, took = ?started.elapsed(), "left: the database has stopped");
    release(node, epoch).await;
    Ok(Turn::Reached(None))
}
