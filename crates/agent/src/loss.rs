//! The way out when what is left can't prove that it has everything: a person decides, and sees an estimate first.

use std::sync::Arc;

use trine_api::{Accepted, LossEstimate, Refused};
use trine_engine::Scale;
use trine_protocol::{Moment, NodeName, Position, Reign, Wish};

use crate::control::{change, present};
use crate::generation::Restart;
use crate::known::Known;
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
    let estimate = estimate(&node.known(), node.engine.scale(), winner.clone(), position, node.clock.now());
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
    let asked = present(node).await?.asking(Wish::Failover { to, accept_loss: true });
    let number = change(node, asked).await?;
    Ok(Accepted { request: Some(number), message: "taken".to_owned(), estimate: Some(estimate) })
}

/// What would be lost if `winner`, whose data reaches `position`, led now.
fn estimate(known: &Known, scale: Scale, winner: NodeName, position: Position, now: Moment) -> LossEstimate {
    let furthest = known.furthest();
    let behind = known.behind(position, now);
    // Of another epoch's log at least this much; how much of its own end `winner` would lose as well nobody knows.
    let lost = furthest.and_then(|f| scale.between(position, f.position));
    let lost = lost.filter(|b| *b > 0 || furthest.is_some_and(|f| f.position <= position));
    let show = |p: Position| format!("epoch {} at {}", p.epoch, scale.show(p));
    let mut text = format!("{winner} would lead with data up to {}. ", show(position));
    if let Some(told) = furthest.filter(|f| f.position > position) {
        let ago = now.since(told.at).as_secs();
        text.push_str(&format!("{} told {ago} s ago that its data reaches {}. ", told.node, show(told.position)));
    }
    text.push_str("Commits that only nodes that do not answer have are lost for good");
    LossEstimate {
        node: winner,
        position: show(position),
        furthest_known: furthest.map(|f| show(f.position)),
        lost_bytes: lost.filter(|_| scale == Scale::Bytes),
        lost_transactions: lost.filter(|_| scale == Scale::Transactions),
        lost_seconds: behind.map(|b| b.as_secs_f64()),
        text,
    }
}

#[cfg(test)]
mod tests {
    use trine_protocol::Epoch;

    use super::*;

    fn name(i: u8) -> NodeName {
        format!("n{i}").parse().unwrap()
    }

    fn position(epoch: u64, offset: u64) -> Position {
        Position { epoch: Epoch(epoch), offset }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_would_be_lost_as_far_as_it_is_known() {
        let mut known = Known::default();
        let told = estimate(&known, Scale::Bytes, name(3), position(4, 0x100), at(9));
        assert_eq!((told.furthest_known, told.lost_bytes, told.lost_seconds), (None, None, None));
        for (second, offset) in [(1, 0x100), (2, 0x180), (3, 0x200)] {
            known.hear(Some(&name(1)), [(&name(1), position(4, offset))].into_iter(), at(second));
        }
        let told = estimate(&known, Scale::Bytes, name(3), position(4, 0x100), at(9));
        assert_eq!(told.furthest_known.as_deref(), Some("epoch 4 at 0/00000200"));
        assert_eq!((told.lost_bytes, told.lost_seconds), (Some(0x100), Some(8.0)));
        for word in ["n3", "epoch 4 at 0/00000100", "n1", "6 s ago", "epoch 4 at 0/00000200"] {
            assert!(told.text.contains(word), "{word:?} is missing: {}", told.text);
        }
        // It has all that was ever told of.
        let told = estimate(&known, Scale::Bytes, name(2), position(4, 0x200), at(9));
        assert_eq!((told.lost_bytes, told.lost_seconds), (Some(0), Some(6.0)));
        // Its log went its own way, in an older epoch.
        let told = estimate(&known, Scale::Bytes, name(2), position(3, 0x900), at(9));
        assert_eq!((told.lost_bytes, told.lost_seconds), (None, None));
        // Of a log that is counted in transactions.
        let number = |count: u64| Position { epoch: Epoch(5), offset: (5 << 40) + count };
        known.hear(Some(&name(1)), [(&name(1), number(9))].into_iter(), at(4));
        let told = estimate(&known, Scale::Transactions, name(3), number(4), at(9));
        assert_eq!((told.lost_bytes, told.lost_transactions), (None, Some(5)));
        assert_eq!(told.furthest_known.as_deref(), Some("epoch 5 at 5:9"));
    }
}
