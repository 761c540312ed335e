//! What a cluster says of itself: client commands, and waiting for states.

use std::fs;
use std::process::{Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Cluster, Form, HEALTHY_WITHIN};
use crate::process::Process;
use crate::sql::Secrets;
use crate::status::{Endpoints, Status};
use crate::wait::wait_for;

impl Cluster {
    /// From now on only these nodes are asked for the cluster's state: one that is cut off from the others may still
    /// answer, with what it knew. None: as the command line chooses.
    pub fn ask_only(&self, nodes: &[&str]) {
        *self.asked.lock().unwrap() = nodes.iter().map(|n| (*n).to_owned()).collect();
    }

    /// A client command (`status`, `events`, `switchover`, …), with all that it needs to find this cluster.
    ///
    /// # Errors
    /// It can't be run. That it fails is in the output.
    pub fn trine(&self, arguments: &[&str]) -> Result<Output> {
        let mut c = self.command();
        c.args(arguments);
        let asked = self.asked.lock().unwrap();
        if self.form == Form::Local && asked.is_empty() {
            c.arg("--dir").arg(&self.dir);
        } else {
            let scheme = if self.form == Form::Local { "http" } else { "https" };
            for n in self.nodes.iter().filter(|n| asked.is_empty() || asked.contains(&n.name)) {
                c.arg("--api").arg(format!("{scheme}://{}:6400", n.address));
            }
            let token = self.nodes.iter().find_map(|n| Secrets::read(&n.dir).ok()).map(|s| s.api_token);
            c.env("TRINE_TOKEN", token.context("no node has a secrets.toml")?);
            c.arg("--ca").arg(self.dir.join("ca/ca.pem"));
        }
        c.stdin(Stdio::null()).output().with_context(|| format!("running {c:?}"))
    }

    /// As [`Self::trine`], when it must succeed; its output.
    ///
    /// # Errors
    /// It failed, with what it said.
    pub fn trine_ok(&self, arguments: &[&str]) -> Result<String> {
        let o = self.trine(arguments)?;
        if !o.status.success() {
            bail!("trine {} ({}): {}", arguments.join(" "), o.status, String::from_utf8_lossy(&o.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&o.stdout).into_owned())
    }

    /// The cluster as the first node that answers sees it.
    ///
    /// # Errors
    /// No node answers, or one that has not yet heard what another has already told: an agent that has just been
    /// started, or one that is cut off.
    pub fn status(&self) -> Result<Status> {
        let text = self.trine_ok(&["status", "--json"])?;
        let status: Status = serde_json::from_str(&text).with_context(|| format!("status: {text}"))?;
        let newest = self.newest_epoch.fetch_max(status.epoch, Ordering::Relaxed);
        if status.epoch < newest {
            bail!("the node that answers is still in epoch {}, others have been in {newest}", status.epoch);
        }
        Ok(status)
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// No node answers.
    pub fn endpoints(&self) -> Result<Endpoints> {
        let text = self.trine_ok(&["endpoints", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("endpoints: {text}"))
    }

    /// The writer URI with only these nodes' endpoints in it. Where one URI can't name several: one for each, with commas between.
    ///
    /// # Errors
    /// No node knows the endpoints.
    pub fn writer_at(&self, nodes: &[&str]) -> Result<String> {
        let uri = self.endpoints()?.writer;
        let hosts: Vec<String> = nodes.iter().map(|n| format!("{}:6432", self.node(n).address)).collect();
        let (before, rest) = uri.rsplit_once('@').with_context(|| format!("no user in {uri}"))?;
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        if before.starts_with("postgres") {
            return Ok(format!("{before}@{}{path}", hosts.join(",")));
        }
        Ok(hosts.iter().map(|h| format!("{before}@{h}{path}")).collect::<Vec<_>>().join(","))
    }

    /// The writer endpoints of all nodes.
    ///
    /// # Errors
    /// No node knows the endpoints.
    pub fn writers(&self) -> Result<String> {
        let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
        self.writer_at(&names)
    }

    /// Runs the future of a client, in the clients' network. It is given the writer endpoints of all nodes.
    ///
    /// # Errors
    /// No node knows the endpoints, or the client's.
    pub fn as_client<T: Send + 'static>(
        &self,
        what: impl AsyncFnOnce(String) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let dsn = self.writers()?;
        self.client_namespace().block_on(async move || what(dsn).await)
    }

    /// The events so far, as JSON.
    ///
    /// # Errors
    /// No node answers.
    pub fn events(&self) -> Result<Vec<serde_json::Value>> {
        let text = self.trine_ok(&["events", "--json"])?;
        // One object with all of them, or one on each line.
        if let Ok(serde_json::Value::Object(mut o)) = serde_json::from_str(&text)
            && let Some(serde_json::Value::Array(events)) = o.remove("events")
        {
            return Ok(events);
        }
        text.lines().map(|l| serde_json::from_str(l).with_context(|| format!("event: {l}"))).collect()
    }

    /// Waits for a state of the cluster.
    ///
    /// # Errors
    /// The deadline passed; with the last status.
    pub fn wait_status(&self, what: &str, within: Duration, is_it: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = None;
        wait_for(what, within, || {
            let s = self.status()?;
            let found = is_it(&s).then(|| s.clone());
            last = Some(s);
            Ok(found)
        })
        .map_err(|e| e.context(format!("the last status: {last:#?}")))
    }

    /// Waits until it is healthy, and says so of the processes that are there now: not of those that were there a
    /// moment ago, before a fault that nobody has noticed yet.
    ///
    /// # Errors
    /// It did not become so in time.
    pub fn wait_healthy(&self) -> Result<Status> {
        self.wait_status("a healthy cluster", HEALTHY_WITHIN, |s| {
            s.is_healthy()
                && self.nodes.iter().all(|n| {
                    let told = s.node(&n.name);
                    let is = |told: Option<u32>, real: Result<u32>| told.is_some() && told == real.ok();
                    let database = || told.and_then(|t| t.database_pid);
                    is(told.and_then(|t| t.agent_pid), self.agent(&n.name))
                        && match self.is_on_volume() {
                            true if s.primary.as_deref() != Some(&n.name) => database().is_none(),
                            true => database().is_some_and(Process::alive),
                            false => is(database(), self.database(&n.name)),
                        }
                })
        })
    }

    /// Waits until there is a primary of a newer epoch than this.
    ///
    /// # Errors
    /// None came in time.
    pub fn wait_new_primary(&self, after_epoch: u64) -> Result<Status> {
        self.wait_status(&format!("a primary after epoch {after_epoch}"), Duration::from_secs(30), |s| {
            s.epoch > after_epoch && s.primary.is_some() && s.health != "unavailable"
        })
    }

    /// The primary's name.
    ///
    /// # Errors
    /// There is none.
    pub fn primary(&self) -> Result<String> {
        let status = self.wait_status("a primary", Duration::from_secs(30), |s| s.primary.is_some())?;
        status.primary.context("there is no primary")
    }

    /// All that a person would want to see after a failure.
    #[must_use]
    pub fn tell(&self) -> String {
        let mut told = format!("--- the cluster's directory, kept: {}\n", self.dir.display());
        match self.trine(&["status"]) {
            Ok(o) => told.push_str(&format!(
                "--- status ({})\n{}{}\n",
                o.status,
                String::from_utf8_lossy(&o.stdout),
                String::from_utf8_lossy(&o.stderr)
            )),
            Err(e) => told.push_str(&format!("--- no status: {e:#}\n")),
        }
        match self.events() {
            Ok(events) => {
                told.push_str("--- the latest events\n");
                let skip = events.len().saturating_sub(40);
                events.iter().skip(skip).for_each(|e| told.push_str(&format!("{e}\n")));
            }
            Err(e) => told.push_str(&format!("--- no events: {e:#}\n")),
        }
        for n in &self.nodes {
            for log in ["harness.log", "log/agent.log", "log/database.log"] {
                let path = n.dir.join(log);
                if let Ok(text) = fs::read(&path) {
                    let text = String::from_utf8_lossy(&text);
                    let lines: Vec<&str> = text.lines().collect();
                    told.push_str(&format!("--- {} (its last lines of {})\n", path.display(), lines.len()));
                    let skip = lines.len().saturating_sub(25);
                    lines.iter().skip(skip).for_each(|l| told.push_str(&format!("{l}\n")));
                }
            }
        }
        told
    }
}
