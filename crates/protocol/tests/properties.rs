//! The promises, under any order of messages, crashes and lost packets. See `world`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own world: a panic is a failed test")]

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use world::{History, Mutant, Setup, World, action, setup};

/// Clock rates within the bound that the lease allows for: 1 % each.
const WITHIN: i64 = 9_900;
/// Any rates: nothing about data may depend on them.
const WILD: i64 = 600_000;

fn history(length: usize) -> impl Strategy<Value = History> {
    proptest::collection::vec(action(), 1..length).prop_map(History)
}

fn play(setup: Setup, actions: &History, away: &BTreeSet<usize>) -> Result<(), String> {
    let mut world = World::new(setup);
    world.run(actions)?;
    world.recovers(away)
}

fn away(nodes: usize) -> impl Strategy<Value = BTreeSet<usize>> {
    proptest::collection::btree_set(0..nodes, 0..=nodes / 2)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn three_nodes_keep_the_promises(setup in setup(3, WITHIN, Mutant::None), actions in history(60), away in away(3)) {
        play(setup, &actions, &away).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn five_nodes_keep_the_promises(setup in setup(5, WITHIN, Mutant::None), actions in history(60), away in away(5)) {
        play(setup, &actions, &away).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn no_data_is_lost_whatever_the_clocks_do(setup in setup(3, WILD, Mutant::None), actions in history(60)) {
        World::new(setup).run(&actions).map_err(TestCaseError::fail)?;
    }
}

/// Takes a safeguard away; the properties must notice.
fn notices(mutant: Mutant, nodes: usize, ppm: i64) {
    let config = ProptestConfig { cases: 30_000, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let tried = std::cell::Cell::new(0);
    let found = runner.run(&(setup(nodes, ppm, mutant), history(60), away(nodes)), |(setup, actions, away)| {
        tried.set(tried.get() + 1);
        play(setup, &actions, &away).map_err(TestCaseError::fail)
    });
    let Err(TestError::Fail(why, _)) = found else { panic!("nothing notices {mutant:?}") };
    println!("{mutant:?}: case {}: {why}", tried.get());
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident;)*) => {$(
        #[test]
        fn $name() {
            notices(Mutant::$mutant, 3, WITHIN);
        }
    )*};
}

mutants! {
    a_position_is_read_after_the_cut: PositionBeforeCut;
    b_leases_are_waited_out: LeaseNotWaitedOut;
    c_the_old_rule_binds_until_the_new_one_runs: OldRuleDroppedAtOnce;
    d_rules_guard_until_the_barrier: GuardingForgotten;
    e_an_incomplete_copy_is_missing: IncompleteCounts;
    f_nothing_opens_before_the_barrier: OpenWithoutBarrier;
    g_the_data_epoch_is_compared_first: DataEpochIgnored;
    h_a_majority_promises: NoMajorityOfPromises;
    i_a_late_settling_of_a_rule_is_refused: StaleRuleRuns;
    j_a_wiped_voter_joins_before_it_votes: WipedVoterVotes;
    k_who_follows_has_promised: FollowWithoutPromise;
    l_evidence_is_not_rewound: RewindOfEvidence;
    m_the_old_copy_takes_nothing_while_a_new_one_is_made: FollowWhileRebuilding;
    n_every_start_of_a_primary_is_a_new_epoch: PrimaryRestartedInPlace;
    o_a_lease_is_released_after_the_database_has_ended: ReleaseWhileServing;
    p_a_barrier_begins_after_the_setting: BarrierBeforeSetting;
    q_a_promise_is_on_disk: PromiseNotOnDisk;
    r_a_voter_that_starts_assumes_a_lease: RestartForgetsLeases;
    s_a_lease_runs_from_its_request: LeaseFromTheAnswer;
    t_a_standby_acknowledges_what_is_durable: AcksBeforeFlush;
    u_a_copy_that_is_needed_to_open_is_rebuilt: NoRebuildWhenStuck;
    v_the_first_copy_is_made_once: BootstrapFromOldView;
}
