//! What an agent costs when nothing happens.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use trine_tests::process::processor_seconds;
use trine_tests::scenario::alone;
use trine_tests::{Cluster, Options, now_ns};

use crate::machine::seconds;
use crate::results::{Results, Section};

#[derive(Args)]
pub(crate) struct Arguments {
    /// For how long it is watched.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { seconds: 30 }
    }
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS")).context("VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}

pub(crate) fn run(a: &Arguments, results: &mut Results) -> Result<()> {
    let _turn = alone()?;
    let cluster = Cluster::up("bench-idle", &Options::local())?;
    let status = cluster.wait_healthy()?;
    // What starting left to do is no part of it.
    std::thread::sleep(Duration::from_secs(5));
    let agents: Vec<(String, u32, u32)> = cluster
        .nodes()
        .iter()
        .map(|n| Ok((n.name.clone(), cluster.agent(&n.name)?, cluster.guard(&n.name)?)))
        .collect::<Result<_>>()?;
    let start = now_ns();
    let before: Vec<(f64, f64)> =
        agents.iter().map(|a| Ok((processor_seconds(a.1)?, processor_seconds(a.2)?))).collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_secs(a.seconds));
    let elapsed = seconds(now_ns() - start);
    let mut rows = Vec::new();
    let mut data = Vec::new();
    for ((name, agent, guard), (agent_before, guard_before)) in agents.into_iter().zip(before) {
        let percent = |seconds: f64| seconds / elapsed * 100.0;
        let role = if status.primary.as_deref() == Some(&name) { "primary" } else { "standby" };
        let leads = status.more.get("leader").and_then(|l| l.as_str()) == Some(&name);
        let (cpu, guard_cpu) =
            (percent(processor_seconds(agent)? - agent_before), percent(processor_seconds(guard)? - guard_before));
        let (memory, guard_memory) = (resident_mib(agent)?, resident_mib(guard)?);
        rows.push(vec![
            name.clone(),
            format!("{role}{}", if leads { ", leads the consensus" } else { "" }),
            format!("{memory:.1}"),
            format!("{cpu:.2}"),
            format!("{guard_memory:.1}"),
            format!("{guard_cpu:.2}"),
        ]);
        data.push(json!({"node": name, "role": role, "agent_mib": memory, "agent_percent": cpu,
            "guard_mib": guard_memory, "guard_percent": guard_cpu}));
    }
    let head = ["node", "role", "agent MiB (aim 40)", "agent % of a core (aim 1.5)", "guard MiB", "guard %"];
    results.keep(
        "Idle",
        Section {
            how: format!("Resident memory and processor time of each agent over {} s without any client.", a.seconds),
            head: head.map(str::to_owned).to_vec(),
            rows,
            data: json!(data),
        },
    )
}
