//! A primary whose standbys can't take its log, while all agents reach each other: its lease is renewed, so it is not
//! suspected, and its commits wait. Is there a node whose log the others could take?

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::command::{Change, Evidence};
use crate::controller::{is_streaming, remembered};
use crate::report::{Copy, Database, Report};
use crate::state::{ClusterState, Held};
use crate::{Epoch, Moment, NodeName};

/// How long too few standbys must have been without their stream. A receiver connects again within tenths of a second; before
/// it says that it has no stream, it has waited for its own timeout.
const LIMIT: Duration = Duration::from_secs(2);

/// After an epoch that began for this reason, the next begins for it no sooner: a network in which every primary loses its
/// standbys again and again is not helped by more of them.
const AGAIN: Duration = Duration::from_secs(30);

/// What the controller remembers of it. It only delays.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    /// The epoch in which too few standbys stream, and since when.
    since: Option<(Epoch, Moment)>,
    /// The epoch that was last to end for it, and when that was proposed.
    ended: Option<(Epoch, Moment)>,
}

impl Stall {
    /// A new epoch without the primary's copy, if its commits wait and another node would do better.
    pub(crate) fn step(
        &mut self,
        state: &ClusterState,
        held: &Held,
        fresh: &BTreeMap<NodeName, &Report>,
        now: Moment,
    ) -> Option<Change> {
        let Some(idle) = idle_standbys(state, held, fresh) else {
            self.since = None;
            return None;
        };
        let lasted = now.since(remembered(&mut self.since, state.epoch, now));
        if lasted < LIMIT {
            return None;
        }
        if self.ended.is_some_and(|(epoch, at)| epoch != state.epoch && now.since(at) < AGAIN) {
            return None;
        }
        let (heir, witnesses) = heir(state, held, fresh)?;
        self.ended = Some((state.epoch, now));
        let secs = lasted.as_secs_f64();
        let idle = list(&idle, "does", "do");
        let reach = list(&witnesses, "reaches", "reach");
        let primary = &held.primary;
        let because = format!("{idle} not stream from {primary} for {secs:.1} s; {reach} {heir}, and not {primary}");
        Some(Change::BeginEpoch {
            from: state.epoch,
            epoch: state.epoch.next(),
            because,
            prefer: Some(heir),
            accept_loss: false,
            without: Some(held.primary.clone()),
            evidence: fresh.iter().map(|(n, r)| (format!("report of {n}"), account(r))).collect::<Evidence>(),
        })
    }
}

/// The rule's standbys that do not stream, when so few are left that no commit can be acknowledged. One that is not heard may
/// stream.
fn idle_standbys<'a>(
    state: &ClusterState,
    held: &'a Held,
    fresh: &BTreeMap<NodeName, &Report>,
) -> Option<Vec<&'a NodeName>> {
    let rule = held.target();
    let leads = |r: &&Report| r.database == Database::Primary { epoch: state.epoch };
    let is_there = fresh.get(&held.primary).is_some_and(leads);
    if !held.opened || held.interim || held.leaving.is_some() || rule.acks == 0 || !is_there {
        return None;
    }
    let idle = |n: &&NodeName| fresh.get(*n).is_some_and(|r| !is_streaming(r, state.epoch));
    let idle: Vec<&NodeName> = rule.standbys.iter().filter(idle).collect();
    (rule.standbys.len() - idle.len() < rule.acks).then_some(idle)
}

/// Who is to be elected without the primary's copy, and which standbys reach it and not the primary. `None`: the copies that
/// are there are not safe without the primary's, or its commits would wait, too.
fn heir<'a>(
    state: &ClusterState,
    held: &Held,
    fresh: &'a BTreeMap<NodeName, &Report>,
) -> Option<(NodeName, Vec<&'a NodeName>)> {
    let follows = |r: &Report| {
        let follows = matches!(r.database, Database::Following { epoch, .. } if epoch == state.epoch);
        follows && r.data == Copy::Complete && r.needs.is_none()
    };
    let there = || fresh.iter().filter(|(n, r)| **n != held.primary && follows(r));
    let names: BTreeSet<NodeName> = there().map(|(n, _)| n.clone()).collect();
    if !state.rules_in_force().iter().all(|rule| rule.is_safe(&names)) {
        return None;
    }
    let acks = held.target().acks.max(state.settings.acks);
    let furthest = there().map(|(_, r)| r.position).max()?;
    let candidates = there().filter(|(n, r)| {
        let may_lead = state.members.get(*n).is_some_and(|m| m.priority > 0);
        may_lead && r.position == furthest
    });
    let with_witnesses = candidates.map(|(heir, report)| {
        let reaches = |r: &Report| r.reaches.contains(heir) && !r.reaches.contains(&held.primary);
        let votes = |n: &NodeName| state.members.get(n).is_some_and(|m| m.voter);
        let witnesses = there().filter(|(n, r)| *n != heir && votes(n) && !is_streaming(r, state.epoch) && reaches(r));
        (heir, report.replay_lag, witnesses.map(|(n, _)| n).collect::<Vec<_>>())
    });
    let best = with_witnesses.filter(|(.., witnesses)| witnesses.len() >= acks);
    // Among equals as an election does.
    let best = best.max_by_key(|(heir, lag, _)| {
        let priority = state.members.get(*heir).map_or(0, |m| m.priority);
        (priority, Reverse(*lag), Reverse(*heir))
    });
    best.map(|(heir, _, witnesses)| (heir.clone(), witnesses))
}

fn account(report: &Report) -> String {
    let reaches: Vec<&str> = report.reaches.iter().map(NodeName::as_str).collect();
    match reaches.is_empty() {
        true => report.database.to_string(),
        false => format!("{}, reaches {}", report.database, reaches.join(", ")),
    }
}

fn list(names: &[&NodeName], one: &str, more: &str) -> String {
    let verb = if names.len() == 1 { one } else { more };
    let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
    format!("{} {verb}", names.join(", "))
}
