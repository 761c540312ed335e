//! Draining before a switchover.

use std::time::Duration;

use tokio::time::timeout;
use trine_protocol::Epoch;

use crate::node::Node;

/// Transactions may take so long to finish; sessions that are busy beyond it are ended with the primary.
const DRAIN: Duration = Duration::from_secs(5);

/// Returns once no session of the writer endpoint has a transaction open, or the limit is over.
///
/// The sessions that other nodes' endpoints have forwarded here are counted too: the pause reaches them on this side.
pub(crate) async fn wait_drained(node: &Node, epoch: Epoch) {
    let Some(writer) = node.writer.get() else { return };
    // The pause itself comes from the replicated state, by way of the routes: wait until it is in force.
    let mut routes = node.routes.writer.subscribe();
    let mut busy = writer.busy().watch();
    let drained = async {
        let _ = routes.wait_for(|r| r.drain || r.epoch != epoch).await;
        let _ = busy.wait_for(|n| *n == 0).await;
    };
    if timeout(DRAIN, drained).await.is_err() {
        tracing::info!(
            sessions = *writer.busy().watch().borrow(),
            "transactions run on beyond the limit; they are ended"
        );
    }
}
