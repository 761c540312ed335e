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
    search_leases_waited_out: LeaseNotWaitedOut;
    search_old_rule_binds: OldRuleDroppedAtOnce;
    search_rules_guard: GuardingForgotten;
    search_a_majority_promises: NoMajorityOfPromises;
    every_start_of_a_primary_is_a_new_epoch: PrimaryRestartedInPlace;
    a_copy_that_is_needed_to_open_is_rebuilt: NoRebuildWhenStuck;
}

/// A healthy cluster that n1 leads, then this history.
fn play(mutant: Mutant, rates: [i64; 3], bounded: bool, history: &[Action]) -> Result<String, String> {
    let setup = Setup {
        clocks: rates.iter().map(|ppm| Clock { offset_ms: 0, ppm: *ppm }).collect(),
        priorities: vec![100, 50, 90],
        acks: 1,
        durability: Durability::Strict,
        mutant,
        bounded,
    };
    let mut actions = vec![Until(Point::Open), Rounds(20)];
    actions.extend(history.iter().cloned());
    let mut world = World::new(setup);
    world.run(&History(actions)).map(|()| world.story())
}

/// It goes wrong without the safeguard, and not with it.
fn shows(mutant: Mutant, rates: [i64; 3], history: &[Action]) {
    let bounded = rates.iter().all(|ppm| ppm.abs() < 10_000);
    play(Mutant::None, rates, bounded, history).unwrap();
    match play(mutant, rates, bounded, history) {
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

/// n1 and n2 have an entry that n3 has not, and a client was told.
const ON_N2: [Action; 5] = [Write(0), Flush(0), Replicate(1, 9), Flush(1), DeliverAll];
/// n1 is lost, and what it said is no news any more.
const WITHOUT_N1: [Action; 3] = [CrashPrimary, Advance(600), Rounds(40)];

#[test]
fn the_old_rule_binds_until_the_new_one_runs() {
    // The rule is to be n3's; the engine still runs the one before.
    let changed = [ChooseStandby(2), DeliverAll];
    let history = [&changed[..], &ON_N2, &[LoseData(1)], &WITHOUT_N1].concat();
    shows(Mutant::OldRuleDroppedAtOnce, EXACT, &history);
}

#[test]
fn rules_guard_until_the_barrier() {
    // n2 leads, and loses its data before n3 has any of it.
    let history = [&ON_N2[..], &[CrashPrimary, Until(Point::Promoted), LoseData(1), Advance(600), Rounds(40)]].concat();
    shows(Mutant::GuardingForgotten, EXACT, &history);
}

#[test]
fn nothing_opens_before_the_barrier() {
    // As before, but n2 has opened.
    let elected = [CrashPrimary, Until(Point::Elected), See(1, 9), Renew(1), DeliverAll];
    let opened = [Tick(1), Tick(1), DeliverAll, LoseData(1), Advance(600), Rounds(40)];
    shows(Mutant::OpenWithoutBarrier, EXACT, &[&ON_N2[..], &elected, &opened].concat());
}

#[test]
fn an_incomplete_copy_is_missing() {
    shows(Mutant::IncompleteCounts, EXACT, &[&ON_N2[..], &[TearData(1)], &WITHOUT_N1].concat());
}

#[test]
fn a_majority_promises() {
    // The rule is n2's alone, so n2's data is enough; n3 has not promised anything when n2 is elected, and n1 serves on.
    let changed =
        [ChooseStandby(1), DeliverAll, See(0, 9), Tick(0), Tick(0), Tick(0), Flush(0), Replicate(1, 9), Flush(1)];
    let settled = [DeliverAll, Tick(0), DeliverAll, FreezePrimary, Failover(None, false), DeliverAll];
    let sealed =
        [See(1, 9), Tell(1, 1), DeliverAll, Control(1), DeliverAll, See(1, 9), Tick(1), Tick(1), Tick(1), Tick(1)];
    let elected = [Tell(1, 1), DeliverAll, Control(1), DeliverAll, Spin(8)];
    shows(Mutant::NoMajorityOfPromises, EXACT, &[&changed[..], &settled, &sealed, &elected].concat());
}

#[test]
fn the_data_epoch_is_compared_first() {
    // n1 is cut off with a long end that nobody acknowledged, and comes back when the next primary is lost.
    let alone = [vec![IsolatePrimary], vec![Write(0); 30], vec![Flush(0), Until(Point::Vacant)]].concat();
    let next = [Until(Point::Open), Rounds(2), CrashPrimary, Mend, Rounds(40)];
    shows(Mutant::DataEpochIgnored, EXACT, &[&alone[..], &next].concat());
}

#[test]
fn a_barrier_begins_after_the_setting() {
    // n2 has an entry that n3 has not. The rule becomes n3's; an old barrier, which n2 acknowledged, settles that.
    let settled = [ChooseStandby(2), DeliverAll, See(0, 9), Tick(0), Tick(0), Tick(0), DeliverAll, LoseData(1)];
    shows(Mutant::BarrierBeforeSetting, EXACT, &[&ON_N2[..], &settled, &WITHOUT_N1].concat());
}

#[test]
fn a_late_settling_of_a_rule_is_refused() {
    // The rule becomes n2, n3, n2. What settles the first of these arrives when the engine runs the second.
    let first =
        [ChooseStandby(1), DeliverAll, See(0, 9), Tick(0), Tick(0), Tick(0), Flush(0), Replicate(1, 9), Flush(1)];
    let settled = [DeliverAll, Tick(0), HoldProposal];
    let second = [ChooseStandby(2), DeliverAll, See(0, 9), Tick(0), Tick(0), ChooseStandby(1), DeliverAll, Late(0)];
    let acknowledged = [Write(0), Flush(0), Replicate(2, 9), Flush(2), DeliverAll, LoseData(2)];
    shows(Mutant::StaleRuleRuns, EXACT, &[&first[..], &settled, &second, &acknowledged, &WITHOUT_N1].concat());
}

#[test]
fn the_old_copy_takes_nothing_while_a_new_one_is_made() {
    // n2 acknowledges with the old copy what the new one does not have.
    let begun = [Rebuild(1), DeliverAll, See(1, 9), Tick(1)];
    shows(Mutant::FollowWhileRebuilding, EXACT, &[&begun[..], &ON_N2, &[Tick(1)], &WITHOUT_N1].concat());
}

#[test]
fn a_lease_is_waited_out() {
    // n1's agent hangs; its guard does not, and lets it serve to the end of its lease.
    let hung = [FreezePrimary, Failover(None, false)];
    shows(Mutant::LeaseNotWaitedOut, EXACT, &[&hung[..], &[Rounds(7)]].concat());
    play(Mutant::None, EXACT, true, &[&hung[..], &[Spin(4), Advance(160), Spin(9)]].concat()).unwrap();
}

/// The others elect in no time, at each millisecond around the end of n1's lease.
fn around_the_end_of_the_lease() -> Vec<Action> {
    let begun = vec![FreezePrimary, Failover(None, false), Spin(3), Advance(330)];
    [begun, [Spin(5), Advance(1)].repeat(40)].concat()
}

#[test]
fn the_margin_is_enough_for_clocks_that_are_off_by_one_percent() {
    let history = around_the_end_of_the_lease();
    for rates in [[-9_900, 9_900, 9_900], [9_900, -9_900, -9_900], [-9_900, -9_900, 9_900]] {
        play(Mutant::None, rates, true, &history).unwrap();
    }
}

#[test]
fn a_clock_beyond_the_bound_makes_a_read_stale_and_loses_nothing() {
    let history = around_the_end_of_the_lease();
    let rates = [-30_000, 30_000, 30_000];
    let why = play(Mutant::None, rates, true, &history).unwrap_err();
    assert!(why.contains("two serve") || why.contains("a read"), "{why}");
    play(Mutant::None, rates, false, &history).unwrap();
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
fn a_node_leads_with_what_it_was_elected_with() {
    // n2 has acknowledged an entry that n3 has only received. n3 tells how far it reaches, restarts, and has lost the end.
    let received = [Write(0), Flush(0), Replicate(1, 9), Flush(1), DeliverAll, Replicate(2, 9)];
    let hung = [FreezePrimary, Failover(None, false), DeliverAll, See(1, 9), Control(1), DeliverAll, Advance(410)];
    let sealed = |i| [See(i, 9), Tick(i), Tick(i), Tick(i), Tick(i), Tell(i, 1)];
    let restarted = [DeliverAll, Crash(2, 0), Start(2, 1), Tick(2), Tick(2), Tick(2), Tick(2)];
    let elected = [Control(1), DeliverAll, See(2, 9), Renew(2), DeliverAll, Tick(2)];
    let history = [&received[..], &hung, &sealed(2), &sealed(1), &restarted, &elected].concat();
    shows(Mutant::LeadsWithLess, EXACT, &history);
}

#[test]
fn the_first_copy_is_made_once() {
    // n1 and n2 have an entry, and lose their data. n1 starts with a state in which nothing had begun: its new copy is
    // whole, and empty.
    let old = [LoseData(1), LoseData(0), KillAgent(0), Start(0, 5), Tick(0), Rounds(40)];
    shows(Mutant::BootstrapFromOldView, EXACT, &[&ON_N2[..], &old].concat());
}

#[test]
fn a_wiped_voter_asks_what_it_may_have_promised() {
    // n1's clock is far too slow, so its database outlives the lease. n2 is elected with n3's seal; then n3's disk is wiped,
    // its machine comes back with the state of the epoch before, copies n1's data and acknowledges for it.
    let elected = [FreezePrimary, Until(Point::Elected), Wipe(2), Start(2, 0), Thaw];
    let copied = [Tick(2); 6];
    let acknowledged = [Write(0), Flush(0), Replicate(2, 9), Flush(2), DeliverAll, Rounds(10)];
    shows(Mutant::WipedVoterDoesNotAsk, [-600_000, 0, 0], &[&elected[..], &copied, &acknowledged].concat());
}
