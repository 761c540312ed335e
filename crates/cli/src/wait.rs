//! Waiting until the cluster has done what it was asked.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use trine_api::{Accepted, Client, NodeState, RequestState, Role, Status};
use trine_protocol::NodeName;

use crate::failure::{Done, Failure};
use crate::progress::Progress;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the alarm that nobody can be elected must stand before it is believed: it may be of the epoch before.
const STUCK_FOR: Duration = Duration::from_secs(4);

/// How to see that it is done, when the cluster does not say.
pub(crate) type Goal<'a> = &'a (dyn Fn(&Status) -> bool + Sync);

/// Waits for a request. `shown` is the node whose progress a person wants to see.
pub(crate) async fn until_done(
    client: &Client,
    accepted: &Accepted,
    goal: Goal<'_>,
    shown: Option<&NodeName>,
    patience: Duration,
) -> Done<Status> {
    let give_up = Instant::now() + patience;
    let mut progress = shown.map(|node| Progress::new([node.clone()]));
    let mut stuck_since = None;
    loop {
        let last;
        match client.status().await {
            Ok(status) => {
                let number = accepted.request;
                let told = number.and_then(|n| status.requests.iter().find(|r| r.number == n));
                let message = || told.map(|r| r.message.clone()).unwrap_or_default();
                let done = match told.map(|r| r.state) {
                    Some(RequestState::Failed) => return Err(Failure::failed(message())),
                    Some(RequestState::Pending) => false,
                    // Done by the cluster's account; what it leads to may be a moment away.
                    Some(RequestState::Done) => goal(&status),
                    None => goal(&status),
                };
                if done {
                    if let Some(progress) = progress {
                        progress.finish(&status);
                    }
                    return Ok(status);
                }
                if let Some(progress) = &mut progress {
                    progress.show(&status);
                }
                match stuck(&status) {
                    Some(alarm) if stuck_since.get_or_insert_with(Instant::now).elapsed() >= STUCK_FOR => {
                        return Err(Failure::not_safe(alarm).hint(
                            "bring those nodes back; if they are gone for good: trine failover --accept-data-loss",
                        ));
                    }
                    Some(_) => {}
                    None => stuck_since = None,
                }
                last = match message() {
                    m if m.is_empty() => format!("the cluster is {}", status.health),
                    m => m,
                };
            }
            Err(e) => last = e.to_string(),
        }
        if Instant::now() >= give_up {
            return Err(Failure::failed(format!("not done within {} s: {last}", patience.as_secs()))
                .hint("it may still be done: see `trine status` and `trine events`; --timeout waits longer"));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The alarm that no primary can be elected, which ends the wait for one: only a person can go on.
fn stuck(status: &Status) -> Option<&str> {
    let alarm = status.alarms.iter().find(|a| a.contains("can be elected safely"))?;
    status.primary.is_none().then_some(alarm)
}

/// Waits until a node's database runs, showing what it does meanwhile.
pub(crate) async fn until_running(client: &Client, node: &NodeName, patience: Duration) -> Done {
    let runs = |s: &Status| runs(s, node);
    until_done(client, &Accepted::default(), &runs, Some(node), patience).await.map(drop)
}

/// A node's database runs in its role, with data of the newest epoch.
pub(crate) fn runs(status: &Status, node: &NodeName) -> bool {
    status.node(node).is_some_and(|n| {
        n.state == NodeState::Running && n.role != Role::None && n.data_epoch.is_none_or(|e| e == status.epoch)
    })
}
