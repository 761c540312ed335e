//! Simulated clusters: the seeds of every run of the suite, cheats that must be noticed, and what was found, by name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is a failed test")]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use trine_sim::cluster::{Campaign, Cheat, Fault, Lab, Outcome, Plan, Product, Step, Who};

/// The first seed of the suite's own campaign, and how many there are. `TRINE_SIM_SEEDS` sets another number.
const FROM: u64 = 1;
const SEEDS: u64 = 2000;

fn lab(dir: &Path) -> Lab {
    Lab::new(Path::new(env!("CARGO_BIN_EXE_trine-sim")), dir, false).unwrap()
}

#[test]
fn seeds() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = std::env::var("TRINE_SIM_SEEDS").map_or(SEEDS, |n| n.parse().unwrap());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let labs: Vec<Lab> = (0..cores).map(|i| lab(&dir.path().join(i.to_string()))).collect();
    let campaign = Campaign { from: FROM, seeds, product: Product::Postgres, twice: false, keep_going: false };
    let sum = campaign.run(&labs, &AtomicBool::new(false)).unwrap();
    println!("{sum}");
    assert!(sum.failed.is_empty(), "{:?}", sum.failed);
    assert_eq!(sum.runs, seeds);
}

/// Bit for bit: the last thousands of lines, and the digest of all of them.
#[test]
fn a_seed_gives_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_trine-sim")), dir.path(), true).unwrap();
    for seed in 1..=10 {
        let plan = Plan::of(seed);
        assert_eq!(lab.run(&plan).unwrap(), lab.run(&plan).unwrap(), "seed {seed}");
    }
}

/// Three nodes that are all alike.
fn plan(seed: u64, steps: &[Step]) -> Plan {
    Plan {
        seed,
        product: Product::Postgres,
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

/// Runs a plan with a database that cheats, seed after seed, until that is noticed; and without the cheat, which must be
/// well.
fn noticed(cheat: Cheat, steps: &[Step]) {
    const ENOUGH: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let lab = lab(dir.path());
    let run = |seed, cheat| -> Outcome { lab.run(&Plan { sync: 60, cheat, ..plan(seed, steps) }).unwrap() };
    let found = (1..=ENOUGH).map(|seed| (seed, run(seed, Some(cheat)).failures)).find(|(_, f)| !f.is_empty());
    let Some((seed, failures)) = found else { panic!("nothing notices {cheat:?}") };
    println!("{cheat:?}: noticed with seed {seed}: {}", failures.join("; "));
    assert_eq!(run(seed, None).failures, Vec::<String>::new());
}

const fn step(at: u64, lasts: u64, fault: Fault) -> Step {
    Step { at, lasts, fault }
}

/// What becomes of a healthy cluster of three whose first node leads, if this happens to it.
fn outcome(seed: u64, steps: &[Step]) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    lab(dir.path()).run(&plan(seed, steps)).unwrap()
}

/// Writes go on at another node while the cut lasts, and it is one failover.
#[test]
fn a_primary_whose_log_nobody_can_take_is_replaced_once() {
    for seed in 1..=10 {
        let quiet = outcome(seed, &[step(500, 20_000, Fault::WallClock(Who::Node(2), 5))]);
        let cut = outcome(seed, &[step(500, 20_000, Fault::ReplicationCut(Who::Primary))]);
        assert_eq!(cut.failures, Vec::<String>::new(), "seed {seed}");
        assert_eq!(cut.epoch, quiet.epoch + 1, "seed {seed}");
        let (some, all) = (cut.acknowledged, quiet.acknowledged);
        assert!(2 * some > all, "seed {seed}: {some} instead of {all} acknowledged");
    }
}

/// Nobody could take any other's log either.
#[test]
fn where_no_database_reaches_another_nobody_is_replaced() {
    for seed in 1..=10 {
        let all = [0, 1, 2].map(|i| step(500, 30_000, Fault::ReplicationCut(Who::Node(i))));
        let quiet = outcome(seed, &[step(500, 500, Fault::WallClock(Who::Node(2), 5))]);
        let cut = outcome(seed, &all);
        assert_eq!((cut.failures, cut.epoch), (Vec::new(), quiet.epoch), "seed {seed}");
    }
}

/// The first node leads. Clients reach it, and no other node does.
#[test]
fn commits_that_wait_for_nobody_are_noticed() {
    let steps = [step(500, 4000, Fault::Pair(0, 1)), step(500, 4000, Fault::Pair(0, 2))];
    noticed(Cheat::CommitsAlone, &steps);
}

/// The standbys are back first, and one of them leads.
#[test]
fn standbys_that_confirm_what_is_not_on_disk_are_noticed() {
    noticed(Cheat::ConfirmsUnsynced, &[step(500, 200, Fault::AllOff(Who::Primary, 6000))]);
}

/// The primary serves on until its lease is over, and a standby that is sealed takes its log.
#[test]
fn a_seal_that_does_not_cut_is_noticed() {
    noticed(Cheat::StreamsOn, &[step(500, 4000, Fault::AgentsCut(Who::Primary))]);
}
