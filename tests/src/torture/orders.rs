//! Orders that a person might give at any moment, and what became of them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::faults::Victim;
use super::kind::Kind;
use super::plan::Planned;
use crate::cluster::Cluster;
use crate::process::Process;
use crate::wait::wait_until;

/// How long an order may take before the command gives up.
const PATIENCE: &str = "45";

/// Gives the order; what was asked, and whether it was done or refused. Either is right: what matters is what clients see.
///
/// # Errors
/// The command can't be run, or a rolling restart does not come to its end.
pub fn give(cluster: &Cluster, order: Planned, victim: &Victim) -> Result<String> {
    let standbys: Vec<&str> =
        cluster.nodes().iter().map(|n| n.name.as_str()).filter(|n| *n != victim.primary).collect();
    let standby = standbys.get(order.salt as usize % 2).copied().context("there is no standby")?;
    // To a certain node or to the best, by turns.
    let named = (order.salt / 2).is_multiple_of(2);
    let mut words = match order.kind {
        Kind::Switchover => vec!["switchover"],
        Kind::Failover => vec!["failover"],
        Kind::Rebuild => vec!["node", "rebuild", standby],
        _ => return rolling_restart(cluster),
    };
    if named && order.kind != Kind::Rebuild {
        words.extend(["--to", standby]);
    }
    words.extend(["--timeout", PATIENCE]);
    let output = cluster.trine(&words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let outcome = if output.status.success() {
        "done".to_owned()
    } else {
        format!("not done: {}", said.lines().rfind(|l| l.starts_with("trine: ")).unwrap_or_default())
    };
    words.truncate(words.len() - 2);
    Ok(format!("trine {}: {outcome}", words.join(" ")))
}

/// Every agent is stopped as a service manager would stop it, and started again: standbys first, then the primary after a switchover.
fn rolling_restart(cluster: &Cluster) -> Result<String> {
    let status = cluster.wait_healthy()?;
    let primary = status.primary.clone().context("a healthy cluster has a primary")?;
    for node in status.standbys() {
        restart(cluster, &node)?;
    }
    cluster.trine_ok(&["switchover", "--timeout", PATIENCE])?;
    cluster.wait_healthy()?;
    restart(cluster, &primary)?;
    Ok("every agent stopped and started again".to_owned())
}

fn restart(cluster: &Cluster, node: &str) -> Result<()> {
    let agent = cluster.agent(node)?;
    cluster.signal(agent, Signal::TERM)?;
    wait_until(&format!("the agent of {node} to end"), Duration::from_secs(60), || Ok(!Process::alive(agent)))?;
    cluster.start_node(node)?;
    cluster.wait_healthy().map(drop)
}
