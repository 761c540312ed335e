//! The way out when what is left can't prove that it has everything: a person decides, and sees an estimate first.

use std::sync::Arc;

use trine_api::{Accepted, LossEstimate, Refused};
use trine_protocol::{Change, NodeName, Outcome, Position, Reign, Wish};

use crate::generation::Restart;
use crate::node::Node;

/// Estimates, and with `confirm` asks for the election.
pub(crate) async fn accept(node: &Arc<Node>, to: Option<NodeName>, confirm: bool) -> Result<Accepted, Refused> {
    let state = node.state();
    if !matches!(state.reign, Reign::Vacant { .. }) && crate::control::status(node).writable {
        return Err(Refused::not_safe("the cluster has a primary that takes writes: nothing has to be given up"));
    }
    let digest = node.digest.borrow().clone();
    let own = crate::reporter::account(node);
    let mut positions: Vec<(NodeName, Position)> =
        digest.accounts.iter().filter_map(|(n, a)| Some((n.clone(), a.report.position?))).collect();
    if let Some(position) = own.report.position {
        positions.retain(|(n, _)| n != node.me());
        positions.push((node.me().clone(), position));
    }
    let reachable = |n: &NodeName| to.as_ref().is_none_or(|to| to == n);
    let best = positions.iter().filter(|(n, _)| reachable(n)).max_by_key(|(_, p)| *p).cloned();
    let Some((winner, position)) = best else {
        return Err(Refused::failed("no node that answers has a copy of the data"));
    };
    let show = |p: Position| format!("epoch {} at {:X}/{:08X}", p.epoch, p.offset >> 32, p.offset & 0xFFFF_FFFF);
    let estimate = LossEstimate {
        node: winner.clone(),
        position: show(position),
        furthest_known: None,
        lost_bytes: None,
        lost_seconds: None,
        text: format!(
            "{winner} would lead with data up to {}. Commits that only nodes that do not answer have are lost for good",
            show(position)
        ),
    };
    if !confirm {
        return Ok(Accepted { request: None, message: estimate.text.clone(), estimate: Some(estimate) });
    }
    if node.consensus.leader().borrow().is_none() {
        // No majority, so nobody can decide by vote: this node goes on without the others.
        if winner != *node.me() {
            return Err(Refused::wrong_use(format!("ask {winner} itself: only the node that is to go on can do this")));
        }
        tracing::warn!("an operator gives up the majority of the voters: this node goes on alone");
        node.restart.send_replace(Some(Restart::Reform(state)));
        let message = format!(
            "{winner} goes on without the others, in a consensus group of its own; when they come back they join it, and \
             what only they had is kept aside in their kept/ folders"
        );
        return Ok(Accepted { request: None, message, estimate: Some(estimate) });
    }
    match node.propose(Change::Ask(Wish::Failover { to, accept_loss: true })).await {
        Some(Outcome::Applied(number)) => {
            Ok(Accepted { request: Some(number), message: "taken".to_owned(), estimate: Some(estimate) })
        }
        Some(Outcome::Refused(why)) => Err(Refused::failed(why)),
        None => Err(Refused::failed("no majority of the voters answers, so nothing can be decided")),
    }
}
