//! One node of a local cluster: lost, and back.

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use trine_api::Client;

use crate::args::{LocalNode, StartNode};
use crate::connect;
use crate::create::cant;
use crate::failure::{Done, Failure};
use crate::print;
use crate::wait;

use super::cluster::{Cluster, Node};
use super::{down, ports};

/// How long a new agent is watched for an early end, unless it answers before.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How long a killed agent may take to be gone: its ports are free only then.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Kills everything of a node at once.
pub(crate) async fn kill_node(args: &LocalNode) -> Done {
    let cluster = Cluster::open(&args.dir)?;
    let node = cluster.node(&args.node)?;
    let killed = down::kill(&[node]).await?;
    match killed {
        0 => print::note(format!("{} was not running", node.name)),
        n => print::note(format!("killed {n} processes of {}", node.name)),
    }
    Ok(())
}

/// Starts a node's agent.
pub(crate) async fn start_node(args: &StartNode) -> Done {
    let cluster = Cluster::open(&args.node.dir)?;
    let node = cluster.node(&args.node.node)?;
    start(&cluster, node).await?;
    if args.wait {
        let client = connect::local(&cluster)?;
        wait::until_running(&client, &node.name, Duration::from_secs(args.timeout)).await?;
    }
    Ok(())
}

/// Starts a node's agent unless it runs, and returns once it answers, or has shown that it does not end at once.
pub(crate) async fn start(cluster: &Cluster, node: &Node) -> Done {
    let config = node.config()?;
    let lock = cluster.lock()?;
    let give_up = Instant::now() + ENDED_WITHIN;
    while let Some(agent) = node.agent() {
        if !agent.is_ending() {
            print::note(format!("{} runs already (process {})", node.name, agent.pid));
            return Ok(());
        }
        if Instant::now() >= give_up {
            let message =
                format!("the former agent of {} (process {}) was killed and does not end", node.name, agent.pid);
            return Err(Failure::failed(message).hint("it hangs in the kernel, likely on a broken disk"));
        }
        sleep(LOOK_EVERY).await;
    }
    ports::check(&config)?;
    let mut started = node.start()?;
    drop(lock);
    let client = Client::new(&[connect::api_of(&config)], None, Some(&config.ca_cert()))?;
    let give_up = Instant::now() + SETTLED_WITHIN;
    while Instant::now() < give_up {
        if let Some(failure) = started.ended() {
            node.forget_agent();
            return Err(failure);
        }
        if client.status().await.is_ok() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    print::note(format!("started {}", node.name));
    Ok(())
}

/// Kills everything of a node, quietly.
pub(crate) async fn kill(node: &Node) -> Done {
    down::kill(&[node]).await.map(drop)
}

/// Puts a stopped node's consensus state aside, so that it joins anew. Its data stays: it is compared with the primary's.
pub(crate) async fn replace_state(cluster: &Cluster, node: &Node) -> Done {
    let state = node.dir.join("state");
    if state.exists() {
        let aside = (1..)
            .map(|n| node.dir.join(format!("state.replaced-{n}")))
            .find(|p| !p.exists())
            .unwrap_or_else(|| node.dir.join("state.replaced"));
        fs::rename(&state, &aside).map_err(|e| cant("move", &state, &e))?;
        print::note(format!("the old state of {} is kept in {}", node.name, aside.display()));
    }
    start(cluster, node).await
}
