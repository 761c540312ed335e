//! Who is elected, and when nobody is.

use std::collections::BTreeMap;
use std::time::Duration;

use trine_protocol::{
    Change, ClusterState, Controller, Copy, Database, Epoch, Position, Reign, Repair, Report, SyncRule, Verdict, Wish,
};

use crate::bed::{
    accepted, at, begin, elected, name, names, new_cluster, open_cluster, reports, rule, step, to_become, verdict,
};

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
