//! How long one step of the controller takes, with a view of seven nodes: prints nanoseconds for each step.
//!
//! `cargo run --release -p trine-protocol --example controller_step`

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::Duration;

use trine_protocol::{
    Change, ClusterState, Command, Controller, Copy, Database, Epoch, Heard, Member, Moment, NodeName, Outcome,
    Position, Report, Seal, Settings, SyncRule,
};

const NODES: usize = 7;
const STEPS: u32 = 200_000;
const EPOCH: Epoch = Epoch(7);
const NOW: Moment = Moment::from_nanos(90_000_000_000);

fn main() -> Result<(), String> {
    let names: Vec<NodeName> =
        (1..=NODES).map(|i| format!("n{i}").parse()).collect::<Result<_, _>>().map_err(|e| format!("{e}"))?;
    let vacant = vacant(&names)?;
    let held = held(vacant.clone(), &names)?;
    let views = [
        ("healthy, nothing to do", held.clone(), false),
        ("the primary is silent", held, true),
        ("election", vacant, false),
    ];
    println!("{NODES} nodes, {STEPS} steps each");
    for (what, state, down) in views {
        let heard = heard(&names, &state, down);
        let mut controller = Controller::default();
        let decided = controller.step(&state, &heard, NOW).len();
        let nanos = time(|| {
            black_box(controller.step(black_box(&state), black_box(&heard), NOW));
        });
        println!("{what:<24} {nanos:>7} ns/step   ({decided} changes proposed)");
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a measurement of this machine, not a rule")]
fn time(mut step: impl FnMut()) -> u128 {
    let start = std::time::Instant::now();
    for _ in 0..STEPS {
        step();
    }
    start.elapsed().as_nanos() / u128::from(STEPS)
}

fn apply(state: &mut ClusterState, by: &NodeName, change: Change) -> Result<(), String> {
    match state.apply(&Command { by: by.clone(), at_ms: 0, change }) {
        Outcome::Applied(_) => Ok(()),
        Outcome::Refused(why) => Err(why),
    }
}

/// A cluster in its seventh epoch, which nobody leads yet.
fn vacant(names: &[NodeName]) -> Result<ClusterState, String> {
    let seed = names.first().ok_or("no nodes")?;
    let member = |(i, n): (usize, &NodeName)| {
        let member = Member { zone: format!("z{i}"), address: format!("127.0.0.{i}"), voter: i < 5, priority: 100 };
        (n.clone(), member)
    };
    let mut state = ClusterState::default();
    let create = Change::Create {
        cluster: "bench".to_owned(),
        cluster_id: "1".to_owned(),
        engine: "postgres".to_owned(),
        settings: Settings { acks: 2, ..Settings::default() },
        members: names.iter().enumerate().map(member).collect(),
        seed: seed.clone(),
    };
    apply(&mut state, seed, create)?;
    let begin = Change::BeginEpoch {
        from: Epoch::ZERO,
        epoch: EPOCH,
        because: "a measurement".to_owned(),
        prefer: None,
        accept_loss: false,
        without: None,
        evidence: BTreeMap::new(),
    };
    apply(&mut state, seed, begin)?;
    Ok(state)
}

/// The same, open.
fn held(mut state: ClusterState, names: &[NodeName]) -> Result<ClusterState, String> {
    let seed = names.first().ok_or("no nodes")?;
    let standbys = names.iter().skip(1).take(4).cloned().collect();
    let rule = SyncRule { primary: seed.clone(), standbys, acks: 2 };
    let elect = Change::Elect {
        epoch: EPOCH,
        primary: seed.clone(),
        rule,
        interim: false,
        position: Position::default(),
        evidence: BTreeMap::new(),
    };
    apply(&mut state, seed, elect)?;
    apply(&mut state, seed, Change::BarrierPassed { epoch: EPOCH })?;
    Ok(state)
}

/// What each node says: all is well, or the primary has fallen silent.
fn heard(names: &[NodeName], state: &ClusterState, down: bool) -> BTreeMap<NodeName, Heard> {
    let position = Position { epoch: Epoch(6), offset: 1 << 34 };
    let report = |(i, name): (usize, &NodeName)| {
        let database = match (state.held().is_some(), i) {
            (false, _) => Database::Sealed,
            (true, 0) => Database::Primary { epoch: EPOCH },
            (true, _) => Database::Following { epoch: EPOCH, streaming: !down },
        };
        let seal = Seal { epoch: EPOCH, lease_left: Duration::ZERO, position: Some(position) };
        let report = Report {
            promised: EPOCH,
            seen: EPOCH,
            silence: Duration::from_millis(if down { 900 } else { 50 }),
            seal: state.held().is_none().then_some(seal),
            data: Copy::Complete,
            database,
            floor: position.epoch,
            position: Some(position),
            replay_lag: 0,
            failed: None,
            yielded: None,
            needs: None,
            standbys: names.iter().map(|n| (n.clone(), position)).collect(),
            reaches: BTreeSet::new(),
        };
        (name.clone(), Heard { report, at: NOW })
    };
    names.iter().enumerate().filter(|(i, _)| !(down && *i == 0)).map(report).collect()
}
