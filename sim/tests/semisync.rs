//! Simulated clusters of MariaDB and of MySQL: seeds of every run of the suite, and habits that are broken on purpose, which must
//! be noticed.

mod common;

use common::{campaign, gives_one_run, noticed, noticed_of, outcome, plan, step};
use trine_sim::cluster::{Cheat, Fault, Plan, Product, Step, Who};

const BOTH: [Product; 2] = [Product::MariaDb, Product::MySql];

/// How many seeds of each.
const SEEDS: u64 = 300;

fn noticed_of_both(cheat: Cheat, steps: &[Step]) {
    for product in BOTH {
        noticed(product, cheat, steps);
    }
}

#[test]
fn seeds_of_mariadb() {
    campaign(Product::MariaDb, SEEDS);
}

#[test]
fn seeds_of_mysql() {
    campaign(Product::MySql, SEEDS);
}

#[test]
fn a_seed_gives_one_run() {
    for product in BOTH {
        gives_one_run(product, 5);
    }
}

/// The first node leads. Clients reach it, and no other node does.
#[test]
fn commits_that_nobody_acknowledges_are_noticed() {
    noticed_of_both(Cheat::CommitsAlone, &[step(500, 4000, Fault::Pair(0, 1)), step(500, 4000, Fault::Pair(0, 2))]);
}

/// The last of five nodes is not heard of, and leaves the rule; it takes the log all the same, and for a moment is the only one. Then
/// the first is lost, and the other three are enough by the rule.
#[test]
fn acknowledgements_of_whom_the_rule_does_not_name_are_noticed() {
    let mut steps = vec![step(500, 15_000, Fault::AgentsCut(Who::Node(4)))];
    steps.extend([1, 2, 3].map(|i| step(7000, 600, Fault::ReplicationCut(Who::Node(i)))));
    steps.push(step(7600, 7000, Fault::PowerOff(Who::Node(0))));
    for product in BOTH {
        let five = Plan { nodes: 5, priorities: vec![100; 5], clocks: vec![(0, 0); 5], ..plan(0, product, &steps) };
        noticed_of(&five, Cheat::AnybodyAcknowledges);
    }
}

/// The standbys are back first, and one of them leads. What they have applied they have on disk: so they lag.
#[test]
fn standbys_that_acknowledge_what_is_not_on_disk_are_noticed() {
    let steps = [
        step(300, 4000, Fault::SlowReplay(Who::Node(1))),
        step(300, 4000, Fault::SlowReplay(Who::Node(2))),
        step(1500, 200, Fault::AllOff(Who::Primary, 6000)),
    ];
    noticed_of_both(Cheat::ConfirmsUnsynced, &steps);
}

/// The primary serves on until its lease is over, and a standby that is sealed takes its log.
#[test]
fn a_seal_whose_receiver_goes_on_is_noticed() {
    noticed_of_both(Cheat::StreamsOn, &[step(500, 4000, Fault::AgentsCut(Who::Primary))]);
}

/// Both standbys lag; the primary is lost.
#[test]
fn a_promotion_that_throws_the_received_log_away_is_noticed() {
    let steps = [
        step(500, 4000, Fault::SlowReplay(Who::Node(1))),
        step(500, 4000, Fault::SlowReplay(Who::Node(2))),
        step(2500, 3000, Fault::PowerOff(Who::Node(0))),
    ];
    noticed_of_both(Cheat::DropsReceived, &steps);
}

/// The same, and all have been without power.
#[test]
fn a_start_that_throws_the_received_log_away_is_noticed() {
    let steps = [
        step(500, 4000, Fault::SlowReplay(Who::Node(1))),
        step(500, 4000, Fault::SlowReplay(Who::Node(2))),
        step(2500, 200, Fault::AllOff(Who::Node(0), 6000)),
    ];
    noticed_of_both(Cheat::ForgetsReceived, &steps);
}

/// The third node lags; the first has lost its power, and so the end of its log, and the second comes back too late.
#[test]
fn a_tail_that_is_cut_off_and_not_set_aside_is_noticed() {
    let steps =
        [step(500, 3000, Fault::ReplicationCut(Who::Node(2))), step(1500, 200, Fault::AllOff(Who::Node(1), 6000))];
    noticed(Product::MariaDb, Cheat::DropsTail, &steps);
}

/// The first node writes what nobody else gets, and follows another.
#[test]
fn a_tail_that_nobody_notices_is_noticed() {
    let steps = [step(500, 4000, Fault::Pair(0, 1)), step(500, 4000, Fault::Pair(0, 2))];
    noticed(Product::MySql, Cheat::TailUnnoticed, &steps);
}

/// The first primary is cut off with a tail, the second loses its power with another before the first has a new copy: the third can't
/// be copied while a barrier waits.
#[test]
fn a_barrier_that_waits_for_nobody_is_noticed() {
    let steps = [
        step(500, 2500, Fault::Pair(0, 1)),
        step(500, 2500, Fault::Pair(0, 2)),
        step(2950, 2500, Fault::PowerOff(Who::Primary)),
    ];
    noticed(Product::MySql, Cheat::BarrierAtOnce, &steps);
}

/// A standby gets a new copy, and the other one is lost for a minute, before it is made or while it is: commits wait for what comes of
/// the copy, and the copy for them. The primary begins anew after 15 s, and is copied.
#[test]
fn a_copy_does_not_wait_for_commits_that_wait_for_it() {
    let rebuild = |at| step(at, 0, Fault::Rebuild(1));
    let lost = |at| step(at, 60_000, Fault::PowerOff(Who::Node(2)));
    for product in BOTH {
        for seed in 1..=2 {
            for steps in [[rebuild(500), lost(540)], [lost(500), rebuild(1500)]] {
                let found = outcome(seed, product, &steps);
                assert_eq!(found.failures, Vec::<String>::new(), "{product}, seed {seed}, {steps:?}");
                let served = found.acknowledged;
                println!("{product}, seed {seed}: {served} appends");
                assert!(served > 300, "{product}, seed {seed}, {steps:?}: closed for a minute, {served} appends");
            }
        }
    }
}
