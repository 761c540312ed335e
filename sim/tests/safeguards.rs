//! Each safeguard is taken away in turn, and the search must find what goes wrong. docs/proof.md tells these stories.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use trine_sim::model::{CLOCK_BEYOND_ITS_BOUND, COMES_BACK, LOST, Mutant, Scope, TWO_SERVE, scope, search};

const LIMIT: Duration = Duration::from_secs(1200);

/// The same search finds nothing with the safeguard: that is tested beside this one, with budgets that are no smaller.
fn is_missed(mutant: Mutant, name: &str, budget: &str, promise: &str) {
    let scope = Scope { budget: budget.parse().unwrap(), mutant, ..scope(name).unwrap().clone() };
    let found = search(&scope, 1, LIMIT);
    let Some((_, story)) = found.broken.iter().find(|(broken, _)| *broken == promise) else {
        panic!("nobody misses {mutant:?} in {} states: {:?}", found.states, found.broken);
    };
    println!("{mutant:?}: {promise:?} is broken after {} states:", found.states);
    (1..).zip(story).for_each(|(number, step)| println!("{number:>3}. {step}"));
}

macro_rules! safeguards {
    ($($test:ident: without $mutant:ident, $name:literal with $budget:literal breaks $promise:ident;)*) => {$(
        #[test]
        fn $test() {
            is_missed(Mutant::$mutant, $name, $budget, $promise);
        }
    )*};
}

safeguards! {
    the_cut_comes_before_the_position: without PositionBeforeCut, "failovers" with "writes=1,epochs=1" breaks LOST;
    a_lease_is_waited_out: without LeaseNotWaitedOut, "lease, fast holder" with "epochs=1,renewals=1" breaks TWO_SERVE;
    a_rule_changes_jointly: without OldRuleDroppedAtOnce, "rule" with "writes=1,epochs=1,losses=1,rules=1" breaks LOST;
    former_rules_guard_until_the_barrier: without GuardingForgotten, "loss" with "writes=1,epochs=2,losses=1" breaks LOST;
    an_incomplete_copy_is_missing: without IncompleteCounts, "torn" with "writes=1,epochs=1,tears=1" breaks LOST;
    nothing_opens_before_the_barrier: without OpenWithoutBarrier, "loss" with "epochs=2,losses=1" breaks LOST;
    the_data_epoch_comes_first: without DataEpochIgnored, "failovers" with "writes=2,epochs=2" breaks LOST;
    a_barrier_begins_after_the_setting: without BarrierBeforeSetting, "rule" with "writes=1,epochs=1,losses=1,rules=1" breaks LOST;
    an_old_copy_takes_nothing_in_a_rebuild: without FollowWhileRebuilding, "rebuild" with "writes=1,epochs=1,rebuilds=1" breaks LOST;
    every_start_is_a_new_epoch: without PrimaryRestartedInPlace, "processes" with "writes=1,epochs=1,crashes=1,databases=1" breaks LOST;
    a_promise_is_on_disk: without PromiseNotOnDisk, "crash" with "writes=1,epochs=1,crashes=1" breaks LOST;
    an_acknowledged_entry_is_on_disk: without AcksBeforeFlush, "crash" with "writes=1,epochs=1,crashes=1" breaks LOST;
    a_node_leads_with_what_it_was_elected_with: without LeadsWithLess, "crash" with "writes=1,epochs=1,crashes=1" breaks LOST;
    a_wiped_voter_asks: without WipedVoterDoesNotAsk, "wiped" with "writes=1,epochs=1,wipes=1" breaks LOST;
    a_voter_that_starts_assumes_a_lease: without RestartForgetsLeases, "lease, fast holder" with "epochs=1,renewals=1,agents=2" breaks TWO_SERVE;
    a_lease_is_released_after_the_end: without ReleaseWhileServing, "lease, fast holder" with "epochs=1,renewals=1,switchovers=1" breaks TWO_SERVE;
    a_copy_that_is_needed_to_open_is_rebuilt: without NoRebuildWhenStuck, "recovery, crash" with "writes=1,epochs=1,crashes=1" breaks COMES_BACK;
}

#[test]
fn a_clock_beyond_its_bound_lets_two_serve() {
    let found = search(&CLOCK_BEYOND_ITS_BOUND, 1, LIMIT);
    assert!(found.broken.iter().any(|(broken, _)| *broken == TWO_SERVE), "{:?}", found.broken);
}
