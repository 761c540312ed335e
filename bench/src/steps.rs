//! What a step of the controller costs: pure code, so it is simply called many times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use trine_protocol::{
    Change, ClusterState, Command, Controller, Copy, Database, Epoch, Heard, Member, Moment, NodeName, Position,
    Report, Settings, SyncRule,
};
use trine_tests::now_ns;

use crate::machine::seconds;
use crate::results::{Results, Section};

const NODES: usize = 7;
const STEPS: u32 = 100_000;

fn name(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

/// A cluster of seven nodes in its second epoch, open.
fn state() -> ClusterState {
    let members: BTreeMap<NodeName, Member> = (1..=NODES)
        .map(|n| {
            (name(n), Member { zone: format!("z{n}"), address: format!("10.0.0.{n}"), voter: n <= 5, priority: 100 })
        })
        .collect();
    let rule = SyncRule { primary: name(1), standbys: (2..=5).map(name).collect::<BTreeSet<_>>(), acks: 2 };
    let mut state = ClusterState::default();
    let changes = [
        Change::Create {
            cluster: "bench".into(),
            cluster_id: "0".into(),
            engine: "postgres".into(),
            settings: Settings { acks: 2, ..Settings::default() },
            members,
            seed: name(1),
        },
        Change::BeginEpoch {
            from: Epoch(0),
            epoch: Epoch(2),
            because: "the first".into(),
            prefer: None,
            accept_loss: false,
            without: None,
            evidence: BTreeMap::new(),
        },
        Change::Elect {
            epoch: Epoch(2),
            primary: name(1),
            rule,
            interim: false,
            position: Position::default(),
            evidence: BTreeMap::new(),
        },
        Change::BarrierPassed { epoch: Epoch(2) },
    ];
    for change in changes {
        state.apply(&Command { by: name(1), at_ms: 0, change });
    }
    state
}

fn heard(state: &ClusterState, now: Moment) -> BTreeMap<NodeName, Heard> {
    let position = Position { epoch: state.epoch, offset: 1 << 30 };
    let standbys: BTreeMap<NodeName, Position> = (2..=NODES).map(|n| (name(n), position)).collect();
    (1..=NODES)
        .map(|n| {
            let database = if n == 1 {
                Database::Primary { epoch: state.epoch }
            } else {
                Database::Following { epoch: state.epoch, streaming: true }
            };
            let report = Report {
                promised: state.epoch,
                seen: state.epoch,
                silence: Duration::from_millis(50),
                seal: None,
                data: Copy::Complete,
                database,
                floor: state.epoch,
                position: Some(position),
                replay_lag: 0,
                failed: None,
                yielded: None,
                needs: None,
                standbys: if n == 1 { standbys.clone() } else { BTreeMap::new() },
                reaches: BTreeSet::new(),
            };
            (name(n), Heard { report, at: now })
        })
        .collect()
}

pub(crate) fn run(results: &mut Results) -> Result<()> {
    let mut rows = Vec::new();
    let mut data = Vec::new();
    let quiet = state();
    let mut vacant = state();
    vacant.apply(&Command {
        by: name(2),
        at_ms: 0,
        change: Change::BeginEpoch {
            from: Epoch(2),
            epoch: Epoch(3),
            because: "the primary is silent".into(),
            prefer: None,
            accept_loss: false,
            without: None,
            evidence: BTreeMap::new(),
        },
    });
    for (what, state) in [("all is well", &quiet), ("an election", &vacant)] {
        let mut controller = Controller::default();
        let heard = heard(state, Moment::from_nanos(1));
        let start = now_ns();
        let mut proposed = 0;
        for n in 0..STEPS {
            // Each in its own nanosecond: what is heard stays fresh for half a second.
            let now = Moment::from_nanos(2 + u64::from(n));
            proposed += std::hint::black_box(controller.step(std::hint::black_box(state), &heard, now)).len();
        }
        let each_us = seconds(now_ns() - start) * 1e6 / f64::from(STEPS);
        rows.push(vec![what.to_owned(), format!("{each_us:.2}"), "50".to_owned()]);
        data.push(json!({"what": what, "us": each_us, "steps": STEPS, "proposed": proposed}));
    }
    results.keep(
        "Controller",
        Section {
            how: format!("{STEPS} steps of the controller over a view of {NODES} nodes, in the protocol's own code."),
            head: ["what", "µs a step", "aim"].map(str::to_owned).to_vec(),
            rows,
            data: json!(data),
        },
    )
}
