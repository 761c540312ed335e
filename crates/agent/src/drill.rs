//! Ends a node's database because a person wants to see what happens then. Nothing of the rules is passed by: it is what a
//! crash of the database does, and the cluster finds it out as it finds out a crash.

use std::sync::Arc;
use std::time::Duration;

use trine_api::{Accepted, Refused};
use trine_protocol::NodeName;

use crate::control::{present, status};
use crate::node::Node;

/// How long the other node may take to look at the cluster and end its database.
const ANSWER: Duration = Duration::from_secs(6);

/// Passes a person's request on to the node that it is about, if the cluster is well.
pub(crate) async fn end_database(node: &Arc<Node>, whose: &NodeName) -> Result<Accepted, Refused> {
    let done = if whose == node.me() {
        end_own(node).await
    } else {
        // Also what this node sees must be well: the other one may see less.
        well(node, whose).await.map_err(refused)?;
        node.peers.call(whose, "drill/end-database", &(), ANSWER).await.map_err(|error| {
            tracing::info!(node = %whose, %error, "no answer to a drill's request");
            Refused::unknown(format!("{whose} did not answer: whether its database was ended is not known"))
        })?
    };
    done.map_err(refused)?;
    Ok(Accepted { request: None, message: format!("the database of {whose} was killed"), estimate: None })
}

fn refused(why: String) -> Refused {
    Refused::not_safe(format!("{why}; nothing was changed"))
}

/// Ends this node's own database, if the cluster is well as this node sees it.
pub(crate) async fn end_own(node: &Arc<Node>) -> Result<(), String> {
    well(node, node.me()).await?;
    tracing::warn!("the database is killed: a person asked for a drill");
    node.engine.kill();
    Ok(())
}

/// Why not, in words.
async fn well(node: &Arc<Node>, whose: &NodeName) -> Result<(), String> {
    // The state as it is now; what the nodes report is at most a second or so old.
    present(node).await.map_err(|r| r.message)?;
    trine_api::drill::refusal(&status(node), whose).map_or(Ok(()), Err)
}
