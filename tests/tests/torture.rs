//! A few random faults, some of them at once, of each kind of database. `make torture` does as many as one likes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use trine_tests::docker::Docker;
use trine_tests::namespace::on_path;
use trine_tests::scenario::scenario_with;
use trine_tests::torture::faults::{Harm, Victim, heal, strike};
use trine_tests::torture::workload::{Workload, read_list};
use trine_tests::torture::{Engine, Kind, Limits, Planned, Role, Step, report, run};
use trine_tests::volume::on_redis;
use trine_tests::{Options, redis, scenario};

/// So many faults of a plan, and all checks; at least `possible` of them must strike.
fn torture(engine: Engine, seed: u64, faults: usize, possible: usize) {
    scenario_with(
        &format!("torture-{}", engine.name()),
        &engine.options().unwrap(),
        |s| {
            let limits = Limits { faults: Some(faults), time: None };
            let record = run(&s.cluster, engine, seed, limits, |line| println!("{line}"));
            println!("{}", report::markdown(&record));
            anyhow::ensure!(record.wrong.is_empty(), "seed {seed}: {}", record.wrong.join("\n"));
            anyhow::ensure!(record.faults >= possible, "of {faults} faults only {} were possible", record.faults);
            Ok(())
        },
        |s, _| {
            println!("{}", engine.verify(&s.cluster)?);
            Ok(())
        },
    );
}

/// The first twenty faults of this seed are of 18 kinds: nodes, processes, cables and disks, orders, and the power of all.
#[test]
fn twenty_faults_lose_nothing() {
    torture(Engine::Postgres, 112, 20, 18);
}

#[test]
fn redis_on_a_volume_loses_nothing() {
    torture(Engine::Redis, 385, 12, 11);
}

#[test]
fn redis_in_containers_loses_nothing() {
    if let Err(e) = Docker::ready() {
        eprintln!("NOT TRIED: {e:#}");
        return;
    }
    torture(Engine::RedisDocker, 189, 8, 7);
}

#[test]
fn firebird_on_a_volume_loses_nothing() {
    if !on_path("isql-fb") {
        eprintln!("NOT TRIED: there is no Firebird here (package firebird3.0-server)");
        return;
    }
    torture(Engine::Firebird, 290, 8, 7);
}

#[test]
fn firebird_in_containers_loses_nothing() {
    if !on_path("isql-fb") {
        eprintln!("NOT TRIED: there is no Firebird here (package firebird3.0-server)");
        return;
    }
    if let Err(e) = Docker::ready() {
        eprintln!("NOT TRIED: {e:#}");
        return;
    }
    torture(Engine::FirebirdDocker, 189, 8, 7);
}

#[test]
fn sqlite_on_a_volume_loses_nothing() {
    torture(Engine::Sqlite, 385, 8, 7);
}

#[test]
fn mariadb_on_a_volume_loses_nothing() {
    if !on_path("mariadbd") {
        eprintln!("NOT TRIED: there is no MariaDB here (package mariadb-server)");
        return;
    }
    torture(Engine::MariadbVolume, 108, 8, 7);
}

#[test]
fn sqlite_in_containers_loses_nothing() {
    if let Err(e) = Docker::ready() {
        eprintln!("NOT TRIED: {e:#}");
        return;
    }
    torture(Engine::SqliteDocker, 189, 8, 7);
}

/// The check has teeth: a database that acknowledges what no standby has does lose it, and that is found.
#[test]
fn what_is_lost_is_found() {
    scenario("torture-teeth", &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        s.cluster.sql(&primary, "app")?.rows("alter role app set synchronous_commit = local")?;
        let workload = Workload::start(&s.cluster, Engine::Postgres)?;
        let fault = Planned { kind: Kind::CutFromNodes, salt: 0 };
        let step =
            Step { on: Role::Primary, salt: 0, faults: vec![fault], hold_ms: 0, rest_ms: 0, until_healthy: true };
        let victim = Victim::of(&step, &status)?;
        let mut harm = Harm::default();
        strike(&s.cluster, fault, &victim, &mut harm)?;
        // Clients on its own endpoint write on until it is fenced; what they are told, nobody else has.
        s.cluster.ask_only(&[&victim.others[0], &victim.others[1]]);
        let next = s.cluster.wait_new_primary(status.epoch)?.primary.expect("a primary");
        s.cluster.ask_only(&[]);
        heal(&s.cluster, &harm)?;
        s.cluster.wait_healthy()?;
        workload.wait_acknowledged(20)?;
        let history = workload.stop()?;
        let (_, list) = read_list(&s.cluster, Engine::Postgres)?;
        let faults = history.faults(&list);
        println!("{} faults, the first: {:?}", faults.len(), faults.first());
        anyhow::ensure!(faults.iter().any(|f| f.contains("is lost")), "nothing was found: {faults:?}");
        anyhow::ensure!(faults.iter().any(|f| f.contains("register")), "no register shows it: {faults:?}");
        s.cluster.sql(&next, "app")?.rows("alter role app reset synchronous_commit").map(drop)
    });
}

/// On a volume, too: a Redis that acknowledges what it has not made durable loses it with its node.
#[test]
fn what_is_lost_on_a_volume_is_found() {
    on_redis("torture-teeth-volume", Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let workload = Workload::start(&s.cluster, Engine::Redis)?;
        let dsn = s.writer_at(&[&primary])?;
        s.cluster.client_namespace().enter(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut session = redis::Session::connect(&dsn, Duration::from_secs(5)).await?;
                session.ask(&["CONFIG", "SET", "appendfsync", "no"]).await
            })
        })?;
        workload.wait_acknowledged(50)?;
        s.cluster.kill_node(&primary)?;
        s.cluster.wait_new_primary(status.epoch)?;
        workload.wait_acknowledged(50)?;
        s.cluster.start_node(&primary)?;
        s.cluster.wait_healthy()?;
        let history = workload.stop()?;
        let (_, list) = read_list(&s.cluster, Engine::Redis)?;
        let faults = history.faults(&list);
        println!("{} faults, the first: {:?}", faults.len(), faults.first());
        anyhow::ensure!(faults.iter().any(|f| f.contains("is lost")), "nothing was found: {faults:?}");
        Ok(())
    });
}
