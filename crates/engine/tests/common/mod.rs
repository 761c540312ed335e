//! Nodes with real databases, in folders that the database's user can reach.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use trine_engine::guard::GuardCommand;
use trine_engine::postgres::{PostgresConfig, PostgresEngine};
use trine_engine::{Engine, Followed, Inspection, Process, Progress, SyncSetting, Upstream};
use trine_platform::{BootClock, Clock};
use trine_protocol::{Epoch, NodeName};

/// A CA and a folder for the nodes.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) dir: PathBuf,
    pub(crate) engine: Arc<PostgresEngine>,
    pub(crate) config: PostgresConfig,
}

/// PostgreSQL's programs: the newest version's, as the engine finds them.
pub(crate) fn bin_dir() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap().flatten();
    let numbered = versions.filter_map(|e| Some((e.file_name().to_str()?.parse::<u32>().ok()?, e.path().join("bin"))));
    numbered.filter(|(_, bin)| bin.join("postgres").is_file()).max().expect("PostgreSQL is not installed").1
}

static LOGS: Once = Once::new();
static PORT: AtomicU16 = AtomicU16::new(0);

/// A bootstrapped copy that all tests of a file begin with. It is kept in the target folder, until the file is built anew.
static TEMPLATE: tokio::sync::OnceCell<PathBuf> = tokio::sync::OnceCell::const_new();

async fn first_copy() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = std::fs::metadata(&program).unwrap().modified().unwrap();
    let built = built.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let name = program.file_stem().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("first-copy-{name}"));
    let data = folder.join(built.to_string());
    if !data.exists() {
        let cluster = Cluster::new();
        let node = cluster.node("n0");
        node.engine.bootstrap().await.unwrap();
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let fresh = folder.join("fresh");
        run("cp", &["-a", node.dir.join("data").to_str().unwrap(), fresh.to_str().unwrap()]);
        std::fs::rename(&fresh, &data).unwrap();
    }
    data
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said} (these tests need root, for users and mounts)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn free_port() -> u16 {
    loop {
        // Other test processes that run at the same time begin elsewhere.
        let base = 26500 + u16::try_from(std::process::id() % 250).unwrap() * 16;
        let port = base + PORT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        LOGS.call_once(|| {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
        });
        let dir = tempfile::Builder::new().prefix("trine-e-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { dir, ca }
    }

    pub(crate) fn config(&self, name: &str) -> PostgresConfig {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(dir.join("tls")).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &self.ca).unwrap();
        let write = |file: &str, text: String| {
            let path = dir.join("tls").join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        PostgresConfig {
            me: name.parse().unwrap(),
            address: "127.0.0.1".parse().unwrap(),
            port: free_port(),
            bin_dir: None,
            user: None,
            parameters: BTreeMap::from([("shared_buffers".into(), "16MB".into())]),
            hba: Vec::new(),
            superuser_password: "super'secret".into(),
            app_password: "app-secret".into(),
            ca: write("ca.pem", self.ca.pem()),
            cert: write("node.pem", cert.pem()),
            key: write("node.key", key.serialize_pem()),
            guard: GuardCommand { program: env!("CARGO_BIN_EXE_guard_for_tests").into(), args: Vec::new() },
            dir,
        }
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        Node::open(self.config(name))
    }

    /// A primary of epoch 2 that commits alone.
    pub(crate) async fn primary(&self, name: &str) -> Node {
        let node = self.node(name);
        let template = TEMPLATE.get_or_init(first_copy).await;
        run("cp", &["-a", template.to_str().unwrap(), node.dir.join("data").to_str().unwrap()]);
        node.engine.start().await.unwrap();
        node.lead(2).await;
        node
    }
}

impl Node {
    pub(crate) fn open(config: PostgresConfig) -> Self {
        let engine = Arc::new(PostgresEngine::open(config.clone(), Arc::new(BootClock)).unwrap());
        Self { name: config.me.clone(), dir: config.dir.clone(), engine, config }
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream { node: self.name.clone(), address: SocketAddr::new(self.config.address, self.config.port) }
    }

    /// Promotes it in `epoch`; commits go through at once.
    pub(crate) async fn lead(&self, epoch: u64) {
        self.engine.seal().await.unwrap();
        self.engine.promote(Epoch(epoch), &members()).await.unwrap();
        self.engine.set_sync(&SyncSetting::Alone).await.unwrap();
        self.engine.barrier(Epoch(epoch)).await.unwrap();
    }

    pub(crate) async fn follow(&self, primary: &Self) {
        let history = primary.engine.history().await.unwrap();
        wait_until("it streams", || async {
            match self.engine.follow(&primary.upstream(), &history).await.unwrap() {
                Followed::Streaming => true,
                Followed::NotYet => false,
                other => panic!("{other:?}"),
            }
        })
        .await;
    }

    pub(crate) async fn clone_of(&self, primary: &Self) {
        Engine::clone_from(&*self.engine, &primary.upstream(), None, &progress()).await.unwrap();
        self.engine.start().await.unwrap();
    }

    /// Waits until it has applied all that the primary has written.
    pub(crate) async fn catch_up(&self, primary: &Self) {
        let end = primary.engine.history().await.unwrap().end;
        wait_until("it catches up", || async { self.inspect().await.replayed.is_some_and(|r| r >= end) }).await;
    }

    /// Looks until it answers, if it runs.
    pub(crate) async fn inspect(&self) -> Inspection {
        loop {
            let seen = self.engine.inspect().await;
            if seen.process != Process::Hung {
                return seen;
            }
        }
    }

    pub(crate) async fn sql(&self, text: &str) -> Result<String, tokio_postgres::Error> {
        self.sql_as("trine", &self.config.superuser_password, text).await
    }

    pub(crate) async fn sql_as(&self, user: &str, password: &str, text: &str) -> Result<String, tokio_postgres::Error> {
        let client = self.connect(user, password).await?;
        let rows = client.simple_query(text).await?;
        let cells = rows.iter().filter_map(|m| match m {
            tokio_postgres::SimpleQueryMessage::Row(r) => Some(r.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        });
        Ok(cells.collect::<Vec<_>>().join(","))
    }

    pub(crate) async fn connect(
        &self,
        user: &str,
        password: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let socket = self.engine.client_socket();
        let mut config = tokio_postgres::Config::new();
        config.host_path(socket.parent().unwrap()).port(self.config.port).user(user).password(password);
        config.dbname(if user == "app" { "app" } else { "postgres" });
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) async fn stopped(&self) {
        let mut state = self.engine.process();
        let gone = state.wait_for(|p| *p == Process::Stopped);
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the database ends").unwrap();
    }

    /// The processes of its database.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let data = self.dir.join("data").canonicalize().unwrap_or_default();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        numbers.filter(|p| std::fs::read_link(format!("/proc/{p}/cwd")).is_ok_and(|c| c == data)).collect()
    }

    /// As a new agent finds it.
    pub(crate) async fn reopened(&self) -> Self {
        let node = Self::open(self.config.clone());
        node.engine.attach().await.unwrap();
        node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Another handle of the same node may have taken over; what is left of the database goes with the last one.
        self.engine.kill();
        for _ in 0..200 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for p in left {
                signal(p, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The members of every cluster here.
pub(crate) fn members() -> BTreeSet<NodeName> {
    ["n1", "n2", "n3"].map(|n| n.parse().unwrap()).into()
}

pub(crate) fn names(nodes: &[&Node]) -> BTreeSet<NodeName> {
    nodes.iter().map(|n| n.name.clone()).collect()
}

pub(crate) fn any(acks: usize, nodes: &[&Node]) -> SyncSetting {
    SyncSetting::Any { acks, standbys: names(nodes) }
}

/// Says on stderr when each phase begins.
pub(crate) fn progress() -> watch::Sender<Progress> {
    let (tell, mut heard) = watch::channel(Progress::default());
    let began = BootClock.now();
    tokio::spawn(async move {
        let mut phase = String::new();
        while heard.changed().await.is_ok() {
            let now = heard.borrow_and_update().phase.clone();
            if now != phase {
                eprintln!("  {:>7.1} ms {now}", BootClock.now().since(began).as_secs_f64() * 1000.0);
                phase = now;
            }
        }
    });
    tell
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

pub(crate) async fn wait_until<F: Future<Output = bool>>(what: &str, mut test: impl FnMut() -> F) {
    let clock = BootClock;
    let began = clock.now();
    while !test().await {
        assert!(clock.now().since(began) < Duration::from_secs(30), "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs something and says on stderr how long it took.
pub(crate) async fn timed<T>(what: &str, f: impl Future<Output = T>) -> T {
    let clock = BootClock;
    let began = clock.now();
    let value = f.await;
    eprintln!("TIME {what}: {:.1} ms", clock.now().since(began).as_secs_f64() * 1000.0);
    value
}

/// What must not happen: true when `f` is not done within 300 ms.
pub(crate) async fn hangs<T>(f: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(300), f).await.is_err()
}

/// The processes below `pid` whose title contains `what`.
pub(crate) fn titled(node: &Node, what: &str) -> Vec<u32> {
    let title = |p: &u32| std::fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
    node.processes().into_iter().filter(|p| String::from_utf8_lossy(&title(p)).contains(what)).collect()
}

/// The names in a folder.
pub(crate) fn list(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
