//! A group of nodes in one process, over real TLS on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trine_consensus::{Consensus, ConsensusConfig, ConsensusError, FILES, Founding, RaftConsensus, Standing};
use trine_platform::{BoxStream, FileDisk, Listener, Network, Relays, TcpNetwork};
use trine_protocol::{Change, ClusterState, Command, NodeName, Outcome};
use trine_transport::{Authority, CallRefused, Identity, Peers, Server, Service};

/// For anything that is bound to happen.
pub const LONG: Duration = Duration::from_secs(30);

pub fn name(n: &str) -> NodeName {
    n.parse().unwrap()
}

/// A command that always applies and leaves a trace.
pub fn command(n: usize) -> Command {
    let (alarm, text) = (format!("a{n}"), String::new());
    Command { by: name("n1"), at_ms: 0, change: Change::RaiseAlarm { alarm, text, evidence: BTreeMap::new() } }
}

/// Has the state the trace of commands 0 to n-1?
pub fn has(state: &ClusterState, n: usize) -> bool {
    (0..n).all(|i| state.alarms.contains_key(&format!("a{i}")))
}

struct Door(Arc<RaftConsensus>);

#[async_trait]
impl Service for Door {
    async fn call(&self, from: &NodeName, method: &str, body: Bytes) -> Result<Bytes, CallRefused> {
        self.0.handle_call(from, method, body).await
    }

    async fn stream(&self, _from: NodeName, _preface: serde_json::Value, _stream: BoxStream) {}
}

pub struct Node {
    pub name: NodeName,
    pub consensus: Arc<RaftConsensus>,
    pub peers: Arc<Peers>,
    identity: Arc<Identity>,
    address: SocketAddr,
    server: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Node {
    /// Nobody reaches this node any more.
    pub async fn close_door(&mut self) {
        if let Some((stop, task)) = self.server.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    pub async fn open_door(&mut self) {
        let listener = TcpNetwork.listen(self.address).await.unwrap();
        self.serve(listener);
    }

    fn serve(&mut self, listener: Box<dyn Listener>) {
        let (stop, door) = (CancellationToken::new(), Arc::new(Door(self.consensus.clone())));
        let task = tokio::spawn(Server::run(listener, self.identity.clone(), door, Relays::here(), stop.clone()));
        self.server = Some((stop, task));
    }

    /// As if its process had been killed.
    pub async fn stop(mut self) {
        self.close_door().await;
        self.consensus.shutdown().await;
    }

    pub async fn propose(&self, n: usize) {
        let outcome = self.consensus.propose(command(n), LONG).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    pub async fn until_has(&self, n: usize) {
        let mut state = self.consensus.state();
        let there = tokio::time::timeout(LONG, state.wait_for(|s| has(s, n))).await;
        assert!(there.is_ok(), "{} did not get {n} commands: {:?}", self.name, self.consensus.status());
    }

    pub async fn until_standing(&self, wanted: Standing) {
        let mut standing = self.consensus.standing();
        let there = tokio::time::timeout(LONG, standing.wait_for(|s| *s == wanted)).await;
        assert!(there.is_ok(), "{} is not {wanted:?}: {:?}", self.name, self.consensus.status());
    }
}

pub struct Group {
    ca: Authority,
    pub dirs: BTreeMap<NodeName, TempDir>,
    addresses: BTreeMap<NodeName, SocketAddr>,
    pub snapshot_every: u64,
}

impl Group {
    /// Folders and addresses for so many nodes; none runs yet.
    pub async fn new(size: u8) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "off,trine_consensus=info".to_owned()))
            .with_test_writer()
            .try_init();
        let mut addresses = BTreeMap::new();
        for i in 1..=size {
            // A port that was just free on an address that only this test uses.
            let listener = TcpNetwork.listen(SocketAddr::from(([127, 0, 0, i], 0))).await.unwrap();
            addresses.insert(name(&format!("n{i}")), listener.local_addr().unwrap());
        }
        let dirs = addresses.keys().map(|n| (n.clone(), tempfile::tempdir().unwrap())).collect();
        Self { ca: Authority::create("c1").unwrap(), dirs, addresses, snapshot_every: 2000 }
    }

    pub async fn start(&self, node: &str, founding: Founding) -> Node {
        self.try_start(node, founding).await.unwrap()
    }

    pub async fn try_start(&self, node: &str, founding: Founding) -> Result<Node, ConsensusError> {
        let name = name(node);
        let address = self.addresses[&name];
        let (cert, key) = self.ca.issue(&name, &[address.ip()]).unwrap();
        let identity = Arc::new(Identity::load(&self.ca.to_pem().0, &cert, &key, "c1").unwrap());
        let peers = Arc::new(Peers::new(identity.clone(), Arc::new(TcpNetwork), self.addresses.clone()));
        let listener = TcpNetwork.listen(address).await.unwrap();
        let config = ConsensusConfig {
            founding,
            snapshot_every: self.snapshot_every,
            ..ConsensusConfig::new(name.clone(), "c1")
        };
        let disk = Arc::new(FileDisk::open(self.dirs[&name].path()).unwrap());
        let consensus = RaftConsensus::start(config, disk, peers.clone()).await?;
        let mut node = Node { name, consensus, peers, identity, address, server: None };
        node.serve(listener);
        Ok(node)
    }

    /// All of them, as voters; the first founds the group.
    pub async fn start_all(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (i, node) in self.addresses.keys().enumerate() {
            let founding = if i == 0 { Founding::Found } else { Founding::Join };
            nodes.push(self.start(node.as_str(), founding).await);
        }
        for node in &nodes {
            until_voters(node, self.addresses.keys()).await;
        }
        nodes
    }

    /// As if the disk had been replaced.
    pub fn wipe(&self, node: &str) {
        for file in FILES {
            std::fs::remove_file(self.dirs[&name(node)].path().join(file)).unwrap();
        }
    }
}

/// Waits until the node knows these voters, and no member besides.
pub async fn until_voters(node: &Node, wanted: impl IntoIterator<Item = &NodeName>) {
    let wanted: BTreeSet<NodeName> = wanted.into_iter().cloned().collect();
    until(|| {
        let s = node.consensus.status();
        s.voters == wanted && s.learners.is_empty() && !s.changing
    })
    .await;
}

/// Looks again and again.
pub async fn until(mut there: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !there() {
        assert!(tokio::time::Instant::now() < deadline, "it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The leader that all of them agree on.
pub async fn leader_of(nodes: &[Node]) -> usize {
    let agreed = || {
        let names: BTreeSet<_> = nodes.iter().map(|n| n.consensus.status().leader).collect();
        let name = names.first().cloned().flatten().filter(|_| names.len() == 1)?;
        nodes.iter().position(|n| n.name == name)
    };
    until(|| agreed().is_some()).await;
    agreed().unwrap_or_default()
}
