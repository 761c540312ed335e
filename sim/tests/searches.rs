//! Each search finds nothing. docs/proof.md says what that shows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use trine_sim::model::{SCOPES, Scope, scope, search};

/// Far more than any takes; a search that is not finished is a failed test.
const LIMIT: Duration = Duration::from_secs(1200);

fn finds_nothing(name: &str) {
    let scope = scope(name).unwrap();
    let found = search(scope, 1, LIMIT);
    if let Some((promise, story)) = found.broken.first() {
        panic!("{promise}:\n{}", story.join("\n"));
    }
    assert!(found.finished, "only {} states were seen", found.states);
    assert!(found.went_on, "nothing was acknowledged in a later epoch");
    println!("{name}: {} states, depth {}", found.states, found.depth);
}

macro_rules! searches {
    ($($test:ident: $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                finds_nothing($name);
            }
        )*

        #[test]
        fn every_search_is_a_test() {
            let tested = [$($name),*];
            for Scope { name, .. } in SCOPES {
                assert!(tested.contains(name), "{name:?} is not tested");
            }
        }
    };
}

searches! {
    failovers: "failovers";
    left_out: "left out";
    crash: "crash";
    processes: "processes";
    rule: "rule";
    loss: "loss";
    torn: "torn";
    wiped: "wiped";
    rebuild: "rebuild";
    switchover: "switchover";
    gamble: "gamble";
    available: "available";
    five: "five";
    lease_slow_holder: "lease, slow holder";
    lease_fast_holder: "lease, fast holder";
    lease_one_fast_voter: "lease, one fast voter";
    recovery_after_a_crash: "recovery, crash";
    recovery_after_a_loss: "recovery, loss";
}
