//! A cluster of real agents in networks of its own, driven through the command line, and what can be done to its nodes.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::disks::{DiskKind, OwnDisk};
use crate::namespace::{self, Namespace, Switch};
use crate::process::{self, Process};
use crate::sql::{Secrets, Sql};
use crate::status::{Endpoints, Status};
use crate::wait::{wait_for, wait_until};

/// Until a new cluster is healthy, and until one is again after a fault.
pub const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// Where the nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `trine local up`: three nodes on 127.0.0.1, .2 and .3, all in one network namespace.
    Local,
    /// `trine init` and one agent in each of three network namespaces on one switch.
    Network,
}

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the nodes run.
    pub form: Form,
    /// `--set KEY=VALUE` at its creation.
    pub set: Vec<String>,
    /// Priorities of n1, n2, n3 (only in [`Form::Network`]).
    pub priorities: Option<[u32; 3]>,
    /// A node whose directory is a file system of its own (only in [`Form::Network`]).
    pub disk: Option<(&'static str, DiskKind)>,
}

impl Options {
    /// Three nodes by `trine local up`.
    #[must_use]
    pub fn local() -> Self {
        Self { form: Form::Local, set: Vec::new(), priorities: None, disk: None }
    }

    /// Three nodes in networks of their own.
    #[must_use]
    pub fn network() -> Self {
        Self { form: Form::Network, ..Self::local() }
    }

    /// With one more `--set KEY=VALUE`.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.set.push(setting.to_owned());
        self
    }
}

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

    /// The processes that are a part of it: its agent, its guard, its database, and tools that these run.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        process::all().into_iter().filter(|p| p.state != 'Z' && p.belongs_to(&self.dir)).collect()
    }
}

/// The parts of a cluster's network.
#[derive(Debug)]
enum Network {
    One(Namespace),
    Switched(Switch),
}

/// A running cluster. Dropping it ends all of its processes.
#[derive(Debug)]
pub struct Cluster {
    form: Form,
    dir: PathBuf,
    trine: PathBuf,
    nodes: Vec<Node>,
    network: Network,
    disk: Option<OwnDisk>,
    keep: bool,
    /// Whose API is asked; empty: as the command line chooses.
    asked: Mutex<Vec<String>>,
    /// The newest epoch that any answer named.
    newest_epoch: AtomicU64,
}

/// The database's port, on every node.
pub const DATABASE_PORT: u16 = 6500;
/// The port of calls between the nodes.
pub const PEER_PORT: u16 = 6401;

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// The machine that clients run on, in [`Form::Network`].
pub const CLIENT: &str = "client";

/// The program under test: `TRINE_BIN`, or the one built into the same target directory as this test.
///
/// # Errors
/// There is none.
pub fn trine_binary() -> Result<PathBuf> {
    built("trine", "TRINE_BIN")
}

/// The tests' own client.
///
/// # Errors
/// There is none.
pub fn client_binary() -> Result<PathBuf> {
    built("trine-client", "TRINE_CLIENT_BIN")
}

fn built(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // target/debug/deps/a-test or target/debug/a-program
    let found = own.ancestors().skip(1).take(2).map(|d| d.join(name)).find(|p| p.is_file());
    found.with_context(|| {
        format!("{name} is not built: run `cargo build --workspace` (or `make test`), or set {variable}")
    })
}

/// Where the directories of test clusters are made: reachable by the user that PostgreSQL runs as.
#[must_use]
pub fn test_root() -> PathBuf {
    std::env::var_os("TRINE_TEST_DIR").map_or_else(|| "/var/tmp/trine-tests".into(), PathBuf::from)
}

impl Cluster {
    /// Brings one up, and waits until it is healthy.
    ///
    /// # Errors
    /// Something is missing on this machine, or the cluster does not come up; with what its logs say.
    pub fn up(name: &str, options: &Options) -> Result<Self> {
        let cluster = Self::lay_out(name, options)?;
        let brought_up = match options.form {
            Form::Local => cluster.local_up(options),
            Form::Network => cluster.init(options).and_then(|()| NAMES.iter().try_for_each(|n| cluster.start_node(n))),
        };
        let brought_up = brought_up.and_then(|()| cluster.wait_healthy().map(drop));
        match brought_up {
            Ok(()) => Ok(cluster),
            Err(e) => {
                let told = cluster.tell();
                let mut cluster = cluster;
                cluster.keep = true;
                Err(e.context(format!("bringing up a cluster in {}\n{told}", cluster.dir.display())))
            }
        }
    }

    /// Directories and networks only, nothing of the product yet.
    ///
    /// # Errors
    /// Something is missing on this machine.
    pub fn lay_out(name: &str, options: &Options) -> Result<Self> {
        let missing = namespace::missing();
        if !missing.is_empty() {
            bail!("these tests make network namespaces; this machine lacks: {}", missing.join("; "));
        }
        let trine = trine_binary()?;
        // Short: a unix socket's path in it must stay under 108 bytes.
        let short: String = name.chars().take(24).collect();
        let dir = test_root().join(format!("{}-{short}", process::own_id()));
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let address = |number: usize| match options.form {
            Form::Local => format!("127.0.0.{number}"),
            Form::Network => format!("10.77.0.{number}"),
        };
        let nodes: Vec<Node> = NAMES
            .iter()
            .zip(1..)
            .map(|(n, number)| Node { name: (*n).to_owned(), address: address(number), dir: dir.join(n) })
            .collect();
        let network = match options.form {
            Form::Local => Network::One(Namespace::new("local")?),
            Form::Network => {
                let mut machines: Vec<_> = nodes.iter().map(|n| (n.name.clone(), n.address.clone())).collect();
                machines.push((CLIENT.to_owned(), "10.77.0.10".to_owned()));
                Network::Switched(Switch::new(&machines)?)
            }
        };
        let mut cluster = Self {
            form: options.form,
            dir,
            trine,
            nodes,
            network,
            disk: None,
            keep: false,
            asked: Mutex::default(),
            newest_epoch: AtomicU64::new(0),
        };
        if let Some((node, kind)) = options.disk {
            cluster.disk = Some(OwnDisk::mount(kind, &cluster.node(node).dir)?);
        }
        Ok(cluster)
    }

    fn local_up(&self, options: &Options) -> Result<()> {
        let mut arguments = vec!["local", "up"];
        for s in &options.set {
            arguments.extend(["--set", s]);
        }
        self.local(&arguments).map(drop)
    }

    /// Makes the nodes' files by `trine init`, and starts nothing.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn init(&self, options: &Options) -> Result<()> {
        let mut c = self.command();
        c.args(["init", "--cluster", "test", "--out"]).arg(&self.dir);
        let priorities = options.priorities.unwrap_or([100; 3]);
        for ((n, zone), priority) in self.nodes.iter().zip(["a", "b", "c"]).zip(priorities) {
            c.arg("--node").arg(format!("{}={},zone={zone},priority={priority}", n.name, n.address));
        }
        for s in &options.set {
            c.args(["--set", s]);
        }
        namespace::run(&mut c).map(drop)
    }

    /// Changes a node's trine.toml.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn edit_config(&self, node: &str, edit: impl FnOnce(&mut toml::Table)) -> Result<()> {
        let path = self.config(node);
        let mut table: toml::Table = fs::read_to_string(&path).context("reading trine.toml")?.parse()?;
        edit(&mut table);
        fs::write(&path, toml::to_string(&table)?).with_context(|| format!("writing {}", path.display()))
    }

    /// A node's trine.toml.
    #[must_use]
    pub fn config(&self, node: &str) -> PathBuf {
        self.node(node).dir.join("trine.toml")
    }

    /// All of it is under this directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// The network, to cut it.
    ///
    /// # Panics
    /// It is not of [`Form::Network`].
    #[must_use]
    pub fn switch(&self) -> &Switch {
        match &self.network {
            Network::Switched(s) => s,
            Network::One(_) => panic!("nodes on one loopback can't be cut off from each other: use Options::network()"),
        }
    }

    /// The network that clients are in.
    #[must_use]
    pub fn client_namespace(&self) -> &Namespace {
        match &self.network {
            Network::One(ns) => ns,
            Network::Switched(s) => s.namespace(CLIENT),
        }
    }

    /// The network that a node is in.
    #[must_use]
    pub fn node_namespace(&self, node: &str) -> &Namespace {
        match &self.network {
            Network::One(ns) => ns,
            Network::Switched(s) => s.namespace(node),
        }
    }

    /// `trine …` in the clients' network.
    #[must_use]
    pub fn command(&self) -> Command {
        self.client_namespace().command(self.trine.as_os_str())
    }

    /// `trine local … --dir DIR`.
    fn local(&self, arguments: &[&str]) -> Result<String> {
        let mut c = self.command();
        c.args(arguments).arg("--dir").arg(&self.dir);
        namespace::run(&mut c)
    }

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

    /// The writer URI with only these nodes' endpoints in it.
    ///
    /// # Errors
    /// No node knows the endpoints.
    pub fn writer_at(&self, nodes: &[&str]) -> Result<String> {
        let uri = self.endpoints()?.writer;
        let hosts: Vec<String> = nodes.iter().map(|n| format!("{}:6432", self.node(n).address)).collect();
        let (before, rest) = uri.rsplit_once('@').with_context(|| format!("no user in {uri}"))?;
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        Ok(format!("{before}@{}{path}", hosts.join(",")))
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
                    is(told.and_then(|t| t.agent_pid), self.agent(&n.name))
                        && is(told.and_then(|t| t.database_pid), self.postmaster(&n.name))
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

    /// A superuser's session in one node's database.
    ///
    /// # Errors
    /// It takes none.
    pub fn sql(&self, node: &str, database: &str) -> Result<Sql> {
        Sql::open(&self.node(node).dir, DATABASE_PORT, database)
    }

    // --- a node's processes

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

    /// The guard: the postmaster's parent.
    ///
    /// # Errors
    /// There is none.
    pub fn guard(&self, node: &str) -> Result<u32> {
        let postmaster = self.postmaster(node)?;
        let parent = process::all().into_iter().find(|p| p.pid == postmaster).map(|p| p.parent);
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
        wait_until("the killed nodes' processes to be gone", Duration::from_secs(10), || {
            let there: Vec<Process> = nodes.iter().flat_map(|n| self.node(n).processes()).collect();
            process::kill_all(&there)?;
            Ok(there.is_empty())
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

    /// The file system of [`Options::disk`].
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn disk(&self) -> &OwnDisk {
        self.disk.as_ref().expect("a node with a file system of its own: Options::disk")
    }

    // --- the end

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

    /// Keeps the directory when this is dropped: somebody will want to look at it.
    pub fn keep_dir(&mut self) {
        self.keep = true;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            // What waits for it can't be killed.
            let _ = disk.thaw();
        }
        for n in &self.nodes {
            let _ = self.signal_node(&n.name, Signal::CONT);
        }
        let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
        let _ = self.kill_nodes(&names);
        match &self.network {
            Network::One(ns) => ns.kill_all(),
            Network::Switched(_) => {}
        }
        drop(self.disk.take());
        if !self.keep && std::env::var_os("TRINE_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
