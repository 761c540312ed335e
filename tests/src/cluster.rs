//! A cluster of real agents in networks of its own, driven through the command line, and what can be done to its nodes.

mod ask;
mod nodes;
mod options;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

pub use nodes::Node;
pub use options::{Database, Form, Options, client_binary, mysql_folder, test_root, trine_binary};

use crate::disks::OwnDisk;
use crate::docker::Docker;
use crate::namespace::{self, Namespace, Switch};
use crate::process;
use crate::sql::Sql;

/// Until a new cluster is healthy, and until one is again after a fault.
pub const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

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
    runs: Database,
    dir: PathBuf,
    trine: PathBuf,
    nodes: Vec<Node>,
    network: Network,
    disks: BTreeMap<String, OwnDisk>,
    docker: Option<Docker>,
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
            runs: options.database,
            dir,
            trine,
            nodes,
            network,
            disks: BTreeMap::new(),
            docker: options.docker.clone(),
            keep: options.keep,
            asked: Mutex::default(),
            newest_epoch: AtomicU64::new(0),
        };
        for (node, kind) in &options.disks {
            cluster.disks.insert((*node).to_owned(), OwnDisk::mount(*kind, &cluster.node(node).dir)?);
        }
        Ok(cluster)
    }

    fn local_up(&self, options: &Options) -> Result<()> {
        let engine = options.engine();
        let mut arguments = vec!["local", "up"];
        arguments.extend(engine.iter().map(String::as_str));
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
        c.args(["init", "--cluster", "test", "--out"]).arg(&self.dir).args(options.engine());
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

    /// Its database is on a replicated volume: only the primary runs one.
    #[must_use]
    pub fn is_on_volume(&self) -> bool {
        matches!(self.runs, Database::Volume(_))
    }

    /// What it runs.
    #[must_use]
    pub fn runs(&self) -> Database {
        self.runs
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

    /// A superuser's session in one node's database.
    ///
    /// # Errors
    /// It takes none.
    pub fn sql(&self, node: &str, database: &str) -> Result<Sql> {
        Sql::open(&self.node(node).dir, DATABASE_PORT, database)
    }

    /// The first file system of [`Options::disks`].
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn disk(&self) -> &OwnDisk {
        self.disks.values().next().expect("a node with a file system of its own: Options::disks")
    }

    /// The node's own file system.
    #[must_use]
    pub fn disk_of(&self, node: &str) -> Option<&OwnDisk> {
        self.disks.get(node)
    }

    /// A node's own file system goes with its mount: what the node has logged there is copied beside it.
    fn keep_logs(&self) {
        for node in self.disks.keys() {
            let (from, to) = (&self.node(node).dir, self.dir.join(format!("{node}-log")));
            let _ = fs::create_dir_all(&to);
            // One of them may not be there; the other is wanted all the same.
            let _ = namespace::run(
                Command::new("cp").arg("-r").arg(from.join("log")).arg(from.join("harness.log")).arg(to),
            );
        }
    }

    /// Keeps the directory when this is dropped: somebody will want to look at it.
    pub fn keep_dir(&mut self) {
        self.keep = true;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for disk in self.disks.values() {
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
        if let Some(docker) = &self.docker {
            let _ = docker.remove_below(&self.dir);
        }
        if self.keep {
            self.keep_logs();
        }
        self.disks.clear();
        for n in &self.nodes {
            // What a killed agent has left mounted can't be removed.
            let _ = trine_volume::clean_stale(&n.data());
        }
        if !self.keep && std::env::var_os("TRINE_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
