//! Each safeguard is taken away in turn, and the properties must notice: first by search, then by a history that shows what
//! it is there for. docs/protocol.md tells these histories in words.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's own world: a panic is a failed test"
)]

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use trine_protocol::Durability;
use world::Action::{self, *};
use world::{Clock, History, Mutant, Point, Setup, World, action, setup};

/// More than any of them needs, so that a small change of the world does not hide one.
const CASES: u32 = 10_000;

/// Searches for a history that goes wrong without the safeguard: it breaks a promise, or does not come back.
fn search(mutant: Mutant) {
    let comes_back = mutant == Mutant::NoRebuildWhenStuck;
    let config = ProptestConfig { cases: CASES, max_shrink_iters: 0, failure_persistence: None, ..Default::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let history = proptest::collection::vec(action(), 1..60).prop_map(History);
    let away = proptest::collection::btree_set(0..3usize, 0..=1);
    let tried = std::cell::Cell::new(0);
    let found = runner.run(
        &(setup(3, 9_900, mutant), history, away),
        |(setup, history, away): (Setup, History, BTreeSet<usize>)| {
            tried.set(tried.get() + 1);
            let mut world = World::new(setup);
            world.run(&history).map_err(TestCaseError::fail)?;
            if comes_back { world.recovers(&away).map_err(TestCaseError::fail) } else { Ok(()) }
        },
    );
    let Err(TestError::Fail(why, _)) = found else { panic!("nothing notices {mutant:?}") };
    println!("{mutant:?}: noticed in case {}: {why}", tried.get());
}

macro_rules! searches {
    ($($name:ident: $mutant:ident;)*) => {$(
        #[test]
        fn $name() {
            search(Mutant::$mutant);
        }
    )*};
}

searches! {
    leases_are_waited_out: LeaseNotWaitedOut;
    the_old_rule_binds_until_the_new_one_runs: OldRuleDroppedAtOnce;
    rules_guard_until_the_barrier: GuardingForgotten;
    an_incomplete_copy_is_missing: IncompleteCounts;
    nothing_opens_before_the_barrier: OpenWithoutBarrier;
    the_data_epoch_is_compared_first: DataEpochIgnored;
    a_majority_promises: NoMajorityOfPromises;
    every_start_of_a_primary_is_a_new_epoch: PrimaryRestartedInPlace;
    a_barrier_begins_after_the_setting: BarrierBeforeSetting;
    a_copy_that_is_needed_to_open_is_rebuilt: NoRebuildWhenStuck;
}

/// A healthy cluster that n1 leads, then this history: it goes wrong without the safeguard, and not with it.
fn shows(mutant: Mutant, rates: [i64; 3], history: &[Action]) {
    let run = |mutant| {
        let setup = Setup {
            clocks: rates.iter().map(|ppm| Clock { offset_ms: 0, ppm: *ppm }).collect(),
            priorities: vec![100, 50, 90],
            acks: 1,
            durability: Durability::Strict,
            mutant,
            bounded: rates.iter().all(|ppm| ppm.abs() < 10_000),
        };
        let mut actions = vec![Until(Point::Open), Rounds(20)];
        actions.extend(history.iter().cloned());
        let mut world = World::new(setup);
        match world.run(&History(actions)) {
            Ok(()) => Ok(world.story()),
            Err(why) => Err(why),
        }
    };
    run(Mutant::None).unwrap();
    match run(mutant) {
        Ok(story) => panic!("nothing notices {mutant:?}: {story}"),
        Err(why) => println!("{mutant:?}: {why}"),
    }
}

const EXACT: [i64; 3] = [0; 3];

#[test]
fn the_position_is_read_after_the_cut() {
    // n1's agent hangs. n2 tells its position, and then acknowledges one entry more; n3 wins.
    let sealing = [FreezePrimary, Until(Point::Vacant), See(1, 9), See(2, 9)];
    let steps = [Replicate(2, 9), Flush(2), Tick(2), Tick(2), Tick(2), Tick(2), Tick(1), Tick(1), Tick(1)];
    let acknowledged = [Write(0), Flush(0), Replicate(1, 9), Flush(1), DeliverAll, Tick(1), Rounds(30)];
    shows(Mutant::PositionBeforeCut, EXACT, &[&sealing[..], &steps, &acknowledged].concat());
}

#[test]
fn a_late_settling_of_a_rule_is_refused() {
    // The rule becomes n2, n3, n2. What settles the first of these arrives when the engine runs the second.
    let first =
        [ChooseStandby(1), DeliverAll, See(0, 9), Tick(0), Tick(0), Tick(0), Flush(0), Replicate(1, 9), Flush(1)];
    let settled = [DeliverAll, Tick(0), HoldProposal];
    let second = [ChooseStandby(2), DeliverAll, See(0, 9), Tick(0), Tick(0), ChooseStandby(1), DeliverAll, Late(0)];
    let acknowledged = [Write(0), Flush(0), Replicate(2, 9), Flush(2), DeliverAll, LoseData(2)];
    shows(
        Mutant::StaleRuleRuns,
        EXACT,
        &[&first[..], &settled, &second, &acknowledged, &[CrashPrimary, Advance(600), Rounds(40)]].concat(),
    );
}

#[test]
fn the_old_copy_takes_nothing_while_a_new_one_is_made() {
    // n2 acknowledges with the old copy what the new one does not have.
    let begun = [Rebuild(1), DeliverAll, See(1, 9), Tick(1)];
    let acknowledged = [Write(0), Flush(0), Replicate(1, 9), Flush(1), DeliverAll, Tick(1), CrashPrimary, Rounds(40)];
    shows(Mutant::FollowWhileRebuilding, EXACT, &[&begun[..], &acknowledged].concat());
}

#[test]
fn a_lease_is_released_after_the_database_has_ended() {
    let leaving = [Switchover(Some(1)), DeliverAll, See(0, 9), Control(0), DeliverAll, See(0, 9), Tick(0), DeliverAll];
    shows(
        Mutant::ReleaseWhileServing,
        EXACT,
        &[&leaving[..], &[FreezePrimary, Failover(None, false), Rounds(7)]].concat(),
    );
}

#[test]
fn a_voter_that_starts_assumes_a_lease() {
    let restarted = [FreezePrimary, Crash(1, 0), Start(1, 0), Crash(2, 0), Start(2, 0)];
    shows(Mutant::RestartForgetsLeases, EXACT, &[&restarted[..], &[Failover(None, false), Rounds(7)]].concat());
}

#[test]
fn a_lease_runs_from_its_request() {
    // The answers are on their way for longer than the lease.
    let asked = [Renew(0), Deliver(0), Deliver(0), Hold(0), Hold(0), Isolate(0), Advance(330)];
    let answered = [Renew(0), Mend, Late(0), Late(1), Isolate(0), FreezePrimary, Rounds(8)];
    shows(Mutant::LeaseFromTheAnswer, EXACT, &[&asked[..], &answered].concat());
}

#[test]
fn a_standby_acknowledges_what_is_durable() {
    let acknowledged =
        [Write(0), Flush(0), Replicate(1, 9), DeliverAll, Crash(1, 0), Start(1, 0), CrashPrimary, Rounds(40)];
    shows(Mutant::AcksBeforeFlush, EXACT, &acknowledged);
}

#[test]
fn a_promise_is_on_disk() {
    // n1's clock is far too slow, so its database outlives the lease. n2 forgets its promise, and follows n1 again.
    let elected = [FreezePrimary, Until(Point::Vacant), Replicate(2, 9), Flush(2), Until(Point::Elected)];
    let forgotten = [Crash(1, 0), Start(1, 4), Tick(1), Tick(1), Tick(1), Tick(1)];
    let acknowledged = [Write(0), Flush(0), Replicate(1, 9), Flush(1), DeliverAll, Rounds(10)];
    shows(Mutant::PromiseNotOnDisk, [-600_000, 0, 0], &[&elected[..], &forgotten, &acknowledged].concat());
}

#[test]
fn the_first_copy_is_made_once() {
    // n1 and n2 have an entry, and lose their data. n1 starts with a state in which nothing had begun: its new copy is
    // whole, and empty.
    let acknowledged = [Write(0), Flush(0), Replicate(1, 9), Flush(1), DeliverAll, LoseData(1)];
    let old = [LoseData(0), KillAgent(0), Start(0, 6), Tick(0), Rounds(40)];
    shows(Mutant::BootstrapFromOldView, EXACT, &[&acknowledged[..], &old].concat());
}
