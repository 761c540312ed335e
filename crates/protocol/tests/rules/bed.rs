//! A cluster of three as the rules see it, and its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trine_protocol::{
    Change, ClusterState, Command, Controller, Copy, Database, Epoch, Heard, Member, Moment, NodeName, Outcome,
    Position, Reign, Report, Seal, Settings, SyncRule, Verdict, elect,
};

pub(crate) fn name(i: usize) -> NodeName {
    format!("n{i}").parse().unwrap()
}

pub(crate) fn names(these: &[usize]) -> BTreeSet<NodeName> {
    these.iter().map(|i| name(*i)).collect()
}

pub(crate) fn rule(primary: usize, standbys: &[usize]) -> SyncRule {
    let acks = standbys.len().min(1);
    SyncRule { primary: name(primary), standbys: names(standbys), acks }
}

pub(crate) fn at(ms: u64) -> Moment {
    Moment::from_nanos(ms * 1_000_000)
}

pub(crate) fn apply(state: &mut ClusterState, change: Change) -> Outcome {
    state.apply(&Command { by: name(1), at_ms: 0, change })
}

pub(crate) fn accepted(state: &mut ClusterState, change: Change) {
    let outcome = apply(state, change);
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
}

pub(crate) fn begin(state: &ClusterState) -> Change {
    Change::BeginEpoch {
        from: state.epoch,
        epoch: state.epoch.next(),
        because: "a test".to_owned(),
        prefer: None,
        accept_loss: false,
        without: None,
        evidence: BTreeMap::new(),
    }
}

pub(crate) fn elected(state: &ClusterState, rule: SyncRule) -> Change {
    Change::Elect {
        epoch: state.epoch,
        primary: rule.primary.clone(),
        rule,
        interim: false,
        position: Position::default(),
        evidence: BTreeMap::new(),
    }
}

pub(crate) fn to_become(state: &ClusterState, rule: SyncRule) -> Change {
    Change::ChangeRule { epoch: state.epoch, rule, because: "a test".to_owned() }
}

/// Three nodes, n1 has the first copy; epoch 1 is vacant.
pub(crate) fn new_cluster() -> ClusterState {
    let member = |i: usize| Member { zone: i.to_string(), address: String::new(), voter: true, priority: 100 };
    let mut state = ClusterState::default();
    accepted(
        &mut state,
        Change::Create {
            cluster: "test".to_owned(),
            cluster_id: "1".to_owned(),
            engine: "log".to_owned(),
            settings: Settings::default(),
            members: (1..=3).map(|i| (name(i), member(i))).collect(),
            seed: name(1),
        },
    );
    let begun = begin(&state);
    accepted(&mut state, begun);
    state
}

/// n1 leads and is open, n2 and n3 may acknowledge.
pub(crate) fn open_cluster() -> ClusterState {
    let mut state = new_cluster();
    let change = elected(&state, rule(1, &[2, 3]));
    accepted(&mut state, change);
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    state
}

pub(crate) fn report(state: &ClusterState, database: Database) -> Report {
    let position = Some(Position { epoch: Epoch(1), offset: 10 });
    let standbys = match database {
        Database::Primary { .. } => state.members.keys().cloned().zip(position.iter().copied().cycle()).collect(),
        _ => BTreeMap::new(),
    };
    Report {
        promised: state.epoch,
        seen: state.held().map_or(Epoch::ZERO, |_| state.epoch),
        silence: Duration::ZERO,
        seal: state.held().is_none().then_some(Seal { epoch: state.epoch, lease_left: Duration::ZERO, position }),
        data: Copy::Complete,
        database,
        floor: Epoch(1),
        position,
        replay_lag: 0,
        failed: None,
        yielded: None,
        needs: None,
        standbys,
        reaches: BTreeSet::new(),
    }
}

/// What the nodes of a healthy cluster say.
pub(crate) fn reports(state: &ClusterState) -> BTreeMap<NodeName, Report> {
    let database = |n: &NodeName| match &state.reign {
        Reign::Vacant { .. } => Database::Sealed,
        Reign::Held(h) if h.primary == *n => Database::Primary { epoch: state.epoch },
        Reign::Held(_) => Database::Following { epoch: state.epoch, streaming: true },
    };
    state.members.keys().map(|n| (n.clone(), report(state, database(n)))).collect()
}

pub(crate) fn step(
    controller: &mut Controller,
    state: &ClusterState,
    reports: &BTreeMap<NodeName, Report>,
    now: Moment,
) -> Vec<Change> {
    let heard = reports.iter().map(|(n, r)| (n.clone(), Heard { report: r.clone(), at: now })).collect();
    controller.step(state, &heard, now)
}

pub(crate) fn verdict(state: &ClusterState, reports: &BTreeMap<NodeName, Report>) -> Verdict {
    elect(state, &reports.iter().map(|(n, r)| (n.clone(), r)).collect())
}
