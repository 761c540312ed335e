//! The real agent of one simulated node.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use tokio_util::sync::CancellationToken;
use trine_agent::{
    Config, Durability, EndpointConfig, EngineConfig, Machine, Member, Ports, Secrets, SyncConfig, Timing,
};
use trine_engine::Engine;
use trine_platform::Relays;
use trine_protocol::NodeName;
use trine_transport::Authority;

use super::engine::SimEngine;
use super::fault::Plan;
use super::network::SimNetwork;
use super::semisync::SemiSyncEngine;
use super::world::{Shared, lock};

/// The cluster's identity.
const CLUSTER: &str = "simulated";

/// How long a service manager waits before it starts an agent again.
const RESTART: Duration = Duration::from_millis(500);

/// The API's token.
pub(super) const TOKEN: &str = "simulated-token";

/// The name of node `i`.
pub(super) fn name(i: usize) -> Option<NodeName> {
    format!("n{}", i + 1).parse().ok()
}

/// The address of node `i`.
pub(super) fn address(i: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(i + 1).unwrap_or(u8::MAX)))
}

/// The folders of the nodes, with their certificates: real files, which nothing but the start of an agent reads.
#[derive(Debug)]
pub struct Folders {
    path: PathBuf,
}

impl Folders {
    /// Makes them, for up to `nodes` nodes.
    ///
    /// # Errors
    /// They can't be made.
    pub fn make(path: &Path, nodes: usize) -> io::Result<Self> {
        let authority = Authority::create(CLUSTER).map_err(io::Error::other)?;
        for i in 0..nodes {
            let Some(name) = name(i) else { continue };
            let tls = path.join(name.as_str()).join("tls");
            fs::create_dir_all(&tls)?;
            let (cert, key) = authority.issue(&name, &[address(i)]).map_err(io::Error::other)?;
            fs::write(tls.join("ca.pem"), authority.to_pem().0)?;
            fs::write(tls.join("node.pem"), cert)?;
            fs::write(tls.join("node.key"), key)?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Those that another process has made.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// A new cluster is about to begin at the first node.
    pub(super) fn begin(&self) -> io::Result<()> {
        fs::write(self.path.join("n1/seed"), "")
    }

    /// The certificate of the cluster's CA.
    pub(super) fn ca(&self) -> PathBuf {
        self.path.join("n1/tls/ca.pem")
    }

    /// The configuration of node `i`.
    pub(super) fn config(&self, plan: &Plan, i: usize) -> Option<Config> {
        let members: Vec<Member> = (0..plan.nodes)
            .filter_map(|k| {
                let name = name(k)?;
                let priority = plan.priorities.get(k).copied().unwrap_or(100);
                Some(Member { zone: name.to_string(), name, address: address(k), priority, voter: true })
            })
            .collect();
        let lease = Duration::from_secs(1);
        let me = members.get(i)?.clone();
        Some(Config {
            cluster: CLUSTER.to_owned(),
            cluster_id: CLUSTER.to_owned(),
            node: me.name.clone(),
            dir: self.path.join(me.name.as_str()),
            me,
            ports: Ports::default(),
            members,
            engine: EngineConfig {
                kind: plan.product.engine(),
                bin_dir: None,
                user: None,
                parameters: std::collections::BTreeMap::new(),
                hba: Vec::new(),
            },
            volume: None,
            sync: SyncConfig {
                acks: plan.acks,
                durability: if plan.available { Durability::Available } else { Durability::Strict },
                grace: Duration::from_secs(5),
            },
            timing: Timing { lease, heartbeat: lease / 10, suspect: lease * 6 / 10 },
            endpoint: EndpointConfig { hold: Duration::from_secs(30), max_connections: 100, reader_uses_primary: true },
        })
    }
}

/// Runs the agent, and starts it again when it ends, as a service manager would.
pub(super) async fn run(config: Config, world: Shared, i: usize) -> turmoil::Result {
    let text = |s: &str| s.to_owned();
    let secrets =
        Secrets { api_token: text(TOKEN), superuser_password: text("not used"), app_password: text("not used") };
    let (clock, disk, semisync) = {
        let mut world = lock(&world);
        let semisync = world.product.is_semisync();
        let machine = world.machine(i);
        (machine.clock.clone(), machine.disk.clone(), semisync)
    };
    loop {
        let engine: Arc<dyn Engine> = match semisync {
            true => Arc::new(SemiSyncEngine::new(world.clone(), i)),
            false => Arc::new(SimEngine::new(world.clone(), i)),
        };
        let machine = Machine {
            clock: Arc::new(clock.clone()),
            network: Arc::new(SimNetwork),
            disk: Arc::new(disk.clone()),
            engine,
            relays: Relays::here(),
        };
        let ended = trine_agent::start(config.clone(), secrets.clone(), machine, CancellationToken::new()).await;
        if let Err(error) = ended {
            lock(&world).tell(format!("the agent of {} ends: {error}", config.node));
        }
        tokio::time::sleep(RESTART).await;
    }
}
