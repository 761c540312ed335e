//! The lease of a primary's node: asks the voters for it, moves the guard's deadline, and fences when it is over.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use trine_engine::Process;
use trine_protocol::{Epoch, Goal, Grant, Lease, Moment, NodeName, lease_for_holder, must_fence};

use crate::node::Node;

/// Asks a voter to renew a lease.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Renew {
    pub(crate) epoch: Epoch,
    pub(crate) lease: Duration,
}

/// Tells a voter that a lease is over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) epoch: Epoch,
}

/// Renewals under way to one voter at a time: a slow one is not asked again and again.
const UNDER_WAY: usize = 4;

/// Renews for ever, while this node leads.
pub(crate) async fn keep_lease(node: Arc<Node>) {
    let mut state = node.consensus.state();
    loop {
        let Goal::Lead { epoch, .. } = node.goal() else {
            let _ = state.changed().await;
            continue;
        };
        if is_over(&node, epoch) {
            let _ = state.changed().await;
            continue;
        }
        renew_epoch(&node, epoch).await;
    }
}

/// This node has given the epoch up: it does not ask for its lease any more.
fn is_over(node: &Node, epoch: Epoch) -> bool {
    let doing = node.doing.borrow();
    doing.yielded == Some(epoch) || doing.failed.as_ref().is_some_and(|(e, _)| *e == epoch)
}

async fn renew_epoch(node: &Arc<Node>, epoch: Epoch) {
    let state = node.state();
    let length = Duration::from_millis(state.settings.lease_ms);
    let voters: Vec<NodeName> = state.voters().cloned().collect();
    let mut lease = Lease::new(epoch, state.majority(), length);
    let period = Duration::from_millis(state.settings.heartbeat_ms);
    let mut beat = interval(period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answers = FuturesUnordered::new();
    let mut under_way: std::collections::BTreeMap<NodeName, usize> = std::collections::BTreeMap::new();
    let mut states = node.consensus.state();
    node.leases.send_replace(None);
    // Until when the guard and the endpoints have been told: most answers move nothing.
    let mut told = None;
    let mut last = node.clock.now();
    loop {
        tokio::select! {
            _ = beat.tick() => {
                let now = node.clock.now();
                let late = now.since(last).saturating_sub(period);
                last = now;
                if late > length / 4 {
                    tracing::warn!(?late, "the heartbeat is late: the agent was kept from running (a full machine? a pause?)");
                }
                for voter in &voters {
                    let count = under_way.entry(voter.clone()).or_default();
                    if *count < UNDER_WAY {
                        *count += 1;
                        // One moment for all of a beat: the second answer then moves nothing, and nobody need be told.
                        answers.push(ask(node.clone(), voter.clone(), epoch, length, now));
                    }
                }
            }
            Some((voter, sent, answer)) = answers.next() => {
                if let Some(count) = under_way.get_mut(&voter) {
                    *count = count.saturating_sub(1);
                }
                match answer {
                    Some(Grant::Granted) => lease.granted(&voter, sent),
                    Some(Grant::Refused { promised }) => {
                        tracing::info!(%voter, %promised, %epoch, "the lease is refused: a newer epoch is promised");
                    }
                    Some(Grant::Forgotten) => {
                        tracing::info!(%voter, %epoch, "the lease is not renewed: the voter has lost its memory and asks consensus");
                    }
                    None => {}
                }
                if let Some(until) = lease.until().filter(|u| told != Some(*u)) {
                    told = Some(until);
                    // The guard first: it must never hold an older deadline than the endpoints serve by.
                    if node.serving.epoch() == Some(epoch) {
                        node.engine.push(until);
                        node.serving.extend(epoch, until);
                    }
                    node.leases.send_replace(Some((epoch, until)));
                }
            }
            changed = states.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        if !matches!(node.goal(), Goal::Lead { epoch: e, .. } if e == epoch) || is_over(node, epoch) {
            node.leases.send_replace(None);
            return;
        }
    }
}

async fn ask(
    node: Arc<Node>,
    voter: NodeName,
    epoch: Epoch,
    lease: Duration,
    sent: Moment,
) -> (NodeName, Moment, Option<Grant>) {
    if voter == *node.me() {
        let grant = node.desk.renew(epoch, lease);
        return (voter, sent, Some(grant));
    }
    let answer = node.peers.call(&voter, "lease/renew", &Renew { epoch, lease }, lease / 2).await;
    if let Err(error) = &answer {
        tracing::debug!(%voter, %error, "no answer to a renewal");
    }
    (voter, sent, answer.ok())
}

/// Ends the database at once when it may be a primary and must not be one: a newer epoch, or no lease.
pub(crate) async fn keep_fence(node: Arc<Node>) {
    let mut serving = node.serving.changes();
    let mut state = node.consensus.state();
    let mut promises = node.desk.promises();
    let mut process = node.engine.process();
    loop {
        let Some(epoch) = node.serving.epoch() else {
            if serving.changed().await.is_err() {
                return;
            }
            continue;
        };
        let now = node.clock.now();
        let until = node.serving.lease_until();
        let why = must_fence(&node.state(), node.me(), node.desk.promised(), epoch, until, now);
        let stopped = *process.borrow_and_update() == Process::Stopped && node.doing.borrow().leading == Some(epoch);
        if let Some(why) = why {
            fence(&node, epoch, &why);
            continue;
        }
        if stopped {
            let words = node.engine.last_words();
            fence(&node, epoch, words.as_deref().unwrap_or("its database has ended"));
            continue;
        }
        let look_again = Instant::now() + until.map_or(lease_for_holder(Duration::from_millis(100)), |u| now.until(u));
        tokio::select! {
            () = sleep_until(look_again) => {}
            _ = serving.changed() => {}
            _ = state.changed() => {}
            _ = promises.changed() => {}
            _ = process.changed() => {}
        }
    }
}

/// Stops serving now: no byte more to a client, and the database is killed. What follows (the release of the lease) waits
/// until no process of it is left.
pub(crate) fn fence(node: &Arc<Node>, epoch: Epoch, why: &str) {
    node.serving.end();
    node.engine.kill();
    tracing::warn!(%epoch, why, "fenced: this node has stopped serving as a primary");
    let why = why.to_owned();
    node.note(|d| {
        d.leading = None;
        if d.yielded != Some(epoch) {
            d.failed = Some((epoch, why));
        }
    });
    node.look.notify_one();
    let node = node.clone();
    tokio::spawn(async move {
        wait_stopped(&node).await;
        node.inspect().await;
        release(&node, epoch).await;
    });
}

/// Returns once no process of the database is left.
pub(crate) async fn wait_stopped(node: &Node) {
    let mut process = node.engine.process();
    let _ = process.wait_for(|p| *p == Process::Stopped).await;
}

/// Tells every voter that the lease of `epoch` need not be waited out. Only after the database has ended.
pub(crate) async fn release(node: &Arc<Node>, epoch: Epoch) {
    node.desk.release(epoch);
    node.tell.notify_one();
    let state = node.state();
    let tell = |voter: NodeName| async move {
        // Lost is harmless: the lease then runs out by itself.
        let _: Result<(), _> =
            node.peers.call(&voter, "lease/release", &Release { epoch }, Duration::from_millis(300)).await;
    };
    futures::future::join_all(state.voters().filter(|v| *v != node.me()).cloned().map(tell)).await;
}
