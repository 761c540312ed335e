//! Single decisions of the controller, of an election and of a node, and what the state accepts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests: a panic is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trine_protocol::{
    Change, ClusterState, Command, Condition, Controller, Copy, Database, Durability, Epoch, Goal, Heard, Member,
    Moment, NodeName, Outcome, Position, Reign, Repair, Report, Seal, Settings, SyncRule, SyncSetting, Verdict, Wish,
    elect, goal, must_fence, rule_for, sync_setting,
};

fn name(i: usize) -> NodeName {
    format!("n{i}").parse().unwrap()
}

fn names(these: &[usize]) -> BTreeSet<NodeName> {
    these.iter().map(|i| name(*i)).collect()
}

fn rule(primary: usize, standbys: &[usize]) -> SyncRule {
    let acks = standbys.len().min(1);
    SyncRule { primary: name(primary), standbys: names(standbys), acks }
}

fn at(ms: u64) -> Moment {
    Moment::from_nanos(ms * 1_000_000)
}

fn apply(state: &mut ClusterState, change: Change) -> Outcome {
    state.apply(&Command { by: name(1), at_ms: 0, change })
}

fn accepted(state: &mut ClusterState, change: Change) {
    let outcome = apply(state, change);
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
}

fn begin(state: &ClusterState) -> Change {
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

fn elected(state: &ClusterState, rule: SyncRule) -> Change {
    Change::Elect {
        epoch: state.epoch,
        primary: rule.primary.clone(),
        rule,
        interim: false,
        position: Position::default(),
        evidence: BTreeMap::new(),
    }
}

fn to_become(state: &ClusterState, rule: SyncRule) -> Change {
    Change::ChangeRule { epoch: state.epoch, rule, because: "a test".to_owned() }
}

/// Three nodes, n1 has the first copy; epoch 1 is vacant.
fn new_cluster() -> ClusterState {
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
fn open_cluster() -> ClusterState {
    let mut state = new_cluster();
    let change = elected(&state, rule(1, &[2, 3]));
    accepted(&mut state, change);
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    state
}

fn report(state: &ClusterState, database: Database) -> Report {
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
fn reports(state: &ClusterState) -> BTreeMap<NodeName, Report> {
    let database = |n: &NodeName| match &state.reign {
        Reign::Vacant { .. } => Database::Sealed,
        Reign::Held(h) if h.primary == *n => Database::Primary { epoch: state.epoch },
        Reign::Held(_) => Database::Following { epoch: state.epoch, streaming: true },
    };
    state.members.keys().map(|n| (n.clone(), report(state, database(n)))).collect()
}

fn step(
    controller: &mut Controller,
    state: &ClusterState,
    reports: &BTreeMap<NodeName, Report>,
    now: Moment,
) -> Vec<Change> {
    let heard = reports.iter().map(|(n, r)| (n.clone(), Heard { report: r.clone(), at: now })).collect();
    controller.step(state, &heard, now)
}

fn verdict(state: &ClusterState, reports: &BTreeMap<NodeName, Report>) -> Verdict {
    elect(state, &reports.iter().map(|(n, r)| (n.clone(), r)).collect())
}

#[test]
fn a_late_settling_of_a_rule_is_refused() {
    let mut state = open_cluster();
    let epoch = state.epoch;
    for standby in [2, 3, 2] {
        let change = to_become(&state, rule(1, &[standby]));
        accepted(&mut state, change);
    }
    let settle = |number| Change::RuleRuns { epoch, rule: rule(1, &[2]), number };
    assert!(matches!(apply(&mut state, settle(1)), Outcome::Refused(_)));
    assert_eq!(state.rules_in_force().len(), 3);
    accepted(&mut state, settle(3));
    assert_eq!(state.rules_in_force().into_iter().collect::<Vec<_>>(), vec![&rule(1, &[2])]);
}

#[test]
fn what_comes_late_is_refused() {
    let mut state = open_cluster();
    let (first, begun_again, elected_again) = (state.epoch, begin(&state), elected(&state, rule(2, &[1])));
    let before = state.clone();
    assert!(matches!(apply(&mut state, elected_again.clone()), Outcome::Refused(_)), "it has its primary");
    assert_eq!(state, before);
    accepted(&mut state, begun_again.clone());
    assert!(matches!(apply(&mut state, begun_again), Outcome::Refused(_)), "the epoch that it ends is over");
    assert!(matches!(apply(&mut state, elected_again), Outcome::Refused(_)), "of another epoch");
    let change = elected(&state, rule(2, &[3]));
    accepted(&mut state, change);
    let before = state.clone();
    let late = [
        Change::BarrierPassed { epoch: first },
        Change::ChangeRule { epoch: first, rule: rule(1, &[2]), because: "late".to_owned() },
        Change::RuleRuns { epoch: first, rule: rule(1, &[2]), number: 0 },
        Change::StartSwitchover { epoch: first, target: name(3) },
    ];
    for change in late {
        assert!(matches!(apply(&mut state, change), Outcome::Refused(_)));
    }
    assert_eq!(state, before);
}

#[test]
fn a_primary_ends_with_its_lease_its_promise_and_its_epoch() {
    let mut state = open_cluster();
    let first = state.epoch;
    let ends = |state: &ClusterState, promised, until, now| {
        must_fence(state, &name(1), promised, first, until, at(now)).is_some()
    };
    assert!(!ends(&state, first, Some(at(100)), 99));
    assert!(ends(&state, first, Some(at(100)), 100));
    assert!(ends(&state, first, None, 0));
    assert!(ends(&state, first.next(), Some(at(100)), 0));
    let begun = begin(&state);
    accepted(&mut state, begun);
    assert!(ends(&state, first, Some(at(100)), 0));
}

#[test]
fn rules_that_come_and_go_do_not_pile_up() {
    let mut state = open_cluster();
    for _ in 0..20 {
        for standby in [2, 3] {
            let change = to_become(&state, rule(1, &[standby]));
            accepted(&mut state, change);
        }
    }
    assert_eq!(state.held().unwrap().pending, vec![rule(1, &[2]), rule(1, &[3])]);
}

#[test]
fn the_rules_of_the_last_open_epoch_guard_until_the_next_one_is_open() {
    let mut state = open_cluster();
    let change = to_become(&state, rule(1, &[2]));
    accepted(&mut state, change);
    for primary in [2, 3] {
        let begun = begin(&state);
        accepted(&mut state, begun);
        assert_eq!(state.guarding, vec![rule(1, &[2, 3]), rule(1, &[2])]);
        let change = elected(&state, rule(primary, &[]));
        accepted(&mut state, change);
    }
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    assert_eq!(state.guarding, Vec::new());
    let begun = begin(&state);
    accepted(&mut state, begun);
    assert_eq!(state.guarding, vec![rule(3, &[])]);
}

#[test]
fn new_voters_count_from_the_next_primary_on() {
    let mut lost = open_cluster();
    lost.last_event = 0;
    let mut state = ClusterState::default();
    accepted(&mut state, Change::Reform { state: Box::new(lost) });
    let change = elected(&state, rule(1, &[]));
    accepted(&mut state, change);
    accepted(&mut state, Change::Readmit { node: name(2) });
    accepted(&mut state, Change::Readmit { node: name(3) });
    // The primary holds its lease by its own vote; two promises of the others must not end it.
    assert_eq!((state.majority(), state.voters().cloned().collect()), (1, names(&[1])));
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    let change = Controller::default();
    let heard = reports(&state);
    let begun = step(&mut { change }, &state, &heard, at(1000));
    assert!(matches!(&begun[..], [Change::BeginEpoch { prefer, .. }] if *prefer == Some(name(1))), "{begun:?}");
    accepted(&mut state, begun[0].clone());
    let change = elected(&state, rule(1, &[2, 3]));
    accepted(&mut state, change);
    assert_eq!((state.majority(), state.voters().cloned().collect()), (2, names(&[1, 2, 3])));
}

#[test]
fn too_few_standbys() {
    let mut state = open_cluster();
    assert_eq!(rule_for(&state, name(1), names(&[2])), rule(1, &[2]));
    assert_eq!(rule_for(&state, name(1), names(&[])), rule(1, &[]));
    assert_eq!(sync_setting(&state, &rule(1, &[])), SyncSetting::Wait);
    state.settings.durability = Durability::Available;
    assert_eq!(sync_setting(&state, &rule(1, &[])), SyncSetting::Alone);
    state.settings = Settings { acks: 2, durability: Durability::Strict, ..state.settings };
    assert_eq!(rule_for(&state, name(1), names(&[2])), rule(1, &[]));
    state.settings.acks = 0;
    assert_eq!(rule_for(&state, name(1), names(&[2, 3])), rule(1, &[]));
    assert_eq!(sync_setting(&state, &rule(1, &[])), SyncSetting::Alone);
}

#[test]
fn an_election_wants_a_majority_of_promises_and_safe_data() {
    let mut state = open_cluster();
    let begun = begin(&state);
    accepted(&mut state, begun);
    let all = reports(&state);
    let without = |gone: &[usize]| {
        let gone = names(gone);
        all.iter().filter(|(n, _)| !gone.contains(*n)).map(|(n, r)| (n.clone(), r.clone())).collect::<BTreeMap<_, _>>()
    };
    assert!(matches!(verdict(&state, &without(&[1])), Verdict::Elect { .. }));
    assert!(matches!(verdict(&state, &without(&[1, 2])), Verdict::Wait(_)));
    let spoiled = |spoil: fn(&mut Report)| {
        let mut some = without(&[1]);
        spoil(some.get_mut(&name(2)).unwrap());
        verdict(&state, &some)
    };
    assert!(matches!(spoiled(|r| r.data = Copy::Incomplete), Verdict::Wait(_)));
    assert!(matches!(spoiled(|r| r.promised = Epoch(1)), Verdict::Wait(_)));
    assert!(matches!(spoiled(|r| r.seal.as_mut().unwrap().epoch = Epoch(1)), Verdict::Wait(_)));
    assert!(matches!(spoiled(|r| r.seal.as_mut().unwrap().position = None), Verdict::Wait(_)));
    assert!(matches!(spoiled(|r| r.seal.as_mut().unwrap().lease_left = Duration::from_millis(1)), Verdict::Wait(_)));
}

#[test]
fn a_position_of_another_seal_counts_for_nothing() {
    let mut state = open_cluster();
    let begun = begin(&state);
    accepted(&mut state, begun);
    let winner = |spoil: fn(&mut Report)| {
        let mut all = reports(&state);
        let report = all.get_mut(&name(1)).unwrap();
        report.seal.as_mut().unwrap().position = Some(Position { epoch: Epoch(1), offset: 99 });
        spoil(report);
        match verdict(&state, &all) {
            Verdict::Elect { primary, rule, .. } => (primary, rule.standbys),
            Verdict::Wait(why) => panic!("{why:?}"),
        }
    };
    assert_eq!(winner(|_| ()).0, name(1));
    let others = (name(2), names(&[3]));
    assert_eq!(winner(|r| r.seal.as_mut().unwrap().epoch = Epoch(1)), others);
    assert_eq!(winner(|r| r.promised = Epoch(1)), others);
    assert_eq!(winner(|r| r.data = Copy::Incomplete), others);
}

#[test]
fn the_data_epoch_comes_before_the_offset_and_those_before_preference_and_priority() {
    let mut state = open_cluster();
    let begun = begin(&state);
    accepted(&mut state, begun);
    let winner = |state: &ClusterState, positions: [(u64, u64); 3]| {
        let mut all = reports(state);
        for (i, (epoch, offset)) in positions.into_iter().enumerate() {
            let position = Position { epoch: Epoch(epoch), offset };
            all.get_mut(&name(i + 1)).unwrap().seal.as_mut().unwrap().position = Some(position);
        }
        match verdict(state, &all) {
            Verdict::Elect { primary, interim, .. } => (primary, interim),
            Verdict::Wait(why) => panic!("{why:?}"),
        }
    };
    assert_eq!(winner(&state, [(1, 90), (2, 10), (1, 80)]), (name(2), false));
    assert_eq!(winner(&state, [(2, 10), (2, 10), (2, 11)]), (name(3), false));
    state.members.get_mut(&name(2)).unwrap().priority = 200;
    assert_eq!(winner(&state, [(2, 10), (2, 10), (2, 10)]), (name(2), false));
    let Reign::Vacant { prefer, .. } = &mut state.reign else { panic!("it is vacant") };
    *prefer = Some(name(3));
    assert_eq!(winner(&state, [(2, 10), (2, 10), (2, 10)]), (name(3), false));
    state.members.get_mut(&name(3)).unwrap().priority = 0;
    assert_eq!(winner(&state, [(2, 10), (2, 10), (2, 10)]), (name(2), false));
    assert_eq!(winner(&state, [(2, 10), (2, 10), (2, 11)]), (name(3), true));
}

#[test]
fn a_node_of_priority_0_makes_the_copies_of_those_that_may_lead() {
    let mut state = new_cluster();
    state.members.get_mut(&name(1)).unwrap().priority = 0;
    let mut all = reports(&state);
    for other in [2, 3] {
        let report = all.get_mut(&name(other)).unwrap();
        report.data = Copy::Missing;
        report.seal.as_mut().unwrap().position = None;
    }
    assert!(matches!(verdict(&state, &all), Verdict::Elect { interim: true, .. }));
    state.members.get_mut(&name(2)).unwrap().priority = 0;
    state.members.get_mut(&name(3)).unwrap().priority = 0;
    assert!(matches!(verdict(&state, &all), Verdict::Wait(_)));
}

#[test]
fn an_interim_primary_leaves_cleanly() {
    let mut state = open_cluster();
    let epoch = state.epoch;
    let Reign::Held(held) = &mut state.reign else { panic!("it is held") };
    held.interim = true;
    let mut all = reports(&state);
    for (report, n) in all.values_mut().zip(1..) {
        report.position = Some(Position { epoch, offset: n });
    }
    let mut controller = Controller::default();
    let leaves = Change::StartSwitchover { epoch, target: name(2) };
    assert_eq!(step(&mut controller, &state, &all, at(1000)), std::slice::from_ref(&leaves));
    accepted(&mut state, leaves);
    assert_eq!(step(&mut controller, &state, &all, at(2000)), [], "it stops");
    let begun = |changes: Vec<Change>| match &changes[..] {
        [Change::BeginEpoch { epoch: next, prefer, .. }] => *next == epoch.next() && *prefer == Some(name(2)),
        _ => false,
    };
    assert!(begun(step(&mut controller, &state, &all, at(17_001))), "it hangs");
    all.get_mut(&name(1)).unwrap().yielded = Some(epoch);
    assert!(begun(step(&mut Controller::default(), &state, &all, at(2001))), "it has stopped");
}

#[test]
fn a_lost_copy_does_not_make_the_primary_the_only_proof() {
    let mut state = open_cluster();
    let epoch = state.epoch;
    let change = to_become(&state, rule(1, &[2]));
    accepted(&mut state, change);
    let number = state.held().unwrap().changes;
    accepted(&mut state, Change::RuleRuns { epoch, rule: rule(1, &[2]), number });
    let changes = |spoil: fn(&mut Report)| {
        let mut all = reports(&state);
        all.remove(&name(3));
        let report = all.get_mut(&name(2)).unwrap();
        report.database = Database::Sealed;
        spoil(report);
        let changes = step(&mut Controller::default(), &state, &all, at(1000));
        changes.into_iter().find(|c| matches!(c, Change::ChangeRule { .. }))
    };
    assert_eq!(changes(|r| r.data = Copy::Missing), None);
    assert_eq!(changes(|r| r.needs = Some(Repair::Rebuild)), None);
    let alone = changes(|r| r.needs = Some(Repair::Rewind));
    assert!(matches!(alone, Some(Change::ChangeRule { rule: r, .. }) if r == rule(1, &[])));
}

#[test]
fn no_rule_changes_for_a_primary_that_is_not_there() {
    let state = open_cluster();
    let mut all = reports(&state);
    all.get_mut(&name(3)).unwrap().needs = Some(Repair::Rewind);
    let changes_rule = |all: &BTreeMap<_, _>| {
        let changes = step(&mut Controller::default(), &state, all, at(1000));
        changes.iter().any(|c| matches!(c, Change::ChangeRule { .. }))
    };
    assert!(changes_rule(&all));
    all.remove(&name(1));
    assert!(!changes_rule(&all));
}

#[test]
fn a_standbys_grace_begins_anew_with_each_primary() {
    let mut state = open_cluster();
    state.settings.durability = Durability::Available;
    let mut controller = Controller::default();
    let healthy = reports(&state);
    assert_eq!(step(&mut controller, &state, &healthy, at(1000)), Vec::new());
    let begun = begin(&state);
    accepted(&mut state, begun);
    let change = elected(&state, rule(1, &[2, 3]));
    accepted(&mut state, change);
    let mut all = reports(&state);
    for standby in [2, 3] {
        all.get_mut(&name(standby)).unwrap().database = Database::Following { epoch: state.epoch, streaming: false };
    }
    let grace = state.settings.grace_ms;
    assert_eq!(step(&mut controller, &state, &all, at(60_000)), Vec::new());
    assert_eq!(step(&mut controller, &state, &all, at(60_000 + grace - 1)), Vec::new());
    let changes = step(&mut controller, &state, &all, at(60_000 + grace));
    assert!(matches!(&changes[..], [Change::ChangeRule { rule: r, .. }] if *r == rule(1, &[])), "{changes:?}");
}

#[test]
fn a_copy_is_rebuilt_when_only_it_could_let_the_epoch_open() {
    let mut state = open_cluster();
    let begun = begin(&state);
    accepted(&mut state, begun);
    let change = elected(&state, rule(2, &[3]));
    accepted(&mut state, change);
    let needs = Some(Repair::Rewind);
    let condition = Condition { promised: state.epoch, data: Copy::Complete, needs };
    let repair = |state: &ClusterState| match goal(state, &name(1), condition) {
        Goal::Follow { repair, .. } => repair,
        other => panic!("{other:?}"),
    };
    // The last open epoch was n1's own: its copy is evidence until this one is open.
    assert_eq!(repair(&state), None);
    let mut all = reports(&state);
    all.get_mut(&name(1)).unwrap().needs = needs;
    all.remove(&name(3));
    let mut controller = Controller::default();
    let raised = |changes: Vec<Change>| {
        changes.into_iter().find(|c| matches!(c, Change::RaiseAlarm { alarm, .. } if alarm == "not-open"))
    };
    assert_eq!(raised(step(&mut controller, &state, &all, at(1000))), None);
    let alarm = raised(step(&mut controller, &state, &all, at(31_001))).unwrap();
    accepted(&mut state, alarm);
    assert_eq!(repair(&state), Some(Repair::Rebuild));
    state.paused = Some("a test".to_owned());
    assert_eq!(repair(&state), None);
    state.paused = None;
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    assert_eq!(repair(&state), Some(Repair::Rewind));
    let cleared = step(&mut controller, &state, &reports(&state), at(32_000));
    assert!(cleared.iter().any(|c| matches!(c, Change::ClearAlarm { alarm } if alarm == "not-open")));
}

/// n1 must be rewound and is in the first rule; it was to leave it for n3 alone when n3 went away for good.
#[test]
fn a_copy_that_must_be_rewound_is_let_go_of_by_every_rule_of_the_epoch() {
    let mut state = open_cluster();
    let begun = begin(&state);
    accepted(&mut state, begun);
    let change = elected(&state, rule(2, &[1, 3]));
    accepted(&mut state, change);
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    let mut all = reports(&state);
    let n1 = all.get_mut(&name(1)).unwrap();
    (n1.needs, n1.database) = (Some(Repair::Rewind), Database::Stopped);
    let mut controller = Controller::default();
    let changes = step(&mut controller, &state, &all, at(0));
    assert!(matches!(&changes[..], [Change::ChangeRule { rule: r, .. }] if *r == rule(2, &[3])), "{changes:?}");
    accepted(&mut state, changes[0].clone());
    all.remove(&name(3));
    let changes = step(&mut controller, &state, &all, at(60_000));
    let alone = |c: &Change| matches!(c, Change::ChangeRule { rule: r, .. } if *r == rule(2, &[]));
    assert!(changes.iter().any(alone), "{changes:?}");
}

#[test]
fn a_state_of_before_a_change_can_still_be_read() {
    let state = open_cluster();
    let mut text = serde_json::to_value(&state).unwrap();
    text.as_object_mut().unwrap().remove("electorate");
    text["reign"]["Held"].as_object_mut().unwrap().remove("changes");
    let old: ClusterState = serde_json::from_value(text).unwrap();
    let mut text = serde_json::to_value(new_cluster()).unwrap();
    text["reign"]["Vacant"].as_object_mut().unwrap().remove("without");
    let _: ClusterState = serde_json::from_value(text).unwrap();
    let mut text = serde_json::to_value(&reports(&state)[&name(2)]).unwrap();
    text.as_object_mut().unwrap().remove("reaches");
    let _: Report = serde_json::from_value(text).unwrap();
    assert_eq!(old.voters().cloned().collect::<BTreeSet<_>>(), names(&[1, 2, 3]));
    assert_eq!(old.majority(), 2);
}

/// Its promise counts, its copy does not: neither to be elected nor to prove anything.
#[test]
fn a_node_is_left_out_where_the_others_are_safe_and_enough() {
    let vacant = |rule: SyncRule| {
        let mut state = open_cluster();
        if rule != *state.held().unwrap().target() {
            let (change, epoch) = (to_become(&state, rule.clone()), state.epoch);
            accepted(&mut state, change);
            accepted(&mut state, Change::RuleRuns { epoch, rule, number: 1 });
        }
        let Change::BeginEpoch { from, epoch, because, prefer, accept_loss, evidence, .. } = begin(&state) else {
            panic!("it begins")
        };
        let without = Some(name(1));
        let begun = Change::BeginEpoch { from, epoch, because, prefer, accept_loss, without, evidence };
        accepted(&mut state, begun);
        let mut all = reports(&state);
        all.get_mut(&name(1)).unwrap().seal.as_mut().unwrap().position = Some(Position { epoch: Epoch(1), offset: 99 });
        (state, all)
    };
    let (state, mut all) = vacant(rule(1, &[2, 3]));
    let Verdict::Elect { primary, rule: first, evidence, .. } = verdict(&state, &all) else { panic!("it is safe") };
    assert_eq!((primary, first, evidence["left out"].as_str()), (name(2), rule(2, &[3]), "n1"));
    let waits = |state: &ClusterState, all: &BTreeMap<_, _>, why: &str| match verdict(state, all) {
        Verdict::Wait(missing) => assert!(missing.iter().any(|m| m.contains(why)), "{missing:?}"),
        elected => panic!("{elected:?}"),
    };
    all.remove(&name(2));
    waits(&state, &all, "acknowledged by n1 and 1 of its standbys may be only on n1, n2");
    let (state, mut all) = vacant(rule(1, &[2]));
    all.remove(&name(3));
    waits(&state, &all, "n2 would have 0 standbys without n1");
    let (mut state, mut all) = vacant(rule(1, &[2, 3]));
    all.get_mut(&name(2)).unwrap().seal.as_mut().unwrap().position = Some(Position { epoch: Epoch(1), offset: 50 });
    state.members.get_mut(&name(2)).unwrap().priority = 0;
    waits(&state, &all, "n2 has the most but for n1");
}

#[test]
fn a_failover_from_a_primary_that_nobody_reaches_says_on_what() {
    let state = open_cluster();
    let mut all = reports(&state);
    for (standby, reaches) in [(2, vec![]), (3, vec![2])] {
        let report = all.get_mut(&name(standby)).unwrap();
        report.database = Database::Following { epoch: state.epoch, streaming: false };
        report.reaches = names(&reaches);
    }
    let mut controller = Controller::default();
    let begun = |changes: Vec<Change>| changes.into_iter().find(|c| matches!(c, Change::BeginEpoch { .. }));
    assert_eq!(begun(step(&mut controller, &state, &all, at(0))), None);
    let mut spoilt = all.clone();
    spoilt.get_mut(&name(3)).unwrap().reaches = names(&[1, 2]);
    assert_eq!(begun(step(&mut controller, &state, &spoilt, at(2100))), None, "it is not the network");
    let Some(Change::BeginEpoch { because, prefer, without, evidence, .. }) =
        begun(step(&mut controller, &state, &all, at(2100)))
    else {
        panic!("it begins")
    };
    assert_eq!(because, "n2, n3 do not stream from n1 for 2.1 s; n3 reaches n2, and not n1");
    assert_eq!((prefer, without), (Some(name(2)), Some(name(1))));
    assert_eq!(evidence["report of n3"], "follows epoch 1, not connected, reaches n2");
    // A stream that was back for a moment begins the time anew.
    let mut controller = Controller::default();
    assert_eq!(begun(step(&mut controller, &state, &all, at(0))), None);
    assert_eq!(begun(step(&mut controller, &state, &reports(&state), at(1000))), None);
    assert_eq!(begun(step(&mut controller, &state, &all, at(2000))), None);
    assert_eq!(begun(step(&mut controller, &state, &all, at(3999))), None);
    assert!(begun(step(&mut controller, &state, &all, at(4000))).is_some());
}

/// The primary no longer sends to it, while it still takes itself for streaming.
#[test]
fn a_standby_whose_receiver_hangs_leaves_the_rule_after_the_grace() {
    let state = open_cluster();
    let mut controller = Controller::default();
    let mut reports = reports(&state);
    assert_eq!(step(&mut controller, &state, &reports, at(0)), []);
    reports.get_mut(&name(1)).unwrap().standbys.remove(&name(3));
    assert_eq!(step(&mut controller, &state, &reports, at(1000)), []);
    let changes = step(&mut controller, &state, &reports, at(10_000));
    assert!(
        matches!(changes.as_slice(), [Change::ChangeRule { rule, .. }] if *rule == self::rule(1, &[2])),
        "{changes:?}"
    );
}

/// The answer to a proposal can be lost, and then it is made again.
#[test]
fn asking_twice_is_asking_once() {
    let mut state = open_cluster();
    let asked = state.asking(Wish::Failover { to: None, accept_loss: false });
    accepted(&mut state, asked.clone());
    let before = state.clone();
    assert_eq!(apply(&mut state, asked.clone()), Outcome::Applied(1), "it has its number");
    assert_eq!(state, before);
    // It is carried out; the same proposal comes once more.
    let begun = step(&mut Controller::default(), &state, &reports(&state), at(1000));
    assert!(matches!(&begun[..], [Change::BeginEpoch { .. }]), "{begun:?}");
    accepted(&mut state, begun[0].clone());
    let change = elected(&state, rule(2, &[1, 3]));
    accepted(&mut state, change);
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    let before = state.clone();
    assert_eq!(apply(&mut state, asked.clone()), Outcome::Applied(1));
    assert_eq!(state, before, "a second failover");
    // Another has asked since, or the primary has changed by itself: he has not seen what he asks to change.
    let other = state.asking(Wish::Switchover { to: Some(name(1)) });
    accepted(&mut state, other);
    assert!(matches!(apply(&mut state, asked), Outcome::Refused(why) if why.contains("epoch")));
    let mut state = open_cluster();
    let asked = state.asking(Wish::Failover { to: None, accept_loss: false });
    let other = state.asking(Wish::Rebuild { node: name(3) });
    accepted(&mut state, other);
    assert!(matches!(apply(&mut state, asked), Outcome::Refused(why) if why.contains("rebuild n3")));
    let mut state = open_cluster();
    let asked = state.asking(Wish::Failover { to: None, accept_loss: false });
    let begun = begin(&state);
    accepted(&mut state, begun);
    assert!(matches!(apply(&mut state, asked), Outcome::Refused(_)));
    assert_eq!(state.wish, None);
}

#[test]
fn a_rebuild_of_a_node_that_is_not_heard_ends_and_frees_the_way() {
    let mut state = open_cluster();
    let asked = state.asking(Wish::Rebuild { node: name(3) });
    accepted(&mut state, asked);
    let switchover = |state: &mut ClusterState| {
        let asked = state.asking(Wish::Switchover { to: None });
        apply(state, asked)
    };
    assert!(matches!(switchover(&mut state), Outcome::Refused(_)));
    let all = reports(&state);
    let mut without = all.clone();
    without.remove(&name(3));
    let mut controller = Controller::default();
    let ended = |changes: Vec<Change>| changes.into_iter().find(|c| matches!(c, Change::EndWish { .. }));
    assert_eq!(ended(step(&mut controller, &state, &without, at(0))), None);
    assert_eq!(ended(step(&mut controller, &state, &without, at(29_999))), None);
    // It was only restarting.
    assert_eq!(ended(step(&mut controller, &state, &all, at(30_000))), None);
    assert_eq!(ended(step(&mut controller, &state, &without, at(31_000))), None);
    assert_eq!(ended(step(&mut controller, &state, &without, at(60_999))), None);
    let end = ended(step(&mut controller, &state, &without, at(61_000))).unwrap();
    accepted(&mut state, end);
    let told = state.asked.back().unwrap().outcome.clone();
    assert!(told.unwrap().is_err_and(|why| why.contains("n3") && why.contains("heard")));
    assert!(matches!(switchover(&mut state), Outcome::Applied(2)));
}

#[test]
fn evidence_is_told_in_words() {
    let mut state = open_cluster();
    let begun = begin(&state);
    accepted(&mut state, begun);
    let Verdict::Elect { evidence, .. } = verdict(&state, &reports(&state)) else { panic!("it is safe") };
    assert_eq!(evidence["safe under the rule of n1"], "1 of (n2, n3)");
    assert_eq!(evidence["position of n2"], "epoch 1 at 0/0000000A");
    let mut state = open_cluster();
    let asked = state.asking(Wish::Failover { to: None, accept_loss: false });
    accepted(&mut state, asked);
    let begun = step(&mut Controller::default(), &state, &reports(&state), at(1000));
    let [Change::BeginEpoch { evidence, .. }] = &begun[..] else { panic!("{begun:?}") };
    assert_eq!(evidence["report of n1"], "primary of epoch 1, no lease renewed here for 0 ms");
    assert_eq!(evidence["report of n2"], "streams epoch 1, no lease renewed here for 0 ms");
}

/// A database that does not start must not make epoch after epoch on the same node, for ever and as fast as it can.
#[test]
fn a_database_that_fails_again_and_again_is_tried_elsewhere_and_then_more_slowly() {
    let mut state = open_cluster();
    let mut controller = Controller::default();
    let mut now = 1000;
    let (mut left_out, mut pauses) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        let before = now;
        let begun = loop {
            let mut reports = reports(&state);
            reports.get_mut(&state.primary().unwrap().clone()).unwrap().failed =
                Some((state.epoch, "its database has ended".to_owned()));
            let changes = step(&mut controller, &state, &reports, at(now));
            if let Some(begun @ Change::BeginEpoch { .. }) = changes.first() {
                break begun.clone();
            }
            for change in changes {
                accepted(&mut state, change);
            }
            now += 50;
        };
        pauses.push(now - before);
        if let Change::BeginEpoch { without, .. } = &begun {
            left_out.push(without.clone());
        }
        accepted(&mut state, begun);
        // Not left out: it would be elected again, as its log is the longest.
        let next = if left_out.last().unwrap().is_some() { rule(2, &[3]) } else { rule(1, &[2, 3]) };
        let change = elected(&state, next);
        accepted(&mut state, change);
    }
    assert_eq!(left_out[..3], [None, Some(name(1)), None], "{left_out:?}");
    assert_eq!(pauses[..8], [0, 0, 0, 1000, 2000, 4000, 8000, 16000], "{pauses:?}");
    assert_eq!(pauses[11], 60_000, "{pauses:?}");
    assert!(state.alarms.contains_key("database-fails"), "{:?}", state.alarms);

    // A person need not wait.
    let mut reports = reports(&state);
    reports.get_mut(&state.primary().unwrap().clone()).unwrap().failed = Some((state.epoch, "again".to_owned()));
    assert!(step(&mut controller, &state, &reports, at(now)).iter().all(|c| !matches!(c, Change::BeginEpoch { .. })));
    let asked = state.asking(Wish::Failover { to: None, accept_loss: false });
    accepted(&mut state, asked);
    let changes = step(&mut controller, &state, &reports, at(now));
    assert!(matches!(changes.first(), Some(Change::BeginEpoch { .. })), "{changes:?}");

    // One that is open for a while is well.
    accepted(&mut state, changes[0].clone());
    let change = elected(&state, rule(1, &[2, 3]));
    accepted(&mut state, change);
    let epoch = state.epoch;
    accepted(&mut state, Change::BarrierPassed { epoch });
    for later in [0, 2000] {
        let reports = self::reports(&state);
        for change in step(&mut controller, &state, &reports, at(now + later)) {
            accepted(&mut state, change);
        }
    }
    assert!(!state.alarms.contains_key("database-fails"), "{:?}", state.alarms);
}
