//! The promises, under any order of messages, crashes and lost packets. See `world`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own world: a panic is a failed test")]

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};
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

/// Few enough for every run of the suite, and the same ones each time: that run decides about a change, not about luck.
/// `PROPTEST_CASES` sets another number, of histories that nobody has seen before.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").is_ok();
    let regressions =
        FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/properties.regressions"));
    let default = ProptestConfig {
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(regressions)),
        ..Default::default()
    };
    if asked { default } else { ProptestConfig { cases, rng_seed: RngSeed::Fixed(1), ..default } }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn three_nodes_keep_the_promises(setup in setup(3, WITHIN, Mutant::None), actions in history(60), away in away(3)) {
        play(setup, &actions, &away).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn no_data_is_lost_whatever_the_clocks_do(setup in setup(3, WILD, Mutant::None), actions in history(60)) {
        World::new(setup).run(&actions).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn five_nodes_keep_the_promises(setup in setup(5, WITHIN, Mutant::None), actions in history(60), away in away(5)) {
        play(setup, &actions, &away).map_err(TestCaseError::fail)?;
    }
}
