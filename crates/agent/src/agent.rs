//! Starts a node's tasks, and ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trine_consensus::{ConsensusConfig, Founding, RaftConsensus, Standing};
use trine_endpoint::{Endpoint, Kind, Limits};
use trine_engine::guard::GuardCommand;
use trine_engine::mysql::{Dialect, MysqlConfig, MysqlEngine, server_id};
use trine_engine::postgres::{PostgresConfig, PostgresEngine};
use trine_engine::volume::{DatabaseSpec, Place, VolumeConfig, VolumeEngine};
use trine_engine::{CopyId, DataCopy, Engine, Inspection, Process};
use trine_platform::{BootClock, Clock, Disk, FileDisk, Listener, Network, Relays, TcpNetwork};
use trine_transport::{Identity, Peers, Server};
use trine_volume::Settings;

use crate::bureau::{Bureau, keep_controlling};
use crate::config::{Config, EngineKind, SECRETS_FILE, Secrets};
use crate::control::NodeControl;
use crate::desk::Desk;
use crate::dial::{NodeDialer, wire};
use crate::digest::Digest;
use crate::errors::AgentError;
use crate::generation::{begun, keep_asking, prepare, reform};
use crate::keeper::keep_database;
use crate::lease::{keep_fence, keep_lease, release};
use crate::neighbours::PeerEngines;
use crate::node::{Doing, Node};
use crate::probe::keep_probing;
use crate::reach::keep_reaching;
use crate::reporter::{keep_looking, keep_reporting};
use crate::routes::{Routes, keep_routes};
use crate::service::NodeService;
use crate::serving::Serving;
use crate::verify::keep_verifying;

/// How long a database may take to end when the agent is told to.
const STOP: Duration = Duration::from_secs(30);

/// What an agent runs on: a real machine, or a simulated one.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its network.
    pub network: Arc<dyn Network>,
    /// Its disk, for the agent's own state.
    pub disk: Arc<dyn Disk>,
    /// Its database.
    pub engine: Arc<dyn Engine>,
    /// Its threads for the clients' bytes.
    pub relays: Relays,
}

/// Runs a node on this machine until `shutdown`.
///
/// # Errors
/// [`AgentError`]: why it could not start, or which of its tasks died.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    let secrets = Secrets::load(&config.dir.join(SECRETS_FILE))?;
    let clock = Arc::new(BootClock);
    let engine = engine(&config, &secrets, clock.clone())?;
    let machine = Machine {
        clock,
        network: Arc::new(TcpNetwork),
        disk: Arc::new(FileDisk::open(config.state_dir())?),
        engine,
        relays: Relays::start(relay_threads()).map_err(AgentError::Threads)?,
    };
    loop {
        match start(config.clone(), secrets.clone(), machine.clone(), shutdown.clone()).await {
            Err(AgentError::Restart(restart)) => prepare(&*machine.disk, &restart)?,
            ended => return ended,
        }
    }
}

/// One for each core; 16 at most, as nobody has measured more.
fn relay_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(16)
}

/// The database of a node, as its configuration describes it. Starts nothing.
///
/// # Errors
/// [`AgentError::Engine`]: a setting can't be used, or the database's programs are missing.
pub fn engine(config: &Config, secrets: &Secrets, clock: Arc<dyn Clock>) -> Result<Arc<dyn Engine>, AgentError> {
    let program = std::env::current_exe()
        .map_err(|source| trine_engine::EngineError::Guard { action: "find the program of", source })?;
    match config.engine.kind {
        EngineKind::Postgres => {
            let postgres = PostgresConfig {
                me: config.node.clone(),
                dir: config.dir.clone(),
                address: config.me.address,
                port: config.ports.database,
                bin_dir: config.engine.bin_dir.clone(),
                user: config.engine.user.clone(),
                parameters: config.engine.parameters.clone(),
                hba: config.engine.hba.clone(),
                superuser_password: secrets.superuser_password.clone(),
                app_password: secrets.app_password.clone(),
                ca: config.ca_cert(),
                cert: config.node_cert(),
                key: config.node_key(),
                guard: GuardCommand { program, args: vec!["guard".to_owned()] },
            };
            Ok(Arc::new(PostgresEngine::open(postgres, clock)?))
        }
        EngineKind::MariaDb | EngineKind::MySql => {
            refuse_same_numbers(config)?;
            let dialect = match config.engine.kind {
                EngineKind::MySql => Dialect::MySql,
                _ => Dialect::MariaDb,
            };
            let mysql = MysqlConfig {
                dialect,
                me: config.node.clone(),
                dir: config.dir.clone(),
                bin_dir: config.engine.bin_dir.clone(),
                user: config.engine.user.clone(),
                parameters: config.engine.parameters.clone(),
                superuser_password: secrets.superuser_password.clone(),
                app_password: secrets.app_password.clone(),
                guard: GuardCommand { program, args: vec!["guard".to_owned()] },
                server_id: server_id(&config.node),
                identity: CopyId(trine_volume::identity_of(&config.cluster_id)),
            };
            Ok(Arc::new(MysqlEngine::open(mysql, clock)?))
        }
        EngineKind::Volume => {
            let missing = || trine_engine::EngineError::Config("no [database] and no preset is set".to_owned());
            // What can be known of the database is known first: programs, the user, paths.
            let spec = database(config, secrets)?.ok_or_else(missing)?;
            let settings = config.volume.as_ref().map(|v| Settings { grade: v.grade, retain: v.journal_bytes });
            let volume = VolumeConfig {
                me: config.node.clone(),
                dir: config.dir.clone(),
                spec,
                settings: settings.unwrap_or_default(),
                verify_every: config.volume.as_ref().and_then(|v| v.verify_every),
                guard: GuardCommand { program, args: vec!["guard".to_owned()] },
                identity: trine_volume::identity_of(&config.cluster_id),
            };
            Ok(Arc::new(VolumeEngine::open(volume, clock)?))
        }
    }
}

/// MariaDB's and MySQL's nodes go by numbers of their names.
fn refuse_same_numbers(config: &Config) -> Result<(), AgentError> {
    let mut numbers = BTreeMap::new();
    for member in &config.members {
        if let Some(other) = numbers.insert(server_id(&member.name), &member.name) {
            let why =
                format!("the nodes {other} and {} would have the same server_id: rename one of them", member.name);
            return Err(trine_engine::EngineError::Config(why).into());
        }
    }
    Ok(())
}

/// The database of a node with [`EngineKind::Volume`], resolved on this machine. Starts nothing.
///
/// # Errors
/// [`AgentError::Engine`]: a program or the user is missing, or a path or the password can't be used.
pub fn database(config: &Config, secrets: &Secrets) -> Result<Option<DatabaseSpec>, AgentError> {
    let Some(volume) = &config.volume else { return Ok(None) };
    let place = Place::of(&config.dir, config.me.address, config.ports.database, &secrets.app_password);
    let place = place.named(&config.cluster_id, config.node.as_str());
    Ok(Some(volume.database.resolve(place)?))
}

/// Runs a node on any machine until `shutdown`.
///
/// # Errors
/// [`AgentError`]: why it could not start, or which of its tasks died.
pub async fn start(
    config: Config,
    secrets: Secrets,
    machine: Machine,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let Machine { clock, network, disk, engine, relays } = machine;
    let identity = identity(&config)?;
    // Everything that a wrong configuration can break comes before the database is touched.
    let ports = Ports::open(&config, &*network).await?;
    let desk = Desk::open(clock.clone(), disk.clone(), config.timing.lease)?;
    let addresses = config.members.iter().map(|m| (m.name.clone(), m.at(config.ports.peer)));
    let peers = Arc::new(Peers::new(identity.clone(), network, addresses.collect::<BTreeMap<_, _>>()));
    let begun = begun(&*disk)?;
    let marked = config.seed_marker().exists();
    let founding = match (&begun, marked) {
        (Some(_), _) => Founding::FoundAnyway,
        (None, true) => Founding::Found,
        (None, false) => Founding::Join,
    };
    let raft = consensus(&config, founding, &disk, &peers).await?;
    engine.meet(Arc::new(PeerEngines(peers.clone())));
    engine.attach().await?;

    let serving = Arc::new(Serving::new(clock.clone()));
    let node = Arc::new(Node {
        bureau: Bureau::new(config.node.clone(), clock.clone()),
        clock: clock.clone(),
        engine,
        consensus: raft,
        peers,
        desk,
        serving,
        routes: Routes::default(),
        writer: OnceLock::new(),
        leases: watch::channel(None).0,
        seen: watch::channel(Inspection::of(DataCopy::Missing, Process::Stopped)).0,
        streamed: watch::channel(None).0,
        reaches: watch::channel(BTreeSet::new()).0,
        doing: watch::channel(Doing::default()).0,
        digest: watch::channel(Digest::default()).0,
        known: Mutex::default(),
        progress: watch::channel(trine_engine::Progress::default()).0,
        verification: watch::channel(None).0,
        verify: Notify::new(),
        restart: watch::channel(None).0,
        look: Notify::new(),
        tell: Notify::new(),
        secrets,
        config,
    });
    node.inspect().await;

    let mut tasks = JoinSet::new();
    let mut task = |name: &'static str, duty: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        tasks.spawn(async move {
            duty.await;
            name
        });
    };
    let closing = CancellationToken::new();
    serve(&node, &identity, ports, &relays, &closing, &mut task)?;
    if let Some(begun) = begun {
        task("reform", Box::pin(never_ends(reform(node.clone(), disk.clone(), begun))));
    } else if marked {
        task("seed", Box::pin(never_ends(crate::seed::create(node.clone(), disk.clone()))));
    }
    task("generation", Box::pin(keep_asking(node.clone())));
    task("probe", Box::pin(keep_probing(node.clone(), disk.clone())));
    task("fence", Box::pin(keep_fence(node.clone())));
    task("lease", Box::pin(keep_lease(node.clone())));
    task("keeper", Box::pin(keep_database(node.clone())));
    task("looking", Box::pin(keep_looking(node.clone())));
    task("reaching", Box::pin(keep_reaching(node.clone())));
    task("reporting", Box::pin(keep_reporting(node.clone())));
    task("controller", Box::pin(keep_controlling(node.clone())));
    task("routes", Box::pin(keep_routes(node.clone())));
    task("verifying", Box::pin(keep_verifying(node.clone())));
    tracing::info!(node = %node.me(), version = env!("CARGO_PKG_VERSION"), "the agent runs");

    let mut standing = node.consensus.standing();
    let mut restarts = node.restart.subscribe();
    let ended = tokio::select! {
        Ok(restart) = restarts.wait_for(Option::is_some) => match &*restart {
            Some(restart) => Err(AgentError::Restart(restart.clone())),
            None => Ok(()),
        },
        () = shutdown.cancelled() => Ok(()),
        Ok(ended) = standing.wait_for(|s| matches!(s, Standing::Replaced | Standing::Failed(_))) => {
            Err(AgentError::Expelled(ended.clone()))
        }
        Some(ended) = tasks.join_next() => {
            let task = ended.map_or_else(|e| e.to_string(), str::to_owned);
            Err(AgentError::TaskEnded(task))
        }
    };
    // The tasks go first, so that nobody starts the database again.
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    stop(&node).await;
    closing.cancel();
    node.consensus.shutdown().await;
    ended
}

/// The agent is told to end: its database ends cleanly, and the others need not wait for its lease.
async fn stop(node: &Arc<Node>) {
    let served = node.serving.epoch();
    match tokio::time::timeout(STOP, node.engine.stop()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = error.chain(), "the database did not stop cleanly; it is killed"),
        Err(_) => tracing::warn!("the database did not stop within {STOP:?}; it is killed"),
    }
    node.serving.end();
    node.engine.kill();
    if tokio::time::timeout(Duration::from_secs(5), crate::lease::wait_stopped(node)).await.is_err() {
        tracing::error!("the database's processes do not end; look at them with ps");
        return;
    }
    if let Some(epoch) = served {
        release(node, epoch).await;
    }
}

fn identity(config: &Config) -> Result<Arc<Identity>, AgentError> {
    let identity = Identity::load_files(&config.ca_cert(), &config.node_cert(), &config.node_key(), &config.cluster_id)
        .map_err(AgentError::Identity)?;
    if *identity.name() != config.node {
        return Err(AgentError::OtherNode {
            path: config.node_cert().display().to_string(),
            found: identity.name().to_string(),
            expected: config.node.to_string(),
        });
    }
    Ok(Arc::new(identity))
}

async fn consensus(
    config: &Config,
    founding: Founding,
    disk: &Arc<dyn Disk>,
    peers: &Arc<Peers>,
) -> Result<Arc<RaftConsensus>, AgentError> {
    let settings = ConsensusConfig {
        founding,
        voter: config.me.voter,
        ..ConsensusConfig::new(config.node.clone(), config.cluster_id.clone())
    };
    RaftConsensus::start(settings, disk.clone(), peers.clone()).await.map_err(AgentError::Consensus)
}

/// The four ports that the agent itself listens on.
struct Ports {
    peer: Box<dyn Listener>,
    api: Box<dyn Listener>,
    writer: Box<dyn Listener>,
    reader: Box<dyn Listener>,
}

impl Ports {
    async fn open(config: &Config, network: &dyn Network) -> Result<Self, AgentError> {
        let open = async |port: &'static str, number: u16| {
            let address: SocketAddr = config.listen(number);
            network.listen(address).await.map_err(|source| AgentError::Listen { address, port, source })
        };
        Ok(Self {
            peer: open("peer", config.ports.peer).await?,
            api: open("api", config.ports.api).await?,
            writer: open("writer", config.ports.writer).await?,
            reader: open("reader", config.ports.reader).await?,
        })
    }
}

type Spawn<'a> = dyn FnMut(&'static str, std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) + 'a;

/// Opens what clients and the other nodes reach.
fn serve(
    node: &Arc<Node>,
    identity: &Arc<Identity>,
    ports: Ports,
    relays: &Relays,
    closing: &CancellationToken,
    task: &mut Spawn<'_>,
) -> Result<(), AgentError> {
    let config = &node.config;
    let limits =
        Limits { max_connections: config.endpoint.max_connections, hold: config.endpoint.hold, ..Limits::default() };
    for (kind, listener, routes) in [
        (Kind::Writer, ports.writer, node.routes.writer.subscribe()),
        (Kind::Reader, ports.reader, node.routes.reader.subscribe()),
    ] {
        let dialer = Arc::new(NodeDialer { node: node.clone(), kind });
        let tls = Some(identity.https());
        let endpoint = Endpoint::new(kind, wire(node), limits.clone(), dialer, routes, node.clock.clone(), tls);
        if kind == Kind::Writer {
            let _ = node.writer.set(endpoint.clone());
        }
        let (closing, relays) = (closing.clone(), relays.clone());
        task("endpoint", Box::pin(async move { endpoint.run(listener, &relays, closing).await }));
    }
    let (service, identity, stop) = (Arc::new(NodeService(node.clone())), identity.clone(), closing.clone());
    let relays = relays.clone();
    task("peers", Box::pin(async move { Server::run(ports.peer, identity, service, relays, stop).await }));
    let tls = trine_api::tls_unless_loopback(config.me.address, &config.node_cert(), &config.node_key())
        .map_err(|e| AgentError::Api(e.to_string()))?;
    let settings = trine_api::ServerConfig { token: node.secrets.api_token.clone(), tls };
    let api = trine_api::Server::new(Arc::new(NodeControl(node.clone())), settings);
    let stop = closing.clone();
    task("api", Box::pin(async move { api.run(ports.api, stop).await }));
    Ok(())
}

async fn never_ends(duty: impl Future<Output = ()>) {
    duty.await;
    std::future::pending().await
}
