//! The searches that are made.

use trine_protocol::Durability;

use super::scope::{Budget, Mutant, Scope};

const NOTHING: Budget = Budget::NOTHING;

/// Three nodes, one of two standbys has a commit, no clocks, and nothing happens.
const THREE: Scope = Scope {
    name: "",
    about: "",
    nodes: 3,
    acks: 1,
    durability: Durability::Strict,
    budget: NOTHING,
    clocks: &[],
    recovery: false,
    mutant: Mutant::None,
};

/// Clocks that are off by as much as the lease allows for, 1 % (less what whole nanoseconds round).
const SLOW_HOLDER: &[i64] = &[-9_900, 9_900, 9_900];
const FAST_HOLDER: &[i64] = &[9_900, -9_900, -9_900];
const ONE_FAST_VOTER: &[i64] = &[-9_900, -9_900, 9_900];
/// And clocks that are off by more.
const BEYOND: &[i64] = &[-30_000, 30_000, 30_000];

/// Those of every run of the tests. With each a failover can begin at any moment.
pub const SCOPES: &[Scope] = &[
    Scope { name: "failovers", about: "two failovers", budget: Budget { writes: 1, epochs: 2, ..NOTHING }, ..THREE },
    Scope {
        name: "left out",
        about: "two failovers, one without a node's copy",
        budget: Budget { writes: 1, epochs: 2, left_out: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "crash",
        about: "a machine crashes",
        budget: Budget { writes: 1, epochs: 1, crashes: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "processes",
        about: "an agent and a database end",
        budget: Budget { writes: 1, epochs: 1, agents: 1, databases: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "rule",
        about: "the sync rule changes",
        budget: Budget { writes: 1, epochs: 1, rules: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "loss",
        about: "a copy is lost, and two failovers",
        budget: Budget { epochs: 2, losses: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "torn",
        about: "a copy is torn",
        budget: Budget { writes: 1, epochs: 1, tears: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "wiped",
        about: "a machine is wiped",
        budget: Budget { writes: 1, epochs: 1, wipes: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "rebuild",
        about: "a copy is made anew",
        budget: Budget { writes: 1, epochs: 1, rebuilds: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "switchover",
        about: "a switchover",
        budget: Budget { writes: 1, epochs: 1, switchovers: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "gamble",
        about: "a person accepts loss",
        budget: Budget { writes: 1, epochs: 1, gambles: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "available",
        about: "the primary may go on alone",
        durability: Durability::Available,
        budget: Budget { epochs: 1, rules: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "five",
        about: "five nodes, two of four standbys",
        nodes: 5,
        acks: 2,
        budget: Budget { epochs: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "lease, slow holder",
        about: "the primary's clock 1 % slow, the others' fast",
        clocks: SLOW_HOLDER,
        budget: Budget { epochs: 1, renewals: 1, waits: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "lease, fast holder",
        about: "the primary's clock 1 % fast, the others' slow",
        clocks: FAST_HOLDER,
        budget: Budget { epochs: 1, renewals: 1, waits: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "lease, one fast voter",
        about: "one voter's clock 1 % fast, the others' slow",
        clocks: ONE_FAST_VOTER,
        budget: Budget { epochs: 1, renewals: 1, waits: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "recovery, crash",
        about: "from each state a majority comes back",
        recovery: true,
        budget: Budget { writes: 1, epochs: 1, crashes: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "recovery, loss",
        about: "from each state a majority comes back",
        recovery: true,
        budget: Budget { epochs: 1, losses: 1, ..NOTHING },
        ..THREE
    },
];

/// More of the same, for the record: minutes each, and gigabytes of memory.
pub const DEEP: &[Scope] = &[
    Scope {
        name: "left out, loss",
        about: "a copy is lost, and two failovers, one without a node's copy",
        budget: Budget { epochs: 2, losses: 1, left_out: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "left out, rule",
        about: "a failover without a node's copy, and the sync rule changes",
        budget: Budget { writes: 1, epochs: 1, rules: 1, left_out: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more failovers",
        about: "three failovers",
        budget: Budget { writes: 1, epochs: 3, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more crashes",
        about: "a machine crashes, and two failovers",
        budget: Budget { writes: 1, epochs: 2, crashes: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more losses",
        about: "a copy is lost, and two failovers",
        budget: Budget { writes: 1, epochs: 2, losses: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more rules",
        about: "the sync rule changes twice",
        budget: Budget { writes: 1, epochs: 1, rules: 2, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more switchovers",
        about: "a switchover and a failover",
        budget: Budget { writes: 1, epochs: 2, switchovers: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more alone",
        about: "the primary may go on alone",
        durability: Durability::Available,
        budget: Budget { writes: 1, epochs: 1, rules: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more of five",
        about: "five nodes, two of four standbys",
        nodes: 5,
        acks: 2,
        budget: Budget { writes: 1, epochs: 1, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more leases, slow holder",
        about: "the primary's clock 1 % slow, the others' fast",
        clocks: SLOW_HOLDER,
        budget: Budget { epochs: 1, renewals: 1, waits: 2, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more leases, fast holder",
        about: "the primary's clock 1 % fast, the others' slow",
        clocks: FAST_HOLDER,
        budget: Budget { epochs: 1, renewals: 1, waits: 2, ..NOTHING },
        ..THREE
    },
    Scope {
        name: "more leases, one fast voter",
        about: "one voter's clock 1 % fast, the others' slow",
        clocks: ONE_FAST_VOTER,
        budget: Budget { epochs: 1, renewals: 1, waits: 2, ..NOTHING },
        ..THREE
    },
];

/// What is assumed does not hold: a clock is off by more than 1 %.
pub const CLOCK_BEYOND_ITS_BOUND: Scope = Scope {
    name: "a clock beyond its bound",
    about: "the primary's clock 3 % slow, the others' fast",
    clocks: BEYOND,
    budget: Budget { epochs: 1, renewals: 1, waits: 1, ..NOTHING },
    ..THREE
};

/// The search of this name.
#[must_use]
pub fn scope(name: &str) -> Option<&'static Scope> {
    SCOPES.iter().chain(DEEP).find(|s| s.name == name)
}
