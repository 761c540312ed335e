//! Simulated clusters: the seeds of every run of the suite, cheats that must be noticed, and what was found, by name.

mod common;

use common::{campaign, gives_one_run, noticed, outcome, step};
use trine_sim::cluster::{Cheat, Fault, Product, Who};

const POSTGRES: Product = Product::Postgres;

/// How many seeds.
const SEEDS: u64 = 2000;

#[test]
fn seeds() {
    campaign(POSTGRES, SEEDS);
}

#[test]
fn a_seed_gives_one_run() {
    gives_one_run(POSTGRES, 10);
}

/// Writes go on at another node while the cut lasts, and it is one failover.
#[test]
fn a_primary_whose_log_nobody_can_take_is_replaced_once() {
    for seed in 1..=10 {
        let quiet = outcome(seed, POSTGRES, &[step(500, 20_000, Fault::WallClock(Who::Node(2), 5))]);
        let cut = outcome(seed, POSTGRES, &[step(500, 20_000, Fault::ReplicationCut(Who::Primary))]);
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
        let quiet = outcome(seed, POSTGRES, &[step(500, 500, Fault::WallClock(Who::Node(2), 5))]);
        let cut = outcome(seed, POSTGRES, &all);
        assert_eq!((cut.failures, cut.epoch), (Vec::new(), quiet.epoch), "seed {seed}");
    }
}

/// The first node leads. Clients reach it, and no other node does.
#[test]
fn commits_that_wait_for_nobody_are_noticed() {
    let steps = [step(500, 4000, Fault::Pair(0, 1)), step(500, 4000, Fault::Pair(0, 2))];
    noticed(POSTGRES, Cheat::CommitsAlone, &steps);
}

/// The standbys are back first, and one of them leads.
#[test]
fn standbys_that_confirm_what_is_not_on_disk_are_noticed() {
    noticed(POSTGRES, Cheat::ConfirmsUnsynced, &[step(500, 200, Fault::AllOff(Who::Primary, 6000))]);
}

/// The primary serves on until its lease is over, and a standby that is sealed takes its log.
#[test]
fn a_seal_that_does_not_cut_is_noticed() {
    noticed(POSTGRES, Cheat::StreamsOn, &[step(500, 4000, Fault::AgentsCut(Who::Primary))]);
}
