//! Which standbys the sync rule names, and which copies are made anew.

use std::collections::BTreeMap;

use trine_protocol::{
    Change, ClusterState, Condition, Controller, Copy, Database, Durability, Goal, Outcome, Repair, Settings,
    SyncSetting, Wish, goal, rule_for, sync_setting,
};

use crate::bed::{accepted, apply, at, begin, elected, name, names, open_cluster, reports, rule, step};

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
