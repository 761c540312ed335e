//! Who may lead an epoch, seen from the nodes that have sealed it.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{Copy, Report};
use crate::state::{ClusterState, Reign};
use crate::{Durability, Epoch, Evidence, NodeName, Position, SyncRule};

/// What the sealed nodes allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This one, under this rule.
    Elect {
        /// The furthest.
        primary: NodeName,
        /// Its first sync rule.
        rule: SyncRule,
        /// It must not lead, and only hands its data on.
        interim: bool,
        /// How far its data reaches.
        position: Position,
        /// What was compared.
        evidence: Evidence,
    },
    /// Not yet: what is missing, in one sentence for each.
    Wait(Vec<String>),
}

/// Decides the vacant epoch of `state` from what the nodes report.
///
/// A report counts only when its seal is of this very epoch: its position was read after the promise was on disk and
/// replication from older epochs was cut, and the leases it granted are over.
///
/// Of a node that the state leaves out only the promise counts: then the others must be safe without its copy, able to lead,
/// and enough for the first rule to be met without it (its copy may have to be rewound, which no rule may name it for).
#[must_use]
pub fn elect(state: &ClusterState, reports: &BTreeMap<NodeName, &Report>) -> Verdict {
    let without = match &state.reign {
        Reign::Vacant { without, .. } => without.as_ref(),
        Reign::Held(_) => None,
    };
    elect_without(state, reports, without)
}

/// The same, whoever the state leaves out.
pub(crate) fn elect_without(
    state: &ClusterState,
    reports: &BTreeMap<NodeName, &Report>,
    without: Option<&NodeName>,
) -> Verdict {
    let Reign::Vacant { prefer, accept_loss, .. } = &state.reign else {
        return Verdict::Wait(vec!["the epoch has a primary".to_owned()]);
    };
    let mut missing = Vec::new();

    let promised = state.voters().filter(|n| reports.get(n).is_some_and(|r| has_promised(r, state.epoch))).count();
    if promised < state.majority() {
        missing.push(format!("{promised} of {} voters have sealed and seen out their leases", state.majority()));
    }

    let mut sealed = sealed_positions(state, reports);
    sealed.retain(|n, _| Some(n) != without);
    let names: BTreeSet<NodeName> = sealed.keys().cloned().collect();
    for rule in state.rules_in_force() {
        if !rule.is_safe(&names) && !accept_loss {
            let absent: Vec<&str> = rule.nodes().filter(|n| !names.contains(*n)).map(NodeName::as_str).collect();
            missing.push(format!(
                "a commit acknowledged by {} and {} of its standbys may be only on {}",
                rule.primary,
                rule.acks,
                absent.join(", ")
            ));
        }
    }

    let Some(furthest) = sealed.values().max().copied() else {
        missing.push("no sealed node has a complete copy of the data".to_owned());
        return Verdict::Wait(missing);
    };
    let equals = sealed.iter().filter(|(_, p)| **p == furthest).map(|(n, _)| n);
    let best = equals.max_by_key(|n| {
        let priority = state.members.get(*n).map_or(0, |m| m.priority);
        let lag = reports.get(*n).map_or(u64::MAX, |r| r.replay_lag);
        // A node of priority 0 loses even where it is preferred.
        (priority > 0, prefer.as_ref() == Some(*n), priority, std::cmp::Reverse(lag), std::cmp::Reverse((*n).clone()))
    });
    let Some(primary) = best.cloned() else { return Verdict::Wait(missing) };
    let may_lead = |n: &NodeName| state.members.get(n).is_some_and(|m| m.priority > 0);
    let interim = !may_lead(&primary);
    if let Some(out) = without.filter(|_| interim) {
        missing
            .push(format!("{primary} has the most but for {out}, which is left out, and must not lead (priority 0)"));
    }
    // The other may have no copy yet: then it gets one from the interim primary, and leads after that.
    if interim && !reports.keys().any(may_lead) {
        missing.push(format!("{primary} has the data but must not lead (priority 0), and no other node is there"));
    }
    let votes = |n: &NodeName| state.members.get(n).is_some_and(|m| m.voter);
    let standbys: BTreeSet<NodeName> = names.iter().filter(|n| **n != primary && votes(n)).cloned().collect();
    if let Some(out) = without.filter(|_| standbys.len() < state.settings.acks) {
        let (few, acks) = (standbys.len(), state.settings.acks);
        missing.push(format!("{primary} would have {few} standbys without {out}, and {acks} must have a commit"));
    }
    if !missing.is_empty() {
        return Verdict::Wait(missing);
    }

    let rule = rule_for(state, primary.clone(), standbys);
    let mut evidence: Evidence = sealed.iter().map(|(n, p)| (format!("position of {n}"), p.to_string())).collect();
    evidence.insert("sealed voters".to_owned(), promised.to_string());
    for rule in &state.guarding {
        evidence.insert(format!("safe under the rule of {}", rule.primary), rule.to_string());
    }
    if let Some(out) = without {
        evidence.insert("left out".to_owned(), out.to_string());
    }
    Verdict::Elect { primary, rule, interim, position: furthest, evidence }
}

/// The rule for these standbys under the cluster's settings.
///
/// With too few of them for `acks` the strict rule is that only the primary's own copy proves anything: nothing is
/// acknowledged then, but what is on it stays visible.
#[must_use]
pub fn rule_for(state: &ClusterState, primary: NodeName, standbys: BTreeSet<NodeName>) -> SyncRule {
    let acks = match state.settings.durability {
        Durability::Strict => state.settings.acks,
        Durability::Available => state.settings.acks.min(standbys.len()),
    };
    if acks == 0 || standbys.len() < acks {
        return SyncRule::alone(primary);
    }
    SyncRule { primary, standbys, acks }
}

fn has_promised(report: &Report, epoch: Epoch) -> bool {
    report.promised >= epoch && report.seal.is_some_and(|s| s.epoch == epoch && s.lease_left.is_zero())
}

/// The nodes whose data counts, with how far it reaches.
fn sealed_positions(state: &ClusterState, reports: &BTreeMap<NodeName, &Report>) -> BTreeMap<NodeName, Position> {
    let counts = |(name, report): (&NodeName, &&Report)| {
        let seal = report.seal.filter(|s| s.epoch == state.epoch && report.promised >= state.epoch)?;
        let complete = report.data == Copy::Complete && state.members.contains_key(name);
        complete.then_some((name.clone(), seal.position?))
    };
    reports.iter().filter_map(counts).collect()
}
