//! PostgreSQL 13 and later.

mod adopt;
mod binaries;
mod bootstrap;
mod clone;
mod config;
mod control;
mod examine;
mod follow;
mod hba;
mod inspect;
mod paths;
mod position;
mod promote;
mod rejoin;
mod seal;
mod session;
mod setup;
mod start;
mod sync;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Mutex as AsyncMutex, watch};
use trine_platform::{BoxStream, Clock};
use trine_protocol::{Epoch, Moment, NodeName, Position};

use crate::account::Account;
use crate::barrier::Barriers;
use crate::guard::descendants::Whose;
use crate::guard::{GuardClient, GuardCommand};
use crate::look::Looks;
use crate::threads::Threads;
use crate::tool::Said;
use crate::{
    Adopted, CopyId, Engine, EngineError, Finding, Followed, History, Inspection, Process, Progress, SyncSetting,
    Upstream,
};
use binaries::{Binaries, data_major};
use config::Live;
use control::Control;
use paths::Paths;
use session::Session;

/// How many connections are kept: what the operations of one keeper and a barrier use at once. To open one takes a fork
/// and an authentication, 5 to 15 ms in which clients may be waiting.
const IDLE: usize = 3;

/// What the engine has to know about this node.
#[derive(Clone)]
pub struct PostgresConfig {
    /// This node.
    pub me: NodeName,
    /// The node's folder: `data/`, `run/`, `log/`, `conf/`, `kept/` are made below it.
    pub dir: PathBuf,
    /// Where the database listens for the standbys.
    pub address: IpAddr,
    /// And on which port; also the number in its unix socket's name.
    pub port: u16,
    /// Where PostgreSQL's programs are; `None`: they are looked for, in the version of the data, else the newest.
    pub bin_dir: Option<PathBuf>,
    /// The user that the database runs as, when the agent is root. `None`: `postgres`.
    pub user: Option<String>,
    /// The user's own settings.
    pub parameters: BTreeMap<String, String>,
    /// The user's own lines for pg_hba.conf; only `local` ones.
    pub hba: Vec<String>,
    /// Of the role `trine`.
    pub superuser_password: String,
    /// Of the role `app`.
    pub app_password: String,
    /// The cluster CA's certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's key.
    pub key: PathBuf,
    /// How a guard is started.
    pub guard: GuardCommand,
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresConfig").field("me", &self.me).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// PostgreSQL on this node.
#[derive(Clone, Debug)]
pub struct PostgresEngine {
    inner: Arc<Postgres>,
    threads: Arc<Threads>,
}

#[derive(Debug)]
struct Postgres {
    config: PostgresConfig,
    account: Account,
    paths: Paths,
    clock: Arc<dyn Clock>,
    guard: GuardClient,
    /// Held by each operation that changes the copy, the settings or the process.
    turn: Arc<AsyncMutex<()>>,
    /// Held while a new copy is made: the old one can be used meanwhile.
    copying: AsyncMutex<()>,
    live: Mutex<Live>,
    /// Connections that are idle, and the database process that each is to. Whoever uses one takes it out, so that one in
    /// the middle of something is never used again.
    idle: Mutex<Vec<(u32, Session)>>,
    /// The programs that were found last.
    found: Mutex<Option<Binaries>>,
    looks: Looks<inspect::Asker>,
    barriers: Barriers,
    /// How long the database's log was when it was last told whom to follow.
    log_mark: AtomicU64,
}

impl PostgresEngine {
    /// Checks the configuration and makes the node's folders. Starts nothing.
    ///
    /// # Errors
    /// [`EngineError::Config`] and [`EngineError::NoBinaries`] say which setting is wrong and why.
    pub fn open(config: PostgresConfig, clock: Arc<dyn Clock>) -> Result<Self, EngineError> {
        config::check(&config.parameters)?;
        hba::check(&config.hba)?;
        let account = Account::find(config.user.as_deref(), Some("postgres"), "engine.user")?;
        let paths = Paths::prepare(&config.dir, &account, config.port)?;
        Binaries::find(config.bin_dir.as_deref(), data_major(&paths.data))?;
        let guard = GuardClient::new(
            config.guard.clone(),
            &paths.run,
            paths.guard_log.clone(),
            vec![paths.data.clone()],
            Whose::Postgres,
        );
        let inner = Postgres {
            config,
            account,
            paths,
            clock,
            guard,
            turn: Arc::default(),
            copying: AsyncMutex::new(()),
            live: Mutex::new(Live::default()),
            idle: Mutex::new(Vec::new()),
            found: Mutex::new(None),
            looks: Looks::default(),
            barriers: Barriers::default(),
            log_mark: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner), threads: Arc::new(Threads::start()?) })
    }

    fn inner(&self) -> Arc<Postgres> {
        Arc::clone(&self.inner)
    }
}

impl Postgres {
    /// The programs for the data that is here.
    fn binaries(&self) -> Result<Binaries, EngineError> {
        let major = data_major(&self.paths.data);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match found.as_ref() {
            Some(b) if Some(b.major) == major && b.program("postgres").exists() => Ok(b.clone()),
            _ => {
                let new = Binaries::find(self.config.bin_dir.as_deref(), major)?;
                *found = Some(new.clone());
                Ok(new)
            }
        }
    }

    /// The programs for a new copy.
    fn newest_binaries(&self) -> Result<Binaries, EngineError> {
        Binaries::find(self.config.bin_dir.as_deref(), None)
    }

    async fn control(&self) -> Result<Control, EngineError> {
        Control::read(&self.binaries()?, &self.account, &self.paths.data).await
    }

    fn check_tool(&self, tool: &'static str, said: &Said) -> Result<(), EngineError> {
        match said {
            Said { ok: true, .. } => Ok(()),
            said if said.disk_full() => Err(EngineError::DiskFull { path: self.paths.dir.clone(), what: said.end() }),
            said => Err(EngineError::Tool { tool, output: said.end() }),
        }
    }

    /// The database's first process.
    fn running(&self) -> Result<u32, EngineError> {
        self.guard.pids().map(|(_, database)| database).ok_or(EngineError::NotRunning)
    }

    /// A connection of the agent's role. Give it back when nothing of it is under way.
    async fn session(&self) -> Result<Session, EngineError> {
        let pid = self.running()?;
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(of, session)| *of == pid && !session.client.is_closed());
            idle.pop()
        };
        match idle {
            Some((_, session)) => Ok(session),
            None => self.new_session().await,
        }
    }

    async fn new_session(&self) -> Result<Session, EngineError> {
        self.new_session_in("postgres").await
    }

    async fn new_session_in(&self, database: &str) -> Result<Session, EngineError> {
        Session::open(&self.paths.sockets, self.config.port, &self.config.superuser_password, database).await
    }

    fn give_back(&self, session: Session) {
        if let Ok(pid) = self.running() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push((pid, session));
            }
        }
    }

    fn live(&self) -> Live {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the settings that change with a reload, without one.
    fn write_live(&self, live: &Live) -> Result<(), EngineError> {
        crate::files::write_readable(&self.paths.conf.join("live.conf"), &live.render(&self.config, &self.paths))?;
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live.clone();
        Ok(())
    }

    /// Makes the running database read its settings. `ALTER SYSTEM` gets no say in managed ones.
    fn reload(&self) -> Result<(), EngineError> {
        self.strip_auto_conf()?;
        self.guard.signal(rustix::process::Signal::HUP);
        Ok(())
    }

    fn strip_auto_conf(&self) -> Result<(), EngineError> {
        let path = self.paths.data.join("postgresql.auto.conf");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(EngineError::io("read", path)(e)),
        };
        let (rest, taken) = config::strip_auto_conf(&text);
        if taken.is_empty() {
            return Ok(());
        }
        tracing::warn!(file = %path.display(), settings = ?taken, "took out what ALTER SYSTEM had set: the cluster decides it");
        self.account.write(&path, rest.as_bytes())
    }
}

impl PostgresEngine {
    /// The unix socket over which clients on this machine reach the database.
    #[must_use]
    pub fn client_socket(&self) -> PathBuf {
        self.inner.paths.socket(self.inner.config.port)
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn attach(&self) -> Result<Process, EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.attach().await }).await
    }

    async fn inspect(&self) -> Inspection {
        // The deadline is kept here, whatever the engine's threads wait for.
        match Looks::<inspect::Asker>::within_limit(self.inner.look(&self.threads)).await {
            Some(seen) => seen,
            None => self.inner.remembered(),
        }
    }

    async fn identity(&self) -> Result<Option<CopyId>, EngineError> {
        let this = self.inner();
        let read = async move {
            if data_major(&this.paths.data).is_none() {
                return Ok(None);
            }
            this.control().await.map(|c| Some(c.identity))
        };
        self.threads.run(read).await
    }

    async fn bootstrap(&self) -> Result<CopyId, EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.make_first().await }).await
    }

    async fn adopt(&self, from: &Path) -> Result<Adopted, EngineError> {
        let (this, from) = (self.inner(), from.to_owned());
        self.threads.run(async move { this.adopt(&from).await }).await
    }

    async fn start(&self) -> Result<(), EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.start().await }).await
    }

    async fn seal(&self) -> Result<Position, EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.seal().await }).await
    }

    async fn promote(&self, epoch: Epoch, members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        let (this, members) = (self.inner(), members.clone());
        self.threads.run(async move { Postgres::promote(&this, epoch, &members).await }).await
    }

    async fn set_members(&self, members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        let (this, members) = (self.inner(), members.clone());
        self.threads.run(async move { this.set_members(&members).await }).await
    }

    async fn history(&self) -> Result<History, EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.history().await }).await
    }

    async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        let (this, upstream, history) = (self.inner(), upstream.clone(), history.clone());
        self.threads.run(async move { this.follow(&upstream, &history).await }).await
    }

    async fn rejoin(
        &self,
        upstream: &Upstream,
        history: &History,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let (this, upstream, history, progress) = (self.inner(), upstream.clone(), history.clone(), progress.clone());
        self.threads.run(async move { Postgres::rejoin(&this, &upstream, &history, &progress).await }).await
    }

    async fn clone_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let (this, upstream, progress) = (self.inner(), upstream.clone(), progress.clone());
        self.threads.run(async move { this.copy_from(&upstream, identity, &progress).await }).await
    }

    async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError> {
        let (this, setting) = (self.inner(), setting.clone());
        self.threads.run(async move { this.set_sync(&setting).await }).await
    }

    async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        let this = self.inner();
        self.threads.run(async move { Postgres::barrier(&this, epoch).await }).await
    }

    async fn prepare_stop(&self) -> Result<(), EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.checkpoint().await }).await
    }

    async fn stop(&self) -> Result<(), EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.stop().await }).await
    }

    fn kill(&self) {
        self.inner.guard.kill();
    }

    fn push(&self, deadline: Moment) {
        self.inner.guard.push(deadline);
    }

    fn process(&self) -> watch::Receiver<Process> {
        self.inner.guard.state()
    }

    async fn examine(&self) -> Result<Vec<Finding>, EngineError> {
        let this = self.inner();
        self.threads.run(async move { this.examine().await }).await
    }

    async fn connect(&self) -> std::io::Result<BoxStream> {
        Ok(Box::new(UnixStream::connect(self.client_socket()).await?))
    }

    async fn reach(&self, other: &Upstream) -> std::io::Result<()> {
        TcpStream::connect(other.address).await.map(drop)
    }
}
