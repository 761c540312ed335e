//! The engine's state on this node.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use trine_platform::Clock;
use trine_protocol::{Epoch, Moment, NodeName};

use super::binaries::Binaries;
use super::engine::MysqlConfig;
use super::feed::Feed;
use super::gate::Gate;
use super::inspect::Asker;
use super::paths::Paths;
use super::session::{Session, USER};
use crate::account::Account;
use crate::barrier::Barriers;
use crate::guard::GuardClient;
use crate::look::Looks;
use crate::threads::Threads;
use crate::{EngineError, Neighbours, Role, SyncSetting};

/// How many connections are kept: what the operations of one keeper and a barrier use at once.
const IDLE: usize = 3;

/// The database on this node.
#[derive(Debug)]
pub(super) struct Mysql {
    pub(super) config: MysqlConfig,
    pub(super) account: Account,
    pub(super) paths: Paths,
    pub(super) binaries: Binaries,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) guard: GuardClient,
    pub(super) threads: Threads,
    pub(super) neighbours: OnceLock<Arc<dyn Neighbours>>,
    /// Held by each operation that changes the copy, the settings or the process.
    pub(super) turn: Arc<AsyncMutex<()>>,
    /// Held while a new copy is made: the old one can be used meanwhile.
    pub(super) copying: AsyncMutex<()>,
    /// Connections that are idle, and the database process that each is to.
    idle: Mutex<Vec<(u32, Session)>>,
    running: Mutex<Running>,
    pub(super) looks: Looks<Asker>,
    pub(super) barriers: Barriers,
    /// Where standbys come in.
    pub(super) gate: Gate,
    /// The end of its log whose commits wait though a standby has them, and since when that is seen.
    pub(super) unanswered: Mutex<Option<(u64, Moment)>>,
    /// Where the log comes from.
    pub(super) feed: AsyncMutex<Option<Feed>>,
    /// How long the database's log was when it was last started.
    pub(super) log_mark: AtomicU64,
    /// Up to where it was looked through.
    pub(super) log_looked: AtomicU64,
}

/// What the running database was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Running {
    /// The primary of this epoch: which process that is.
    pub(super) leading: Option<(Epoch, u32)>,
    /// Where that epoch's log left the one before.
    pub(super) from: u64,
    /// The sync rule that was asked for.
    pub(super) sync: Option<SyncSetting>,
    /// The primary runs it.
    pub(super) settled: bool,
    /// Whom it takes the log from.
    pub(super) following: Option<(NodeName, Epoch)>,
}

impl Mysql {
    pub(super) fn new(
        config: MysqlConfig,
        account: Account,
        paths: Paths,
        binaries: Binaries,
        clock: Arc<dyn Clock>,
        guard: GuardClient,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            config,
            account,
            paths,
            binaries,
            clock,
            guard,
            threads: Threads::start()?,
            neighbours: OnceLock::new(),
            turn: Arc::default(),
            copying: AsyncMutex::new(()),
            idle: Mutex::new(Vec::new()),
            running: Mutex::default(),
            looks: Looks::default(),
            barriers: Barriers::default(),
            gate: Gate::default(),
            unanswered: Mutex::default(),
            feed: AsyncMutex::new(None),
            log_mark: AtomicU64::new(0),
            log_looked: AtomicU64::new(0),
        })
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database's first process.
    pub(super) fn process_id(&self) -> Result<u32, EngineError> {
        self.guard.pids().map(|(_, database)| database).ok_or(EngineError::NotRunning)
    }

    /// The epoch that the running database is the primary of.
    pub(super) fn leading(&self) -> Option<Epoch> {
        let process = self.process_id().ok()?;
        self.running().leading.filter(|(_, of)| *of == process).map(|(epoch, _)| epoch)
    }

    pub(super) fn must_be_primary(&self, operation: &'static str) -> Result<Epoch, EngineError> {
        self.process_id()?;
        self.leading().ok_or(EngineError::WrongRole { operation, found: Role::Standby, needed: Role::Primary })
    }

    pub(super) fn must_be_standby(&self, operation: &'static str) -> Result<(), EngineError> {
        self.process_id()?;
        match self.leading() {
            Some(_) => Err(EngineError::WrongRole { operation, found: Role::Primary, needed: Role::Standby }),
            None => Ok(()),
        }
    }

    pub(super) fn neighbours(&self) -> Result<Arc<dyn Neighbours>, EngineError> {
        self.neighbours.get().cloned().ok_or(EngineError::NotRunning)
    }

    /// A connection as the agent. Give it back when nothing of it is under way.
    pub(super) async fn session(&self) -> Result<Session, EngineError> {
        let pid = self.process_id()?;
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(of, _)| *of == pid);
            idle.pop()
        };
        match idle {
            Some((_, session)) => Ok(session),
            None => self.new_session().await,
        }
    }

    pub(super) async fn new_session(&self) -> Result<Session, EngineError> {
        Session::open(&self.paths.socket(), self.words(), USER, &self.config.superuser_password).await
    }

    pub(super) fn give_back(&self, session: Session) {
        if let Ok(pid) = self.process_id() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push((pid, session));
            }
        }
    }

    /// Where trine's own file of this name is in the copy in use.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.paths.data.join(name)
    }
}
