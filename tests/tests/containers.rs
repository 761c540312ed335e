//! A database in a container, on a volume, in a cluster. Its daemon is the machine's, so the cluster is in the machine's own
//! network and mounts, too. Without Docker this says that it was not tried, and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use trine_tests::cluster::{test_root, trine_binary};
use trine_tests::docker::{Docker, recorded};
use trine_tests::scenario::alone;
use trine_tests::writer::{Live, WriterOptions};
use trine_tests::{now_ns, redis, wait_until};

struct Cluster {
    dir: PathBuf,
    docker: Docker,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("its logs are in {}", self.dir.display());
            let _ = self.trine(&["local", "down"]);
        } else {
            self.trine(&["local", "down", "--wipe"]).unwrap();
        }
    }
}

impl Cluster {
    fn trine(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(trine_binary()?).args(words).arg("--dir").arg(&self.dir).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "trine {words:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    fn json(&self, what: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.trine(&[what, "--json"])?)?)
    }

    fn primary(&self) -> Option<String> {
        Some(self.json("status").ok()?.get("primary")?.as_str()?.to_owned())
    }

    /// The number of the container that runs on a node.
    fn container(&self, node: &str) -> Result<String> {
        recorded(&self.dir.join(node)).into_iter().next().context("no number")
    }

    fn labelled(&self) -> String {
        self.docker.below(&self.dir).unwrap().join("\n")
    }
}

fn docker() -> Option<Docker> {
    Docker::ready().inspect_err(|e| eprintln!("NOT TRIED: {e:#}")).ok()
}

fn since(began_ns: u64) -> Duration {
    Duration::from_nanos(now_ns() - began_ns)
}

fn is_empty(id: &str) -> bool {
    let read = |e: &fs::DirEntry, file: &str| fs::read_to_string(e.path().join(file)).unwrap_or_default();
    // What is left of an exited process until its parent looks holds nothing.
    let runs = |e: fs::DirEntry| read(&e, "cgroup").contains(id) && !read(&e, "stat").contains(") Z ");
    !fs::read_dir("/proc").unwrap().flatten().any(runs)
}

fn agent(dir: &Path) -> Pid {
    let named = |p: &u32| {
        let line = fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        words.get(1).is_some_and(|w| w == "agent") && words.iter().any(|w| Path::new(w).starts_with(dir))
    };
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let pid = all.into_iter().find(named).expect("the agent runs");
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

#[test]
fn redis_in_a_container_survives_its_agents() {
    let _turn = alone().unwrap();
    let Some(docker) = docker() else { return };
    let cluster = Cluster { dir: test_root().join(format!("box-{}", std::process::id())), docker };
    let _ = fs::remove_dir_all(&cluster.dir);
    fs::create_dir_all(test_root()).unwrap();
    let socket = format!("database.socket={}", cluster.docker.socket.display());
    let mut up = vec!["local", "up", "--engine", "volume", "--set", "preset=redis", "--set", &socket];
    for setting in [
        "database.image=\"trine-tests/redis:1\"",
        "database.user=\"999:999\"",
        "ports.writer=16432",
        "ports.reader=16433",
        "ports.api=16400",
        "ports.peer=16401",
        "ports.database=16500",
    ] {
        up.extend(["--set", setting]);
    }
    cluster.trine(&up).unwrap();
    wait_until("a primary", Duration::from_secs(60), || Ok(cluster.primary().is_some())).unwrap();
    let endpoints = cluster.json("endpoints").unwrap();
    let writers = endpoints["writers"].as_array().unwrap().iter().filter_map(|w| w.as_str());
    let dsn = writers.collect::<Vec<_>>().join(",");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = WriterOptions { dsn: dsn.clone(), table: "t".into(), clients: 4, ..WriterOptions::default() };
    runtime.block_on(redis::prepare(&options, Duration::from_secs(60))).unwrap();
    let live = Arc::new(Live::default());
    let writer = runtime.spawn(redis::run(options, Arc::clone(&live)));
    std::thread::sleep(Duration::from_secs(2));

    for fault in ["killed", "frozen"] {
        wait_until("a healthy cluster", Duration::from_secs(60), || Ok(cluster.primary().is_some())).unwrap();
        let primary = cluster.primary().unwrap();
        let id = cluster.container(&primary).unwrap();
        assert!(!is_empty(&id));
        let agent = agent(&cluster.dir.join(&primary));
        let began = now_ns();
        kill_process(agent, if fault == "killed" { Signal::KILL } else { Signal::STOP }).unwrap();
        // The lease is a second.
        wait_until("the container's end", Duration::from_secs(10), || Ok(is_empty(&id))).unwrap();
        let gone = since(began);
        assert!(gone < Duration::from_millis(1500), "agent {fault}: the container outlived its lease, {gone:?}");
        let another = || Ok(cluster.primary().is_some_and(|p| p != primary));
        wait_until("another primary", Duration::from_secs(30), another).unwrap();
        eprintln!("agent of {primary} {fault}: container gone after {gone:?}, another leads after {:?}", since(began));
        std::thread::sleep(Duration::from_secs(2));
        if fault == "frozen" {
            kill_process(agent, Signal::CONT).unwrap();
        } else {
            cluster.trine(&["local", "start-node", &primary]).unwrap();
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    // A whole node, guard and holder included.
    let primary = cluster.primary().unwrap();
    let id = cluster.container(&primary).unwrap();
    cluster.trine(&["local", "kill-node", &primary]).unwrap();
    assert!(is_empty(&id), "the container outlived its node");
    wait_until("another primary", Duration::from_secs(30), || Ok(cluster.primary().is_some_and(|p| p != primary)))
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));

    live.stop();
    let report = runtime.block_on(writer).unwrap();
    let (ids, count) = runtime.block_on(redis::written(&dsn, "t")).unwrap();
    let acknowledged: BTreeSet<i64> = report.acks.iter().map(|a| a.id).collect();
    let lost: Vec<_> = acknowledged.difference(&ids).collect();
    eprintln!("{} acknowledged, {} lost, {} unanswered", acknowledged.len(), lost.len(), report.unknown.len());
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    assert!(
        count >= acknowledged.len() as u64 && count <= (acknowledged.len() + report.unknown.len()) as u64,
        "{count}"
    );
    cluster.trine(&["local", "down"]).unwrap();
    assert!(cluster.labelled().lines().count() <= 1, "{}", cluster.labelled());
}
