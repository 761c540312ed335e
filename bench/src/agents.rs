//! What the agents of a cluster use of their machine.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;
use trine_tests::process::processor_seconds;

use crate::volume::Local;

/// The agents of a cluster: their processes.
pub(crate) struct Agents {
    primary: u32,
    standbys: Vec<u32>,
}

impl Agents {
    pub(crate) fn of(local: &Local) -> Result<Self> {
        let status = local.status()?;
        let name = &status["primary"];
        let pid = |node: &Value| node["agent_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("an agent");
        let nodes: Vec<&Value> = status["nodes"].as_array().into_iter().flatten().collect();
        let primary = nodes.iter().find(|n| n["name"] == *name).context("no primary")?;
        let standbys = nodes.iter().filter(|n| n["name"] != *name).map(|n| pid(n)).collect::<Result<_>>()?;
        Ok(Self { primary: pid(primary)?, standbys })
    }

    /// Processor time so far, in seconds: the primary's, and a standby's on average.
    pub(crate) fn used(&self) -> Result<[f64; 2]> {
        let standbys = self.standbys.iter().map(|pid| processor_seconds(*pid)).sum::<Result<f64>>()?;
        Ok([processor_seconds(self.primary)?, standbys / self.standbys.len() as f64])
    }

    /// The most memory that one of them has had, in MiB.
    pub(crate) fn memory(&self) -> Result<f64> {
        let mut most = 0.0_f64;
        for pid in self.standbys.iter().chain([&self.primary]) {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find(|l| l.starts_with("VmHWM")).context("VmHWM")?;
            let kib: f64 = line.split_whitespace().nth(1).context("VmHWM")?.parse()?;
            most = most.max(kib / 1024.0);
        }
        Ok(most)
    }
}

/// What the agents have used for commits.
#[derive(Default)]
pub(crate) struct Used {
    pub(crate) commits: f64,
    /// Of the primary's agent, and of a standby's.
    pub(crate) seconds: [f64; 2],
}

impl Used {
    /// Microseconds for each commit.
    pub(crate) fn a_commit(&self) -> [f64; 2] {
        self.seconds.map(|s| s / self.commits * 1e6)
    }
}
