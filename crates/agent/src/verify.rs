//! The copies' content is compared with each other: from time to time, and when a person asks. Only of engines that keep
//! the copies equal themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use trine_api::{Accepted, Control as _, Refused, Request};
use trine_engine::{Difference, Remedy, Verification};
use trine_protocol::{EventKind, Evidence, NodeName};

use crate::control::NodeControl;
use crate::node::Node;

/// How often it is asked whether it is time.
const LOOK: Duration = Duration::from_secs(30);

/// How long the primary may take to answer that it begins.
const ANSWER: Duration = Duration::from_secs(3);

/// A person asks: the primary begins.
pub(crate) async fn ask(node: &Arc<Node>) -> Result<Accepted, Refused> {
    if node.config.volume.is_none() {
        return Err(Refused::wrong_use(format!(
            "only copies of a volume are compared: a cluster of {} has its database's own means",
            node.config.engine.kind.as_str()
        )));
    }
    let Some(primary) = node.state().primary().cloned() else {
        return Err(Refused::failed("there is no primary that could compare the copies"));
    };
    let begun = if primary == *node.me() {
        begin(node)
    } else {
        let answer = node.peers.call(&primary, "engine/verify", &(), ANSWER).await;
        answer.map_err(|e| Refused::failed(format!("{primary}, the primary, does not answer: {e}")))?
    };
    begun.map_err(Refused::failed)?;
    Ok(Accepted { request: None, message: format!("{primary} compares the copies"), estimate: None })
}

/// This node is to begin; one that is under way goes on.
pub(crate) fn begin(node: &Arc<Node>) -> Result<(), String> {
    if !leads(node) {
        return Err(format!("{} does not lead an open epoch now", node.me()));
    }
    if !is_running(node) {
        node.verify.notify_one();
    }
    Ok(())
}

fn leads(node: &Node) -> bool {
    let state = node.state();
    state.is_open() && state.primary() == Some(node.me()) && node.doing.borrow().leading == Some(state.epoch)
}

fn is_running(node: &Node) -> bool {
    node.verification.borrow().as_ref().is_some_and(|v| v.running)
}

/// Compares for ever.
pub(crate) async fn keep_verifying(node: Arc<Node>) {
    loop {
        let asked = tokio::select! {
            () = node.verify.notified() => true,
            () = sleep(LOOK) => false,
        };
        if !leads(&node) {
            continue;
        }
        // A person who asks does not want to wait; by itself it leaves the disks to the database.
        let pace = match (asked, &node.config.volume) {
            (true, _) => None,
            (false, Some(volume)) if node.engine.is_verification_due().await => Some(volume.verify_pace),
            (false, _) => continue,
        };
        verify(&node, pace).await;
    }
}

async fn verify(node: &Arc<Node>, pace: Option<u64>) {
    let number = node.verification.borrow().as_ref().map_or(1, |v| v.number + 1);
    let (tell, mut told) = watch::channel(Verification::default());
    let show = |seen: &Verification, running, problem| {
        node.verification.send_replace(Some(shown(seen, number, running, problem)));
    };
    show(&Verification::default(), true, None);
    let ended = {
        let mut work = std::pin::pin!(node.engine.verify(pace, &tell));
        loop {
            tokio::select! {
                ended = &mut work => break ended,
                Ok(()) = told.changed() => show(&told.borrow_and_update(), true, None),
            }
        }
    };
    let seen = tell.borrow().clone();
    let problem = ended.err().map(|error| error.chain());
    tracing::info!(bytes = seen.done, differences = seen.differences.len(), ?problem, "the copies were compared");
    for text in sentences(&seen) {
        node.event(EventKind::Failure, text, Evidence::default()).await;
    }
    // What it has found says nothing of the node that leads by now.
    if leads(node) {
        remedy(node, &seen).await;
    }
    show(&seen, false, problem);
}

/// What the engine can't mend by itself.
async fn remedy(node: &Arc<Node>, seen: &Verification) {
    let whose = |outcome| -> BTreeSet<&NodeName> {
        seen.differences.iter().filter(|d| d.outcome == outcome).flat_map(|d| &d.nodes).collect()
    };
    let request = if whose(Remedy::Primary).contains(node.me()) {
        // Its database may have read what is wrong, and the right content is where another one leads.
        Request::Switchover { to: None }
    } else if let Some(odd) = whose(Remedy::Rebuild).into_iter().find(|n| *n != node.me()) {
        Request::Rebuild { node: odd.clone() }
    } else {
        return;
    };
    if let Err(why) = NodeControl(node.clone()).request(request.clone()).await {
        tracing::error!(?request, %why, "what the comparison of the copies asks for can't be done now");
    }
}

fn shown(seen: &Verification, number: u64, running: bool, problem: Option<String>) -> trine_api::Verification {
    trine_api::Verification {
        number,
        running,
        done_bytes: seen.done,
        total_bytes: seen.total,
        copies: seen.copies.unwrap_or(0),
        differences: sentences(seen),
        unrepaired: seen.differences.iter().filter(|d| d.outcome != Remedy::Repaired).count(),
        problem,
    }
}

fn sentences(seen: &Verification) -> Vec<String> {
    let more = (seen.more > 0).then(|| format!("and {} parts more", seen.more));
    seen.differences.iter().map(sentence).chain(more).collect()
}

fn sentence(difference: &Difference) -> String {
    let Difference { what, nodes, outcome } = difference;
    let nodes = nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    match outcome {
        Remedy::Repaired => format!("{what} differed on {nodes}, and was repaired from the others"),
        Remedy::Primary => format!("{what} differs on {nodes}, the primary among them: another node takes over"),
        Remedy::Rebuild => format!("{what} differ on {nodes}: its copy is made anew"),
        Remedy::Undecided => format!("{what} differs between {nodes}, and no majority says which is right"),
        Remedy::Busy => format!("{what} differs on {nodes}, and changes too often to be repaired now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_repaired_counts_as_repaired() {
        let difference = |outcome| Difference { what: "a".into(), nodes: ["n2".parse().unwrap()].into(), outcome };
        let differences = [Remedy::Repaired, Remedy::Undecided, Remedy::Busy].map(difference).into();
        let seen = Verification { done: 5, total: 9, copies: Some(2), differences, more: 7 };
        let shown = shown(&seen, 3, true, None);
        assert_eq!((shown.unrepaired, shown.differences.len(), shown.copies), (2, 4, 2));
        assert_eq!(shown.differences.last().unwrap(), "and 7 parts more");
        assert_eq!(shown.differences.first().unwrap(), "a differed on n2, and was repaired from the others");
    }
}
