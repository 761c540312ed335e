//! Scenarios of a database on a replicated volume: Redis, and the checks that hold for any.

pub mod copies;
pub mod pushes;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use anyhow::{Context as _, Result};

use crate::cluster::{Cluster, Node, Options};
use crate::namespace::Namespace;
use crate::scenario::alone;
use crate::status::Status;
use pushes::{Numbers, Pushes, Pushing};

/// A cluster of Redis on a replicated volume, and its clients.
#[derive(Debug)]
pub struct OnVolume {
    /// The cluster.
    pub cluster: Cluster,
    /// How many copies each node had made by then, by cloning the first one.
    first_copies: BTreeMap<String, usize>,
    numbers: Numbers,
    clients: RefCell<Vec<Rc<Pushes>>>,
}

impl OnVolume {
    /// Clients of every writer endpoint.
    ///
    /// # Errors
    /// They don't get through.
    pub fn clients(&self) -> Result<Rc<Pushes>> {
        let all: Vec<&str> = self.cluster.nodes().iter().map(|n| n.name.as_str()).collect();
        self.clients_in(self.cluster.client_namespace(), Pushing::to(self.writer_at(&all)?))
    }

    /// Other clients, in another network.
    ///
    /// # Errors
    /// They don't get through.
    pub fn clients_in(&self, network: &Namespace, how: Pushing) -> Result<Rc<Pushes>> {
        let clients = Rc::new(Pushes::start(network, how, &self.numbers)?);
        self.clients.borrow_mut().push(Rc::clone(&clients));
        Ok(clients)
    }

    /// The writer endpoints of these nodes, as [`crate::redis::Session`] takes them.
    ///
    /// # Errors
    /// No node knows the endpoints.
    pub fn writer_at(&self, nodes: &[&str]) -> Result<String> {
        self.cluster.writer_at(nodes)
    }

    /// The primary that is there, and its epoch.
    ///
    /// # Errors
    /// The cluster does not become healthy.
    pub fn primary(&self) -> Result<(String, u64)> {
        let status = self.cluster.wait_healthy()?;
        Ok((status.primary.context("a healthy cluster has a primary")?, status.epoch))
    }

    /// The database's own process, on the primary.
    ///
    /// # Errors
    /// There is none.
    pub fn database(&self, status: &Status) -> Result<u32> {
        let primary = status.primary.as_deref().and_then(|p| status.node(p)).context("no primary")?;
        primary.database_pid.context("the primary runs no database")
    }

    /// Is the node's volume mounted, dead or alive?
    ///
    /// # Errors
    /// The table of mounts can't be read.
    pub fn is_mounted(&self, node: &str) -> Result<bool> {
        let at = fs::canonicalize(&self.cluster.node(node).dir)?.join("data");
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(table.lines().any(|line| line.split(' ').nth(4) == at.to_str()))
    }

    /// For each new copy of the volume that the node has made, since the cluster was made: how many bytes it was sent for it.
    ///
    /// # Errors
    /// Its log can't be read.
    pub fn new_copies(&self, node: &str) -> Result<Vec<u64>> {
        let first = self.first_copies.get(node).copied().unwrap_or(0);
        Ok(new_copies(&self.cluster, node)?.into_iter().skip(first).collect())
    }

    /// The end of every scenario.
    fn finish(&self, name: &str) -> Result<()> {
        self.cluster.wait_healthy()?;
        let clients = self.clients.borrow();
        for c in clients.iter() {
            if !c.stopped() {
                c.wait_acked(10).context("the cluster is healthy again, and clients don't get through")?;
            }
        }
        clients.iter().try_for_each(|c| c.stop())?;
        clients.iter().for_each(|c| println!("{name}: {}", c.say()));
        let all: Vec<&str> = self.cluster.nodes().iter().map(|n| n.name.as_str()).collect();
        let every: Vec<&Pushes> = clients.iter().map(|c| &**c).collect();
        pushes::nothing_lost(self.cluster.client_namespace(), &self.writer_at(&all)?, &every)?;
        let compared = copies::identical(&self.cluster)?;
        println!("{name}: equal copies: {compared:?}");
        Ok(())
    }
}

/// As the node's log says.
fn new_copies(cluster: &Cluster, node: &str) -> Result<Vec<u64>> {
    let said = cluster.node(node).said();
    let lines = said.lines().filter(|l| l.contains("a new copy is in place"));
    let sent = |line: &str| line.split_once("sent=")?.1.split_whitespace().next()?.parse().ok();
    lines.map(|line| sent(line).with_context(|| format!("how much was sent: {line}"))).collect()
}

/// Runs a scenario on Redis: cluster up, `body`, healthy again with no command given, nothing acknowledged is lost, the copies
/// are equal.
///
/// # Panics
/// Anything failed; what the cluster's logs say has been printed, and its directory is kept.
pub fn on_redis(name: &str, options: Options, body: impl FnOnce(&OnVolume) -> Result<()>) {
    let _turn = alone().expect("the tests' directory");
    let cluster = match Cluster::up(name, &options.volume("redis")) {
        Ok(c) => c,
        Err(e) => panic!("{name}: {e:#}"),
    };
    let copies = |n: &Node| (n.name.clone(), new_copies(&cluster, &n.name).map_or(0, |made| made.len()));
    let first_copies = cluster.nodes().iter().map(copies).collect();
    let mut s = OnVolume { cluster, first_copies, numbers: Numbers::default(), clients: RefCell::default() };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&s).and_then(|()| s.finish(name))));
    if matches!(outcome, Ok(Ok(()))) {
        return;
    }
    s.cluster.keep_dir();
    let _ = fs::write(s.cluster.dir().join("failed"), name);
    eprintln!("{}", s.cluster.tell());
    s.clients.borrow().iter().for_each(|c| eprintln!("clients: {}", c.say()));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(e)) => panic!("{name}: {e:#}"),
        Err(panic) => resume_unwind(panic),
    }
}
