//! Consensus groups that a person has reformed: the old group is over, and its nodes join the new one.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trine_platform::Disk;
use trine_protocol::{Change, ClusterState};

use crate::errors::AgentError;
use crate::node::Node;

/// The state file of a reform that has begun.
const FILE: &str = "reform.json";

/// How often the other nodes are asked which group they are of, by a node whose group has no leader.
const ASK: Duration = Duration::from_millis(500);

/// And by one whose group has.
const ASK_SELDOM: Duration = Duration::from_secs(2);

/// Why the agent starts anew, from within.
#[derive(Debug, Clone)]
pub enum Restart {
    /// Another node is of a newer group: this one's group is over.
    Superseded,
    /// A person gives up the majority: this node begins a new group with the state that it has.
    Reform(Arc<ClusterState>),
}

/// A reform that this node has begun and not finished.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) state: ClusterState,
}

/// What the disk says about a reform.
pub(crate) fn begun(disk: &dyn Disk) -> Result<Option<Begun>, AgentError> {
    let Some(text) = disk.read(FILE)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|e| AgentError::Corrupt { name: FILE, why: e.to_string() })
}

/// Puts the disk into the condition that the next start needs.
pub(crate) fn prepare(disk: &dyn Disk, restart: &Restart) -> Result<(), AgentError> {
    if let Restart::Reform(state) = restart {
        let text = serde_json::to_vec(&Begun { state: (**state).clone() })
            .map_err(|e| AgentError::Corrupt { name: FILE, why: e.to_string() })?;
        disk.write(FILE, &text)?;
    }
    for file in trine_consensus::FILES {
        disk.remove(file)?;
    }
    Ok(())
}

/// Proposes the reformed state until it holds.
pub(crate) async fn reform(node: Arc<Node>, disk: Arc<dyn Disk>, begun: Begun) {
    let mut states = node.consensus.state();
    loop {
        let state = states.borrow_and_update().clone();
        if state.generation > begun.state.generation {
            break;
        }
        if !state.members.is_empty() {
            tracing::warn!("the others are back, and this node is with them: the reform is dropped");
            break;
        }
        if node.consensus.leader().borrow().as_ref() == Some(node.me()) {
            let _ = node.propose(Change::Reform { state: Box::new(begun.state.clone()) }).await;
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), states.changed()).await;
    }
    if let Err(error) = disk.remove(FILE) {
        tracing::error!(%error, "the reform is done, and its state file can't be removed: remove it by hand");
    }
}

/// Asks the other nodes for ever; returns when this node's group is over.
pub(crate) async fn keep_asking(node: Arc<Node>) {
    loop {
        for member in node.config.others() {
            let answer: Result<u64, _> = node.peers.call(&member.name, "cluster/generation", &(), ASK).await;
            let own = node.state().generation;
            if let Ok(theirs) = answer
                && theirs > own
                && !node.state().members.is_empty()
            {
                tracing::warn!(
                    node = %member.name, theirs, own,
                    "an operator has reformed the cluster without this node: its group is over, it joins the new one"
                );
                node.restart.send_replace(Some(Restart::Superseded));
            }
        }
        readmit(&node).await;
        let led = node.consensus.leader().borrow().is_some();
        tokio::time::sleep(if led { ASK_SELDOM } else { ASK }).await;
    }
}

/// A node that has joined a reformed group gets its vote back.
async fn readmit(node: &Node) {
    let state = node.state();
    let without_vote = state.members.get(node.me()).is_some_and(|m| !m.voter);
    if without_vote && node.config.me.voter {
        let _ = node.propose(Change::Readmit { node: node.me().clone() }).await;
    }
}
