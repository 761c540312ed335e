//! What the state accepts, and when an epoch's primary must end.

use std::collections::BTreeSet;

use trine_protocol::{Change, ClusterState, Controller, Outcome, Position, Reign, Report, Verdict, Wish, must_fence};

use crate::bed::{
    accepted, apply, at, begin, elected, name, names, new_cluster, open_cluster, reports, rule, step, to_become,
    verdict,
};

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
