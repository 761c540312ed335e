//! What the tests of simulated clusters have in common.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test program uses a part of it; a panic is a failed test"
)]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use trine_sim::cluster::{Campaign, Cheat, Fault, Lab, Outcome, Plan, Product, Step};

/// So many seeds, at most, until a database that cheats must be noticed.
const ENOUGH: u64 = 100;

pub(crate) fn lab(dir: &Path, verbose: bool) -> Lab {
    Lab::new(Path::new(env!("CARGO_BIN_EXE_trine-sim")), dir, verbose).unwrap()
}

/// All seeds from the first on are well. `TRINE_SIM_SEEDS` sets another number.
pub(crate) fn campaign(product: Product, seeds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let seeds = std::env::var("TRINE_SIM_SEEDS").map_or(seeds, |n| n.parse().unwrap());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let labs: Vec<Lab> = (0..cores).map(|i| lab(&dir.path().join(i.to_string()), false)).collect();
    let campaign = Campaign { from: 1, seeds, product, twice: false, keep_going: false };
    let sum = campaign.run(&labs, &AtomicBool::new(false)).unwrap();
    println!("{product}: {sum}");
    assert!(sum.failed.is_empty(), "{:?}", sum.failed);
    assert_eq!(sum.runs, seeds);
}

/// Bit for bit: the last thousands of lines, and the digest of all of them.
pub(crate) fn gives_one_run(product: Product, seeds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let lab = lab(dir.path(), true);
    for seed in 1..=seeds {
        let plan = Plan::of(seed).with(product);
        assert_eq!(lab.run(&plan).unwrap(), lab.run(&plan).unwrap(), "seed {seed}");
    }
}

/// Three nodes that are all alike.
pub(crate) fn plan(seed: u64, product: Product, steps: &[Step]) -> Plan {
    Plan {
        seed,
        product,
        nodes: 3,
        acks: 1,
        available: false,
        priorities: vec![100; 3],
        clocks: vec![(0, 0); 3],
        sync: 3,
        steps: steps.to_vec(),
        cheat: None,
    }
}

pub(crate) const fn step(at: u64, lasts: u64, fault: Fault) -> Step {
    Step { at, lasts, fault }
}

/// What becomes of a healthy cluster of three whose first node leads, if this happens to it.
pub(crate) fn outcome(seed: u64, product: Product, steps: &[Step]) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    lab(dir.path(), false).run(&plan(seed, product, steps)).unwrap()
}

/// Runs three nodes with a database that cheats, seed after seed, until that is noticed; and without the cheat, which must be
/// well.
pub(crate) fn noticed(product: Product, cheat: Cheat, steps: &[Step]) {
    noticed_of(&plan(0, product, steps), cheat);
}

/// The same with any plan. Where `TRINE_SIM_STORY` is set, the story of the seed is told.
pub(crate) fn noticed_of(plan: &Plan, cheat: Cheat) {
    let dir = tempfile::tempdir().unwrap();
    let lab = lab(dir.path(), false);
    let run = |seed, cheat| -> Outcome { lab.run(&Plan { seed, sync: 60, cheat, ..plan.clone() }).unwrap() };
    let product = plan.product;
    let found = (1..=ENOUGH).map(|seed| (seed, run(seed, Some(cheat)))).find(|(_, o)| !o.failures.is_empty());
    let Some((seed, outcome)) = found else { panic!("nothing notices {cheat:?} of {product}") };
    if std::env::var_os("TRINE_SIM_STORY").is_some() {
        println!("{}", outcome.story);
    }
    println!("{cheat:?} of {product}: noticed with seed {seed}: {}", outcome.failures.join("; "));
    assert_eq!(run(seed, None).failures, Vec::<String>::new());
}
