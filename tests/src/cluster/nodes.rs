//! A cluster's nodes: their processes, and what can be done to them.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::{Cluster, Database, Form};
use crate::docker;
use crate::process::{self, Process};
use crate::wait::wait_until;

/// A node, as the harness knows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// `n1`, …
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its directory.
    pub dir: PathBuf,
}

impl Node {
    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// All that its agent has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        let logs =
            ["log/agent.log", "harness.log"].map(|log| fs::read(self.dir.join(log)).unwrap_or_default()).concat();
        String::from_utf8_lossy(&logs).into_owned()
    }

    /// The processes that are a part of it: its agent, its guard, its database, and tools that these run.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mut found = docker::processes_of(&docker::recorded(&self.dir));
        let all: Vec<Process> = process::all().into_iter().filter(|p| p.state != 'Z').collect();
        let add = |found: &mut Vec<Process>, is_one: &dyn Fn(&Process) -> bool| {
            let more = all.iter().filter(|p| is_one(p) && !found.iter().any(|f| f.pid == p.pid)).cloned();
            found.extend(more.collect::<Vec<_>>());
        };
        add(&mut found, &|p| p.belongs_to(&self.dir));
        // A database may stand elsewhere, and not say where its files are: Firebird is /usr/sbin/firebird in /tmp.
        let mut next = 0;
        while let Some(parent) = found.get(next).map(|p| p.pid) {
            add(&mut found, &|p| p.parent == parent);
            next += 1;
        }
        found
    }
}

impl Cluster {
    /// The agent's process.
    ///
    /// # Errors
    /// There is none.
    pub fn agent(&self, node: &str) -> Result<u32> {
        let config = self.config(node);
        let found = self
            .node(node)
            .processes()
            .into_iter()
            .find(|p| p.title.contains(" agent ") && p.title.contains(&*config.to_string_lossy()));
        Ok(found.with_context(|| format!("{node} has no agent"))?.pid)
    }

    /// The postmaster.
    ///
    /// # Errors
    /// There is none.
    pub fn postmaster(&self, node: &str) -> Result<u32> {
        let path = self.node(node).data().join("postmaster.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let pid = text.lines().next().unwrap_or_default().trim().parse()?;
        if !Process::alive(pid) {
            bail!("{node}'s database is not running");
        }
        Ok(pid)
    }

    /// The one process of a node's MariaDB or MySQL.
    fn mariadbd(&self, node: &str) -> Result<u32> {
        let is_it = |p: &Process| {
            let program = p.title.split(' ').next().unwrap_or_default().rsplit('/').next();
            matches!(program, Some("mariadbd" | "mysqld"))
        };
        let found = self.node(node).processes().into_iter().find(is_it);
        Ok(found.with_context(|| format!("{node}'s database is not running"))?.pid)
    }

    /// The database's first process, of whichever engine; in a container: the container's.
    ///
    /// # Errors
    /// There is none.
    pub fn database(&self, node: &str) -> Result<u32> {
        match self.runs() {
            Database::Postgres => return self.postmaster(node),
            Database::Mariadb | Database::Mysql => return self.mariadbd(node),
            Database::Volume(_) => {}
        }
        let contained = docker::processes_of(&docker::recorded(&self.node(node).dir));
        if let Some(first) = contained.iter().find(|p| !contained.iter().any(|other| other.pid == p.parent)) {
            return Ok(first.pid);
        }
        Ok(self.guarded(node)?.pid)
    }

    /// The guard's child. Only of a container that is another process than the database.
    ///
    /// # Errors
    /// There is none.
    pub fn guarded(&self, node: &str) -> Result<Process> {
        let guard = self.guard(node)?;
        let child = process::all().into_iter().find(|p| p.parent == guard && p.state != 'Z');
        child.with_context(|| format!("{node} runs no database"))
    }

    /// The guard: the database's parent.
    ///
    /// # Errors
    /// There is none.
    pub fn guard(&self, node: &str) -> Result<u32> {
        if self.is_on_volume() {
            let named = format!(" guard {}", self.node(node).data().display());
            let found = self.node(node).processes().into_iter().find(|p| p.title.ends_with(&named));
            return Ok(found.with_context(|| format!("{node} has no guard"))?.pid);
        }
        let database = self.database(node)?;
        let parent = process::all().into_iter().find(|p| p.pid == database).map(|p| p.parent);
        let parent = parent.filter(|p| *p > 1).with_context(|| format!("{node}'s database has no guard"))?;
        Ok(parent)
    }

    /// One of the database's processes, by a word of its title: `walreceiver`, `startup`, `walsender`, `archiver`.
    ///
    /// # Errors
    /// There is none.
    pub fn backend(&self, node: &str, word: &str) -> Result<u32> {
        let postmaster = self.postmaster(node)?;
        let found = process::tree(postmaster).into_iter().find(|p| p.pid != postmaster && p.title.contains(word));
        Ok(found.with_context(|| format!("{node}'s database has no {word}"))?.pid)
    }

    /// Sends a signal to a process of a node.
    ///
    /// # Errors
    /// It may not be sent.
    pub fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        process::signal(pid, signal)
    }

    /// Sends a signal to every process of a node.
    ///
    /// # Errors
    /// It may not be sent.
    pub fn signal_node(&self, node: &str, signal: Signal) -> Result<()> {
        self.node(node).processes().iter().try_for_each(|p| process::signal(p.pid, signal))
    }

    /// The node is lost: every process of it is killed with SIGKILL at once.
    ///
    /// # Errors
    /// One may not be killed, or is still there.
    pub fn kill_node(&self, node: &str) -> Result<()> {
        if self.form == Form::Local {
            self.local(&["local", "kill-node", node]).map(drop)?;
        }
        self.kill_nodes(&[node])
    }

    /// These nodes' power fails at the same moment.
    ///
    /// # Errors
    /// A process may not be killed, or is still there.
    pub fn kill_nodes(&self, nodes: &[&str]) -> Result<()> {
        let mut killed = Vec::new();
        wait_until("the killed nodes' processes to be gone", Duration::from_secs(10), || {
            let there: Vec<Process> = nodes.iter().flat_map(|n| self.node(n).processes()).collect();
            process::kill_all(&there)?;
            // One that is ending holds its ports until its last thread is gone, and has no name any more to be found by.
            killed.extend(there.iter().map(|p| p.pid));
            killed.retain(|pid| Process::alive(*pid));
            Ok(killed.is_empty())
        })
    }

    /// Starts a node's agent; nothing is waited for.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_node(&self, node: &str) -> Result<()> {
        match self.form {
            Form::Local => self.local(&["local", "start-node", node]).map(drop),
            Form::Network => {
                let log = self.node(node).dir.join("harness.log");
                let out = File::options().create(true).append(true).open(&log)?;
                let mut c = self.node_namespace(node).command(self.trine.as_os_str());
                c.args(["agent", "--config"]).arg(self.config(node));
                c.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
                let mut child = c.spawn().with_context(|| format!("starting {node}"))?;
                // Collects its exit, whenever that is; else it would stay as a zombie.
                std::thread::spawn(move || child.wait());
                wait_until(&format!("the agent of {node}"), Duration::from_secs(10), || self.agent(node).map(|_| true))
            }
        }
    }

    /// Runs a node's agent, which is expected to end by itself within 20 s, and gives all that it said.
    ///
    /// # Errors
    /// It can't be run.
    pub fn run_agent(&self, node: &str) -> Result<Output> {
        let mut c = self.node_namespace(node).command("timeout".as_ref());
        c.args(["--kill-after=2", "20"]).arg(&self.trine).args(["agent", "--config"]).arg(self.config(node));
        c.stdin(Stdio::null()).output().with_context(|| format!("running {c:?}"))
    }
}
