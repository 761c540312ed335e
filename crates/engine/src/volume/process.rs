//! A database's processes on this node: started under a guard, asked, stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use trine_protocol::Moment;

use super::checks::CheckError;
use super::container::{ContainerSpec, Containers};
use super::spec::DatabaseSpec;
use crate::guard::descendants::Whose;
use crate::guard::wire::Order;
use crate::guard::{Ending, GuardClient, GuardCommand, blocking, tail};
use crate::{EngineError, Process};

/// How much of the database's log an error shows.
const SHOWN: u64 = 16 << 10;

/// One database on this node. Of one that runs already (its agent was started again), [`attach`](Self::attach) takes over.
#[derive(Clone, Debug)]
pub struct Instance {
    spec: Arc<DatabaseSpec>,
    guard: GuardClient,
    run: PathBuf,
    log: PathBuf,
    kind: Kind,
    /// Where this start's part of the log begins.
    mark: Arc<AtomicU64>,
    /// The guard's newest deadline, in nanoseconds of the lease's clock; 0: none yet.
    deadline: Arc<AtomicU64>,
    /// Why a start that takes long is not over yet.
    not_ready: Arc<watch::Sender<Option<String>>>,
}

/// What runs.
#[derive(Clone, Debug)]
enum Kind {
    /// A program of this machine.
    Process,
    /// What an image has. The guard and its clients see the process that holds it.
    Container(Containers, Box<ContainerSpec>),
}

impl Kind {
    /// Makes ready what is to be started: what the guard is told.
    async fn order(&self, of: &Instance) -> Result<Order, EngineError> {
        let (spec, log) = (&of.spec, of.log.clone());
        match self {
            Self::Process => Ok(spec.order(&of.run, log)),
            Self::Container(containers, container) => {
                let held = containers.create(container).await?;
                of.guard.set_cages(vec![held.cage.clone()]);
                Ok(spec.order_to_hold(&held, of.guard.command(), &of.run, log))
            }
        }
    }

    /// Nothing of it runs any more.
    async fn ended(&self) {
        if let Self::Container(containers, container) = self {
            containers.forget(container).await;
        }
    }
}

impl Instance {
    /// Starts nothing. Below the node's folder: `run/guard.sock`, `log/database.log`, `log/guard.log`.
    #[must_use]
    pub fn new(spec: DatabaseSpec, guard: GuardCommand) -> Self {
        let (run, logs) = (spec.place.dir.join("run"), spec.place.dir.join("log"));
        let guard = GuardClient::new(guard, &run, logs.join("guard.log"), spec.workplaces(), Whose::Anybody);
        let spec = Arc::new(spec);
        let kind = match &spec.container {
            None => Kind::Process,
            Some(container) => {
                let containers = Containers::new(Arc::clone(&spec), &run);
                guard.set_cages(containers.recorded());
                Kind::Container(containers, Box::new(container.clone()))
            }
        };
        let (log, not_ready) = (logs.join("database.log"), Arc::new(watch::channel(None).0));
        Self { spec, guard, run, kind, log, mark: Arc::default(), deadline: Arc::default(), not_ready }
    }

    /// What it runs.
    #[must_use]
    pub fn spec(&self) -> &DatabaseSpec {
        &self.spec
    }

    /// Finds a guard that runs already; true: there is one, and its database. False: nothing of the database is left
    /// (processes without a guard, and whoever else works in its folders without a terminal, are ended).
    ///
    /// Call it before a mount is taken off lazily: processes below it are not found any more after that.
    ///
    /// # Errors
    /// [`EngineError::StopFailed`]: some can't be ended.
    pub async fn attach(&self) -> Result<bool, EngineError> {
        let runs = self.guard.attach(self.spec.workplaces()).await?;
        if !runs {
            self.kind.ended().await;
        }
        Ok(runs)
    }

    /// Starts it under a guard, and returns once it is ready. One that runs already is only waited for. Dropping the
    /// future leaves it starting: kill it, or call this again.
    ///
    /// # Errors
    /// [`EngineError::StartFailed`] with the end of its log: it ended, or is not ready in time and should be killed.
    pub async fn start(&self) -> Result<(), EngineError> {
        if self.guard.pids().is_none() && !self.attach().await? {
            let spec = Arc::clone(&self.spec);
            blocking(move || spec.prepare()).await?;
            self.mark.store(self.log_length(), Ordering::Relaxed);
            let order = self.kind.order(self).await?;
            self.guard.spawn(&order).await?;
            // One that was pushed before there was a guard.
            match self.deadline.load(Ordering::Relaxed) {
                0 => {}
                deadline => self.guard.push(Moment::from_nanos(deadline)),
            }
        }
        let mut state = self.guard.state();
        let pid = self.guard.pids().map(|(_, database)| database);
        self.not_ready.send_replace(None);
        let not_yet = |error: &CheckError| {
            if self.not_ready.send_replace(Some(format!("its database is not ready yet: {error}"))).is_none() {
                tracing::warn!(%error, "the database runs, and is not ready yet");
            }
        };
        let ready = tokio::select! {
            ready = self.spec.until_ready(not_yet) => Some(ready),
            _ = state.wait_for(|s| *s == Process::Stopped) => None,
        };
        let why = match (ready, pid) {
            (Some(Ok(())), Some(pid)) => {
                self.guard.answered(pid);
                return Ok(());
            }
            (Some(Ok(())), None) => "it ended".to_owned(),
            (Some(Err(e)), _) => format!("it is not ready within {:?}: {e}", self.spec.ready.within),
            (None, _) => self.guard.ending().map_or_else(|| "it ended".to_owned(), words),
        };
        Err(self.start_failed(why).await)
    }

    async fn start_failed(&self, why: String) -> EngineError {
        let new = self.log_length().saturating_sub(self.mark.load(Ordering::Relaxed)).clamp(1, SHOWN);
        let text = tail(&self.log, new).await;
        let lines: Vec<&str> = text.lines().collect();
        let log = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        EngineError::StartFailed { why, log }
    }

    /// Of a start that takes long: why the database is not taken to be up yet. Of a start that is over it is the last word.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        self.not_ready.borrow().clone()
    }

    /// Returns once so many health checks in a row have failed that it hangs: the last failure. Begin it when it is ready.
    pub async fn until_hung(&self) -> CheckError {
        let health = &self.spec.health;
        let mut failures = 0;
        loop {
            match self.spec.ask(&health.check).await {
                Ok(()) => failures = 0,
                Err(e) => {
                    failures += 1;
                    tracing::warn!(error = %e, failures, "the database does not answer its health check");
                    if failures >= health.failures {
                        return e;
                    }
                }
            }
            sleep(health.check.every).await;
        }
    }

    /// Ends it cleanly. When it does not run that is fine.
    ///
    /// # Errors
    /// [`EngineError::StopFailed`]: it still runs, kill it.
    pub async fn stop(&self) -> Result<(), EngineError> {
        let mut state = self.guard.state();
        if *state.borrow() == Process::Stopped {
            return Ok(());
        }
        let stop = self.spec.stop;
        self.guard.signal(stop.signal);
        match timeout(stop.patience, state.wait_for(|s| *s == Process::Stopped)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::StopFailed(format!("it still runs after {:?}", stop.patience))),
        }
    }

    /// Ends it at once. Never blocks. [`process`](Self::process) says when nothing of it is left.
    pub fn kill(&self) {
        self.guard.kill();
    }

    /// Arms the guard, or moves its deadline.
    pub fn push(&self, deadline: Moment) {
        self.deadline.fetch_max(deadline.as_nanos(), Ordering::Relaxed);
        self.guard.push(deadline);
    }

    /// Whether it runs, as the guard sees it.
    #[must_use]
    pub fn process(&self) -> watch::Receiver<Process> {
        self.guard.state()
    }

    /// The guard's and the database's first process.
    #[must_use]
    pub fn pids(&self) -> Option<(u32, u32)> {
        self.guard.pids()
    }

    /// How the last one ended.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.guard.ending()
    }

    /// Opens a client's connection.
    ///
    /// # Errors
    /// It takes none now.
    pub async fn connect(&self) -> std::io::Result<trine_platform::BoxStream> {
        const PATIENCE: Duration = Duration::from_secs(5);
        timeout(PATIENCE, self.spec.listen.connect()).await.unwrap_or_else(|late| Err(late.into()))
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |m| m.len())
    }
}

pub(super) fn words(ending: Ending) -> String {
    match ending {
        Ending { deadline: true, .. } => "the guard ended it".to_owned(),
        Ending { code: Some(code), .. } => format!("it ended with exit code {code}"),
        Ending { signal: Some(signal), .. } => format!("it was ended by signal {signal}"),
        Ending { .. } => "it ended".to_owned(),
    }
}
