//! Figures, printed and not judged: `cargo test --release -p trine-consensus --test measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use common::{Group, leader_of, until};
use tokio::time::Instant;
use trine_consensus::{Consensus, Founding};

/// Processor time of this process so far: fields 14 and 15 of proc(5) stat, in ticks of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn idle_commit_and_failover() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    let leader = leader_of(&nodes).await;

    let (before, begun) = (processor_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let share = (processor_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("idle: three nodes together use {:.2} % of a core", share * 100.0);

    for (who, node) in [("leader", leader), ("follower", (leader + 1) % 3)] {
        let mut took = Vec::new();
        for i in 0..200 {
            let begun = Instant::now();
            nodes[node].propose(i).await;
            took.push(begun.elapsed());
        }
        took.sort();
        println!("proposal at the {who}: median {:?}, 99 % {:?}", took[100], took[198]);
    }

    let mut took = Vec::new();
    for i in 0..10 {
        let leader = leader_of(&nodes).await;
        // A candidate that lags costs another round: not what is measured here.
        until(|| nodes.iter().all(|n| n.consensus.status().logged == nodes[leader].consensus.status().logged)).await;
        let lost = nodes.remove(leader);
        let name = lost.name.clone();
        let begun = Instant::now();
        lost.stop().await;
        let stopped = begun.elapsed();
        nodes[0].propose(1000 + i).await;
        took.push(begun.elapsed());
        println!("  stopped in {stopped:?}, {:?} in all", begun.elapsed());
        nodes.push(group.start(name.as_str(), Founding::Join).await);
    }
    took.sort();
    println!("leader lost until the next commit: median {:?}, worst {:?}", took[5], took[9]);
    for node in nodes {
        node.stop().await;
    }
}
