//! Twenty random faults, some of them at once. `make torture` does as many as one likes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use trine_tests::checks;
use trine_tests::scenario::scenario_with;
use trine_tests::torture::{Limits, cluster_options, report, run};

/// Its first twenty faults are of 18 kinds: nodes, processes, cables and disks, orders, and the power of all.
const SEED: u64 = 112;

#[test]
fn twenty_faults_lose_nothing() {
    scenario_with(
        "torture",
        &cluster_options(),
        |s| {
            let limits = Limits { faults: Some(20), time: None };
            let record = run(&s.cluster, SEED, limits, |line| println!("{line}"));
            println!("{}", report::markdown(&record));
            anyhow::ensure!(record.wrong.is_empty(), "seed {SEED}: {}", record.wrong.join("\n"));
            anyhow::ensure!(record.faults >= 18, "of 20 faults only {} were possible", record.faults);
            Ok(())
        },
        |s, _| checks::amcheck(&s.cluster),
    );
}
