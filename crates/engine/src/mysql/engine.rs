//! MariaDB and MySQL as the agent sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::sync::watch;
use trine_platform::{BoxStream, Clock};
use trine_protocol::{Epoch, Moment, NodeName, Position};
use xxhash_rust::xxh3::xxh3_64;

use super::binaries::Binaries;
use super::dialect::Dialect;
use super::paths::Paths;
use super::settings;
use super::state::Mysql;
use crate::account::Account;
use crate::guard::descendants::Whose;
use crate::guard::{GuardClient, GuardCommand};
use crate::look::Looks;
use crate::{
    Adopted, Ask, CopyId, Engine, EngineError, Finding, Followed, History, Inspection, Neighbours, Process, Progress,
    Scale, SyncSetting, Upstream,
};

/// What the engine has to know about this node.
#[derive(Clone)]
pub struct MysqlConfig {
    /// Which database it is.
    pub dialect: Dialect,
    /// This node.
    pub me: NodeName,
    /// The node's folder: `data/`, `run/`, `log/`, `conf/` are made below it.
    pub dir: PathBuf,
    /// Where the database's programs are; `None`: they are looked for.
    pub bin_dir: Option<PathBuf>,
    /// The user that the database runs as, when the agent is root. `None`: `mysql`.
    pub user: Option<String>,
    /// The user's own settings.
    pub parameters: BTreeMap<String, String>,
    /// Of the user `trine`.
    pub superuser_password: String,
    /// Of the user `app`.
    pub app_password: String,
    /// How a guard is started.
    pub guard: GuardCommand,
    /// The number that the database goes by among its own: see [`server_id`].
    pub server_id: u32,
    /// Whose data it is, for a first copy.
    pub identity: CopyId,
}

/// The number that a node's database goes by: of its name, so that it stays when others come and go. Two members must not
/// have the same.
#[must_use]
pub fn server_id(node: &NodeName) -> u32 {
    // Zero means "none" to the database.
    u32::try_from(xxh3_64(node.as_str().as_bytes()) & 0x7fff_ffff).unwrap_or(1).max(1)
}

impl std::fmt::Debug for MysqlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MysqlConfig").field("me", &self.me).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The database on this node.
#[derive(Clone, Debug)]
pub struct MysqlEngine {
    inner: Arc<Mysql>,
}

impl MysqlEngine {
    /// Checks the configuration and makes the node's folders. Starts nothing.
    ///
    /// # Errors
    /// [`EngineError::Config`] and [`EngineError::NoBinaries`] say which setting is wrong and why.
    pub fn open(config: MysqlConfig, clock: Arc<dyn Clock>) -> Result<Self, EngineError> {
        settings::check(config.dialect, &config.parameters)?;
        let account = Account::find(config.user.as_deref(), Some("mysql"), "engine.user")?;
        let binaries = Binaries::find(config.dialect.programs(), config.bin_dir.as_deref())?;
        let paths = Paths::prepare(&config.dir, &account)?;
        let guard = GuardClient::new(
            config.guard.clone(),
            &paths.run,
            paths.guard_log.clone(),
            vec![paths.data.clone()],
            Whose::MariaDb,
        );
        Ok(Self { inner: Arc::new(Mysql::new(config, account, paths, binaries, clock, guard)?) })
    }

    /// Runs an operation on the engine's own threads.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Mysql>) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.inner.threads.run(work(Arc::clone(&self.inner))).await
    }
}

#[async_trait]
impl Engine for MysqlEngine {
    fn kind(&self) -> &'static str {
        self.inner.words().kind
    }

    fn scale(&self) -> Scale {
        Scale::Transactions
    }

    fn meet(&self, neighbours: Arc<dyn Neighbours>) {
        let _ = self.inner.neighbours.set(neighbours);
    }

    async fn serve(&self, from: &NodeName, ask: Ask, stream: BoxStream) {
        let from = from.clone();
        self.run(|this| async move { Mysql::serve(&this, &from, ask, stream).await }).await;
    }

    async fn attach(&self) -> Result<Process, EngineError> {
        self.run(|this| async move { this.attach().await }).await
    }

    async fn inspect(&self) -> Inspection {
        // The deadline is kept here, whatever the engine's threads wait for.
        let look = Mysql::look(&self.inner);
        match Looks::<super::inspect::Asker>::within_limit(look).await {
            Some(seen) => seen,
            None => self.inner.remembered(),
        }
    }

    async fn identity(&self) -> Result<Option<CopyId>, EngineError> {
        self.run(|this| async move { this.identity() }).await
    }

    async fn bootstrap(&self) -> Result<CopyId, EngineError> {
        self.run(|this| async move { this.make_first().await }).await
    }

    async fn adopt(&self, from: &Path) -> Result<Adopted, EngineError> {
        let from = from.to_owned();
        self.run(|this| async move { this.adopt(&from).await }).await
    }

    async fn start(&self) -> Result<(), EngineError> {
        self.run(|this| async move { this.start().await }).await
    }

    async fn seal(&self) -> Result<Position, EngineError> {
        self.run(|this| async move { this.seal().await }).await
    }

    async fn promote(&self, epoch: Epoch, _members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        self.run(|this| async move { this.promote(epoch).await }).await
    }

    async fn set_members(&self, _members: &BTreeSet<NodeName>) -> Result<(), EngineError> {
        // Its log is kept by age; see `binlog_expire_logs_seconds`.
        self.inner.must_be_primary("keep the log for its members").map(drop)
    }

    async fn history(&self) -> Result<History, EngineError> {
        self.run(|this| async move { this.history().await }).await
    }

    async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        let (upstream, history) = (upstream.clone(), history.clone());
        self.run(|this| async move { Mysql::follow(&this, &upstream, &history).await }).await
    }

    async fn rejoin(
        &self,
        _upstream: &Upstream,
        _history: &History,
        _progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        Err(EngineError::NeedsRebuild(format!("what {} has committed can't be taken back", self.inner.words().product)))
    }

    async fn clone_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let (upstream, progress) = (upstream.clone(), progress.clone());
        self.run(|this| async move { this.copy_from(&upstream, identity, &progress).await }).await
    }

    async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError> {
        let setting = setting.clone();
        self.run(|this| async move { this.set_sync(&setting).await }).await
    }

    async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        self.run(|this| async move { Mysql::barrier(&this, epoch).await }).await
    }

    async fn obstacle(&self) -> Result<Option<String>, EngineError> {
        self.run(|this| async move { this.obstacle().await }).await
    }

    async fn prepare_stop(&self) -> Result<(), EngineError> {
        self.run(|this| async move { this.prepare_stop().await }).await
    }

    async fn stop(&self) -> Result<(), EngineError> {
        self.run(|this| async move { this.stop().await }).await
    }

    async fn hand_over(&self) -> Result<(), EngineError> {
        self.run(|this| async move { this.hand_over().await }).await
    }

    fn kill(&self) {
        self.inner.gate.close();
        self.inner.guard.kill();
    }

    fn push(&self, deadline: Moment) {
        self.inner.guard.push(deadline);
    }

    fn process(&self) -> watch::Receiver<Process> {
        self.inner.guard.state()
    }

    async fn examine(&self) -> Result<Vec<Finding>, EngineError> {
        self.run(|this| async move { this.examine().await }).await
    }

    async fn connect(&self) -> std::io::Result<BoxStream> {
        Ok(Box::new(UnixStream::connect(self.inner.paths.socket()).await?))
    }

    async fn reach(&self, other: &Upstream) -> std::io::Result<()> {
        let Ok(neighbours) = self.inner.neighbours() else { return Err(std::io::ErrorKind::NotConnected.into()) };
        neighbours.open(&other.node, Ask::Nothing).await.map(drop)
    }
}
