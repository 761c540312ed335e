//! The controller: on the Raft leader, it looks at the whole state and names what to do next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::command::{Change, Durability, Evidence, Wish};
use crate::election::{Verdict, elect, elect_without, rule_for};
use crate::failing::Failing;
use crate::report::{Copy, Database, Repair, Report};
use crate::stall::Stall;
use crate::state::{ClusterState, Held, Reign};
use crate::{Epoch, Moment, NodeName};

/// A report older than this is no opinion. Five polls of 100 ms.
const FRESH: Duration = Duration::from_millis(500);

/// How long a safe election waits for nodes that are about to report, so that they enter the first sync rule.
const COMPANY: Duration = Duration::from_millis(150);

/// An election that is still impossible after this raises an alarm.
const STUCK: Duration = Duration::from_secs(5);

/// A barrier that has not passed after this raises an alarm, and allows a rebuild where a rewind is forbidden: long enough
/// for a standby that was only restarting to come back.
const CLOSED: Duration = Duration::from_secs(30);

/// The alarm that no primary can be elected safely.
pub const NO_PRIMARY: &str = "no-primary";

/// The alarm that an epoch has a primary and its open barrier does not pass. It also allows a node to rebuild its copy
/// that must not rewind it, because the copy is evidence (see [`goal`](crate::goal())).
pub(crate) const NOT_OPEN: &str = "not-open";

/// A switchover's target may lag by at most this, in bytes: one WAL segment, which crosses a network in about 0.1 s.
const SWITCHOVER_LAG: u64 = 16 << 20;

/// A rebuild that was asked for ends when its node has not been heard for so long: long enough for a restart of its machine's
/// agent. Until it ends nothing else can be asked for but a failover.
const REBUILD_PATIENCE: Duration = Duration::from_secs(30);

/// A switchover that has not stopped the primary after this is given up.
const SWITCHOVER_PATIENCE: Duration = Duration::from_secs(15);

/// An election that leaves a node out and can't be held without it is given up when one that counts it could have been held
/// for so long: a seal takes some 0.1 s, and the others began theirs at the same time.
const LEFT_OUT: Duration = Duration::from_secs(2);

/// A report and when it came.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What the node says.
    pub report: Report,
    /// When the answer arrived here.
    pub at: Moment,
}

/// Decides. What it remembers between steps only delays decisions, never allows one: a new leader begins with none of it.
#[derive(Debug, Default)]
pub struct Controller {
    vacant: Option<(Epoch, Moment)>,
    safe: Option<(Epoch, Moment)>,
    /// When each standby last streamed, in this epoch: its grace begins anew with each primary.
    streamed: (Epoch, BTreeMap<NodeName, Moment>),
    leaving: Option<(Epoch, Moment)>,
    closed: Option<(Epoch, Moment)>,
    /// The rebuild that was asked for of a node that is not heard, and since when.
    unheard: Option<(u64, Moment)>,
    /// An election has been possible for so long but for the node that is left out.
    left_out: Option<(Epoch, Moment)>,
    stall: Stall,
    failing: Failing,
}

impl Controller {
    /// What to propose next. Each change names the epoch that it was decided in, so one that comes late is refused.
    pub fn step(&mut self, state: &ClusterState, heard: &BTreeMap<NodeName, Heard>, now: Moment) -> Vec<Change> {
        if state.members.is_empty() {
            return Vec::new();
        }
        let fresh: BTreeMap<NodeName, &Report> = heard
            .iter()
            .filter(|(name, h)| state.members.contains_key(*name) && now.since(h.at) < FRESH)
            .map(|(name, h)| (name.clone(), &h.report))
            .collect();
        match &state.reign {
            Reign::Vacant { .. } => self.fill(state, &fresh, now),
            Reign::Held(held) => self.keep(state, held, &fresh, now),
        }
    }

    /// The epoch is vacant: elect when it is safe.
    fn fill(&mut self, state: &ClusterState, fresh: &BTreeMap<NodeName, &Report>, now: Moment) -> Vec<Change> {
        if let Some(asked) = asked_failover(state, fresh) {
            return vec![asked];
        }
        // The cluster's first epoch, or a copy that was adopted: the log's own numbering is already there.
        let known = |r: &&&Report| r.data == Copy::Complete && r.floor > Epoch::ZERO;
        let floor = fresh.values().filter(known).map(|r| r.floor).max();
        if let Some(floor) = floor.filter(|f| *f >= state.epoch) {
            let because = format!("epochs up to {floor} are in the log already");
            return begin(state, floor.next(), &because, None).into_iter().collect();
        }
        if state.epoch == Epoch::ZERO {
            // No epoch has begun: the seed makes the first copy.
            return Vec::new();
        }
        let since = remembered(&mut self.vacant, state.epoch, now);
        let mut verdict = elect(state, fresh);
        if let (Verdict::Wait(_), Reign::Vacant { without: Some(out), .. }) = (&verdict, &state.reign) {
            verdict = elect_without(state, fresh, None);
            if let Verdict::Elect { .. } = verdict {
                let possible = remembered(&mut self.left_out, state.epoch, now);
                if now.since(possible) < LEFT_OUT {
                    return Vec::new();
                }
                let because = format!("no primary can be elected without {out}; all are counted");
                return begin(state, state.epoch.next(), &because, None).into_iter().collect();
            }
        }
        match verdict {
            Verdict::Elect { primary, rule, interim, position, evidence } => {
                let safe_since = remembered(&mut self.safe, state.epoch, now);
                let awaited = fresh.values().any(|r| is_about_to_seal(r, state.epoch));
                if awaited && now.since(safe_since) < COMPANY {
                    return Vec::new();
                }
                vec![Change::Elect { epoch: state.epoch, primary, rule, interim, position, evidence }]
            }
            Verdict::Wait(missing) => {
                if now.since(since) < STUCK {
                    return Vec::new();
                }
                let text = format!("no primary can be elected safely: {}", missing.join("; "));
                alarm(state, NO_PRIMARY, text)
            }
        }
    }

    /// The epoch has a primary: is it well, does the sync rule fit, is something asked for?
    fn keep(
        &mut self,
        state: &ClusterState,
        held: &Held,
        fresh: &BTreeMap<NodeName, &Report>,
        now: Moment,
    ) -> Vec<Change> {
        let own = fresh.get(&held.primary).filter(|r| r.yielded != Some(state.epoch));
        if let Some((_, why)) = own.and_then(|r| r.failed.as_ref()).filter(|(epoch, _)| *epoch == state.epoch) {
            // A person need not wait for a pause to be over.
            return match asked_failover(state, fresh) {
                Some(asked) => vec![asked],
                None => self.failing.failed(state, held, why, now),
            };
        }
        if let Some(over) = ended(state, held, fresh) {
            return vec![over];
        }
        if let Some(handing_over) = self.hand_over(state, held, fresh, now) {
            return vec![handing_over];
        }
        if let Some(stalled) = self.stall.step(state, held, fresh, now) {
            return vec![stalled];
        }
        let mut changes: Vec<Change> = self.failing.well(state, held, now).into_iter().collect();
        if held.opened && state.alarms.contains_key(NO_PRIMARY) {
            changes.push(Change::ClearAlarm { alarm: NO_PRIMARY.to_owned() });
        }
        changes.extend(self.closed(state, held, now));
        let eligible = self.eligible(state, held, fresh, now);
        if held.leaving.is_none() {
            changes.extend(sync_rule(state, held, &eligible, fresh));
        }
        changes.extend(self.wish(state, held, &eligible, fresh, now));
        changes
    }

    /// An interim primary leaves to a node that may lead, as in a switchover: one that is just ended may have an end
    /// that its heir has not, and then its copy can't follow while it is evidence, nor the epoch open without it.
    fn hand_over(
        &mut self,
        state: &ClusterState,
        held: &Held,
        fresh: &BTreeMap<NodeName, &Report>,
        now: Moment,
    ) -> Option<Change> {
        if !(held.opened && held.interim) {
            return None;
        }
        let heir = heir(state, fresh)?;
        if held.leaving.is_none() {
            return Some(Change::StartSwitchover { epoch: state.epoch, target: heir });
        }
        let since = remembered(&mut self.leaving, state.epoch, now);
        if now.since(since) < SWITCHOVER_PATIENCE {
            return None;
        }
        let because = format!("{} must not lead and has not stopped within {SWITCHOVER_PATIENCE:?}", held.primary);
        begin(state, state.epoch.next(), &because, Some(heir))
    }

    /// The alarm about a barrier that does not pass.
    fn closed(&mut self, state: &ClusterState, held: &Held, now: Moment) -> Vec<Change> {
        if held.opened {
            let raised = state.alarms.contains_key(NOT_OPEN);
            return raised.then(|| Change::ClearAlarm { alarm: NOT_OPEN.to_owned() }).into_iter().collect();
        }
        if now.since(remembered(&mut self.closed, state.epoch, now)) < CLOSED {
            return Vec::new();
        }
        let text = format!(
            "{} has not opened in epoch {}: its database is not up yet, or no commit passes through the sync rule",
            held.primary, state.epoch
        );
        alarm(state, NOT_OPEN, text)
    }

    /// The standbys that may stand in the sync rule. One that has lost its stream stays for the grace.
    fn eligible(
        &mut self,
        state: &ClusterState,
        held: &Held,
        fresh: &BTreeMap<NodeName, &Report>,
        now: Moment,
    ) -> BTreeSet<NodeName> {
        let grace = Duration::from_millis(state.settings.grace_ms);
        if self.streamed.0 != state.epoch {
            self.streamed = (state.epoch, BTreeMap::new());
        }
        let mut eligible = BTreeSet::new();
        for (name, member) in &state.members {
            if *name == held.primary || !member.voter {
                continue;
            }
            let report = fresh.get(name);
            // Both ends must say so: a receiver that hangs looks well from its own side.
            let sent = fresh.get(&held.primary).is_some_and(|r| r.standbys.contains_key(name));
            if sent && report.is_some_and(|r| is_streaming(r, state.epoch)) {
                self.streamed.1.insert(name.clone(), now);
                eligible.insert(name.clone());
                continue;
            }
            if report.is_some_and(|r| r.needs.is_some() || r.data != Copy::Complete) {
                continue;
            }
            let last = *self.streamed.1.entry(name.clone()).or_insert(now);
            if held.target().standbys.contains(name) && now.since(last) < grace {
                eligible.insert(name.clone());
            }
        }
        eligible
    }

    fn wish(
        &mut self,
        state: &ClusterState,
        held: &Held,
        eligible: &BTreeSet<NodeName>,
        fresh: &BTreeMap<NodeName, &Report>,
        now: Moment,
    ) -> Vec<Change> {
        let Some((number, wish)) = &state.wish else { return Vec::new() };
        let refuse = |why: String| vec![Change::EndWish { number: *number, outcome: Err(why) }];
        match wish {
            Wish::Switchover { .. } if held.leaving.is_some() => {
                let since = remembered(&mut self.leaving, state.epoch, now);
                if now.since(since) < SWITCHOVER_PATIENCE {
                    return Vec::new();
                }
                self.leaving = None;
                refuse(format!("{} has not stopped within {SWITCHOVER_PATIENCE:?}; it goes on", held.primary))
            }
            Wish::Switchover { .. } if !held.opened => Vec::new(),
            Wish::Switchover { to } => match switchover_target(state, to.as_ref(), eligible, fresh) {
                Ok(target) => vec![Change::StartSwitchover { epoch: state.epoch, target }],
                Err(why) => refuse(why),
            },
            Wish::Rebuild { node } => {
                if *node == held.primary {
                    return refuse(format!("{node} has become the primary"));
                }
                if fresh.contains_key(node) {
                    // It ends the wish itself when its new copy is complete.
                    self.unheard = None;
                    return Vec::new();
                }
                let since = remembered(&mut self.unheard, *number, now);
                if now.since(since) < REBUILD_PATIENCE {
                    return Vec::new();
                }
                refuse(format!("{node} has not been heard for {REBUILD_PATIENCE:?}; start its agent, and ask again"))
            }
            Wish::Failover { .. } => Vec::new(),
        }
    }
}

/// The sync rule that fits the standbys, when it is another than the present one.
fn sync_rule(
    state: &ClusterState,
    held: &Held,
    eligible: &BTreeSet<NodeName>,
    fresh: &BTreeMap<NodeName, &Report>,
) -> Vec<Change> {
    let target = held.target();
    let rule = rule_for(state, held.primary.clone(), eligible.clone());
    let short = eligible.len() < state.settings.acks;
    let mut changes = Vec::new();
    // Strict, and too few standbys: a smaller rule acknowledges nothing more, and makes the primary the only proof of what
    // was. So the present one stays, unless a standby's copy has to be rewound, which needs rules without it: also those that
    // a change is to replace, because that change may wait for a standby that never comes back.
    let mut named = std::iter::once(&held.rule).chain(&held.pending).flat_map(|r| &r.standbys);
    let someone_rewinds = named.any(|n| fresh.get(n).is_some_and(|r| waits_for_rewind(r)));
    let pointless = short && state.settings.durability == Durability::Strict && !someone_rewinds;
    // Nor is anything changed for a primary that is not known to be there: it would bind an election, and help nobody.
    let leads = |r: &&&Report| r.database == Database::Primary { epoch: state.epoch };
    let is_there = fresh.get(&held.primary).filter(leads).is_some();
    // Before the epoch is open each change delays the opening; the first rule will do as long as it can be met.
    let streaming = target.standbys.iter().filter(|n| fresh.get(*n).is_some_and(|r| is_streaming(r, state.epoch)));
    let early = !held.opened && !target.standbys.is_empty() && streaming.count() >= target.acks;
    if rule != *target && !pointless && is_there && !early {
        let because = explain(target.standbys.iter().collect(), eligible.iter().collect());
        changes.push(Change::ChangeRule { epoch: state.epoch, rule, because });
    }
    match (short, state.alarms.contains_key("too-few-standbys")) {
        (true, false) if held.opened => {
            let text = match state.settings.durability {
                Durability::Strict => "too few standbys: commits wait until one is back (durability = strict)",
                Durability::Available => "too few standbys: commits are on the primary alone (durability = available)",
            };
            changes.extend(alarm(state, "too-few-standbys", text.to_owned()));
        }
        (false, true) => changes.push(Change::ClearAlarm { alarm: "too-few-standbys".to_owned() }),
        _ => {}
    }
    changes
}

/// Why the epoch is over, if it is.
fn ended(state: &ClusterState, held: &Held, fresh: &BTreeMap<NodeName, &Report>) -> Option<Change> {
    let own = fresh.get(&held.primary);
    if own.is_some_and(|r| r.yielded == Some(state.epoch)) {
        let because = match held.interim {
            true => format!("{} must not lead and has handed its data on", held.primary),
            false => "switchover".to_owned(),
        };
        return begin(state, state.epoch.next(), &because, held.leaving.clone());
    }
    if let Some(asked) = asked_failover(state, fresh) {
        return Some(asked);
    }
    if held.opened && held.leaving.is_none() && are_voters_new(state, held, fresh) {
        return begin(state, state.epoch.next(), "the voters have changed", Some(held.primary.clone()));
    }
    let suspect = Duration::from_millis(state.settings.suspect_ms);
    let silent: Vec<&NodeName> = state
        .voters()
        .filter(|n| fresh.get(*n).is_some_and(|r| r.seen == state.epoch && r.silence >= suspect))
        .collect();
    if silent.len() < state.majority() {
        return None;
    }
    let because = format!("{} is suspected: a majority of voters has not renewed its lease lately", held.primary);
    begin(state, state.epoch.next(), &because, held.leaving.clone()).map(|c| with_evidence(c, evidence_of(fresh)))
}

/// Are there voters who count only from the next epoch on, and are all of them well?
fn are_voters_new(state: &ClusterState, held: &Held, fresh: &BTreeMap<NodeName, &Report>) -> bool {
    let now: BTreeSet<&NodeName> = state.voters().collect();
    let then: BTreeSet<&NodeName> = state.voters_to_be().collect();
    let well = |n: &NodeName| *n == held.primary || fresh.get(n).is_some_and(|r| is_streaming(r, state.epoch));
    now != then && then.iter().all(|n| well(n))
}

/// A standby that may lead and has all that the interim primary has.
fn heir(state: &ClusterState, fresh: &BTreeMap<NodeName, &Report>) -> Option<NodeName> {
    let may = |n: &NodeName| state.members.get(n).is_some_and(|m| m.priority > 0);
    let has_all = |r: &Report| is_streaming(r, state.epoch) && r.position.is_some_and(|p| p.epoch == state.epoch);
    fresh.iter().find(|(n, r)| may(n) && has_all(r)).map(|(n, _)| n.clone())
}

/// Who is to follow in a switchover, or why it can't be now.
fn switchover_target(
    state: &ClusterState,
    to: Option<&NodeName>,
    eligible: &BTreeSet<NodeName>,
    fresh: &BTreeMap<NodeName, &Report>,
) -> Result<NodeName, String> {
    let fit = |n: &NodeName| -> Result<u64, String> {
        if state.members.get(n).is_none_or(|m| m.priority == 0) {
            return Err(format!("{n} must not lead: its priority is 0"));
        }
        let report = fresh.get(n).filter(|_| eligible.contains(n));
        let Some(report) = report.filter(|r| is_streaming(r, state.epoch)) else {
            return Err(format!("{n} is not streaming from the primary"));
        };
        if report.replay_lag > SWITCHOVER_LAG {
            return Err(format!("{n} has {} bytes to replay; at most {SWITCHOVER_LAG} are allowed", report.replay_lag));
        }
        Ok(report.replay_lag)
    };
    if let Some(to) = to {
        return fit(to).map(|_| to.clone());
    }
    let best = eligible
        .iter()
        .filter_map(|n| fit(n).ok().map(|lag| (n, lag)))
        .min_by_key(|(n, lag)| (std::cmp::Reverse(state.members.get(*n).map_or(0, |m| m.priority)), *lag));
    best.map(|(n, _)| n.clone()).ok_or_else(|| "no standby is streaming, allowed to lead and close enough".to_owned())
}

pub(crate) fn is_streaming(report: &Report, epoch: Epoch) -> bool {
    report.data == Copy::Complete
        && report.needs.is_none()
        && matches!(report.database, Database::Following { epoch: e, streaming: true } if e == epoch)
}

/// A whole copy that has to lose its end before it can follow. (A lost or half-made one proves nothing, and is rebuilt
/// beside what is there: that needs no change of the rule.)
fn waits_for_rewind(report: &Report) -> bool {
    report.data == Copy::Complete && report.needs == Some(Repair::Rewind)
}

/// It runs and has not sealed: its report is a matter of milliseconds.
fn is_about_to_seal(report: &Report, epoch: Epoch) -> bool {
    let done = report.seal.is_some_and(|s| s.epoch == epoch && s.position.is_some() && s.lease_left.is_zero());
    !done && report.data == Copy::Complete && matches!(report.database, Database::Following { .. } | Database::Sealed)
}

pub(crate) fn begin(state: &ClusterState, epoch: Epoch, because: &str, prefer: Option<NodeName>) -> Option<Change> {
    (epoch > state.epoch).then(|| Change::BeginEpoch {
        from: state.epoch,
        epoch,
        because: because.to_owned(),
        prefer,
        accept_loss: false,
        without: None,
        evidence: Evidence::new(),
    })
}

fn asked_failover(state: &ClusterState, fresh: &BTreeMap<NodeName, &Report>) -> Option<Change> {
    let Some((_, Wish::Failover { to, accept_loss })) = &state.wish else { return None };
    Some(Change::BeginEpoch {
        from: state.epoch,
        epoch: state.epoch.next(),
        because: "an operator asks for a failover".to_owned(),
        prefer: to.clone(),
        accept_loss: *accept_loss,
        without: None,
        evidence: evidence_of(fresh),
    })
}

fn with_evidence(change: Change, new: Evidence) -> Change {
    match change {
        Change::BeginEpoch { from, epoch, because, prefer, accept_loss, without, .. } => {
            Change::BeginEpoch { from, epoch, because, prefer, accept_loss, without, evidence: new }
        }
        other => other,
    }
}

fn evidence_of(fresh: &BTreeMap<NodeName, &Report>) -> Evidence {
    let about = |r: &Report| format!("{}, no lease renewed here for {} ms", r.database, r.silence.as_millis());
    fresh.iter().map(|(n, r)| (format!("report of {n}"), about(r))).collect()
}

pub(crate) fn alarm(state: &ClusterState, alarm: &str, text: String) -> Vec<Change> {
    if state.alarms.get(alarm) == Some(&text) {
        return Vec::new();
    }
    vec![Change::RaiseAlarm { alarm: alarm.to_owned(), text, evidence: Evidence::new() }]
}

/// Since when this has been so for this epoch (or wish), as far as this controller has seen.
pub(crate) fn remembered<T: PartialEq>(slot: &mut Option<(T, Moment)>, what: T, now: Moment) -> Moment {
    match slot {
        Some((of, since)) if *of == what => *since,
        _ => {
            *slot = Some((what, now));
            now
        }
    }
}

fn explain(old: BTreeSet<&NodeName>, new: BTreeSet<&NodeName>) -> String {
    let mut parts: Vec<String> = new.difference(&old).map(|n| format!("{n} streams")).collect();
    parts.extend(old.difference(&new).map(|n| format!("{n} does not keep up")));
    parts.join(", ")
}
