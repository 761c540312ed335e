//! A Docker on this machine, and the containers of a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::namespace::run;
use crate::process::{self, Process};

/// The images that `scripts/docker-for-tests.sh` makes of this machine's Redis, of its Python, which has SQLite, and of its
/// Firebird, where there is one.
pub const REDIS: &str = "trine-tests/redis:1";
/// See [`REDIS`].
pub const PYTHON: &str = "trine-tests/python:1";
/// See [`REDIS`].
pub const FIREBIRD: &str = "trine-tests/firebird:1";

/// A daemon that answers, and has the images of the tests.
#[derive(Clone, Debug)]
pub struct Docker {
    /// Its socket.
    pub socket: PathBuf,
}

impl Docker {
    /// The one that runs, or one that is started now.
    ///
    /// # Errors
    /// None can run here; why.
    pub fn ready() -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/docker-for-tests.sh");
        let said = run(Command::new("bash").arg(script)).context("there is no Docker here")?;
        Ok(Self { socket: said.trim().into() })
    }

    /// A command to the daemon; what it said.
    ///
    /// # Errors
    /// It fails.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        run(Command::new("docker").arg("-H").arg(format!("unix://{}", self.socket.display())).args(words))
    }

    /// Names and folders of the containers whose nodes are below this folder, whatever state they are in.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn below(&self, folder: &Path) -> Result<Vec<String>> {
        let all = self.ask(&["ps", "-a", "--format", "{{.Names}} {{.Label \"trine.dir\"}}"])?;
        let folder = format!("{}/", folder.display());
        Ok(all.lines().filter(|l| l.contains(&folder)).map(str::to_owned).collect())
    }

    /// Removes them.
    ///
    /// # Errors
    /// The daemon does not answer, or refuses.
    pub fn remove_below(&self, folder: &Path) -> Result<()> {
        for line in self.below(folder)? {
            self.ask(&["rm", "-f", line.split(' ').next().unwrap_or_default()])?;
        }
        Ok(())
    }
}

/// The containers that a node has written down: the numbers of those that may run.
#[must_use]
pub fn recorded(node_dir: &Path) -> Vec<String> {
    let record = fs::read(node_dir.join("run/containers.json")).unwrap_or_default();
    let all: Vec<serde_json::Value> = serde_json::from_slice(&record).unwrap_or_default();
    all.iter().filter_map(|c| c.get("id")?.as_str().map(str::to_owned)).collect()
}

/// The processes of these containers. Their folders and titles are the container's own: only their cgroup tells.
#[must_use]
pub fn processes_of(containers: &[String]) -> Vec<Process> {
    if containers.is_empty() {
        return Vec::new();
    }
    let is_in = |p: &Process| {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", p.pid)).unwrap_or_default();
        containers.iter().any(|c| groups.contains(c.as_str()))
    };
    process::all().into_iter().filter(|p| p.state != 'Z' && is_in(p)).collect()
}
