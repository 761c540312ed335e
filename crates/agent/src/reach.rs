//! Which nodes' databases can this one's get a connection to? Asked only while it follows and does not stream: then another
//! primary may help, if its log can be taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{sleep, timeout};
use trine_engine::Upstream;
use trine_protocol::{Database, NodeName};

use crate::node::Node;
use crate::reporter::present;

/// How often it is asked. It costs each of the others a process that ends at once.
const EVERY: Duration = Duration::from_millis(500);

/// A connection that takes longer is none: it takes one round trip.
const DEADLINE: Duration = Duration::from_millis(500);

/// Asks for ever. What hangs is left behind at its deadline.
pub(crate) async fn keep_reaching(node: Arc<Node>) {
    loop {
        let reaches = if is_without_stream(&node) { ask(&node).await } else { BTreeSet::new() };
        // It may stream by now.
        let reaches = if is_without_stream(&node) { reaches } else { BTreeSet::new() };
        let news = node.reaches.send_if_modified(|known| {
            let news = *known != reaches;
            *known = reaches;
            news
        });
        if news {
            node.tell.notify_one();
        }
        sleep(EVERY).await;
    }
}

fn is_without_stream(node: &Node) -> bool {
    matches!(present(node), Database::Following { streaming: false, .. })
}

async fn ask(node: &Node) -> BTreeSet<NodeName> {
    let others = node.config.members.iter().filter(|m| m.name != *node.me());
    let asked = others.map(|member| async move {
        let other = Upstream { node: member.name.clone(), address: member.at(node.config.ports.database) };
        let reached = matches!(timeout(DEADLINE, node.engine.reach(&other)).await, Ok(Ok(())));
        reached.then_some(other.node)
    });
    join_all(asked).await.into_iter().flatten().collect()
}
