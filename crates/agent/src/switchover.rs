//! Before a switchover: the target has everything, and no transaction is open.

use std::time::Duration;

use tokio::time::timeout;
use trine_protocol::{Epoch, NodeName};

use crate::node::Node;

/// Transactions may take so long to finish; sessions that are busy beyond it are ended with the primary.
const DRAIN: Duration = Duration::from_secs(5);

/// What a switchover would cut off, in words.
pub(crate) async fn obstacle(node: &Node) -> Option<String> {
    match node.engine.obstacle().await {
        Ok(found) => found,
        Err(error) => {
            tracing::info!(error = error.chain(), "can't look for long transactions");
            None
        }
    }
}

/// Returns once no session of the writer endpoint has a transaction open, or the limit is over: then with what there still is,
/// if that should not be cut off.
///
/// The sessions that other nodes' endpoints have forwarded here are counted too: the pause reaches them on this side.
pub(crate) async fn wait_drained(node: &Node, epoch: Epoch) -> Result<(), String> {
    let Some(writer) = node.writer.get() else { return Ok(()) };
    if node.state().held().is_some_and(|h| h.interim) {
        // Nobody was ever let in.
        return Ok(());
    }
    // The pause itself comes from the replicated state, by way of the routes: wait until it is in force.
    let mut routes = node.routes.writer.subscribe();
    let mut busy = writer.busy().watch();
    let drained = async {
        let _ = routes.wait_for(|r| r.drain || r.epoch != epoch).await;
        let _ = busy.wait_for(|n| *n == 0).await;
    };
    if timeout(DRAIN, drained).await.is_err() {
        if let Some(why) = obstacle(node).await {
            return Err(why);
        }
        tracing::info!(
            sessions = *writer.busy().watch().borrow(),
            "transactions run on beyond the limit; they are ended"
        );
    }
    Ok(())
}

/// Returns once the node that is to lead has everything durably that this primary had when it was asked.
///
/// A standby that is connected and takes nothing (its receiver hangs) looks well until then.
pub(crate) async fn wait_caught_up(node: &Node, epoch: Epoch, limit: Duration) -> Result<(), String> {
    let state = node.state();
    let Some(target) = state.held().and_then(|h| h.leaving.clone()).filter(|_| state.epoch == epoch) else {
        return Ok(());
    };
    caught_up(node, &target, limit).await
}

/// Has `target` everything that this primary has now? Waits for it up to `limit`.
pub(crate) async fn caught_up(node: &Node, target: &NodeName, limit: Duration) -> Result<(), String> {
    let mut seen = node.inspect().await;
    let Some(end) = seen.position.map(|p| p.offset) else {
        return Err("how far this primary has written is not known".to_owned());
    };
    let all = async {
        loop {
            if seen.standbys.get(target).and_then(|s| s.flushed).is_some_and(|at| at >= end) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            seen = node.inspect().await;
        }
    };
    let late = |_| format!("{target} has not taken everything from the primary within {limit:?}");
    timeout(limit, all).await.map_err(late)
}
