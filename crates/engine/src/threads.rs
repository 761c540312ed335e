//! The engine's own threads.

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use trine_platform::{Rank, rank_thread};

use crate::EngineError;

/// One for an operation, one for what looks on.
const WORKERS: usize = 2;

/// Threads that the engine works on. Its files may be on a disk that hangs, and the agent's own threads must not wait
/// for that.
#[derive(Debug)]
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    /// For operations.
    pub(crate) fn start() -> Result<Self, EngineError> {
        Self::named("engine", WORKERS)
    }

    /// A single one, for a stream on which somebody waits for each message: with two, each message wakes both.
    pub(crate) fn start_one(name: &str) -> Result<Self, EngineError> {
        Self::named(name, 1)
    }

    fn named(name: &str, workers: usize) -> Result<Self, EngineError> {
        let built = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name(name)
            .on_thread_start(|| {
                rank_thread(Rank::Work);
            })
            .enable_all()
            .build()
            .map_err(|source| EngineError::Guard { action: "start the threads to work with", source })?;
        Ok(Self(Some(built)))
    }

    /// Runs `work` there, to its end.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(work);
        }
    }

    /// Runs `work` there, until it ends or is aborted; `None`: the threads are gone.
    pub(crate) fn start_task(&self, work: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
        self.0.as_ref().map(|runtime| runtime.spawn(work))
    }

    /// Runs `work` there. When the caller drops this, the work is dropped at its next await.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let Some(runtime) = &self.0 else { return std::future::pending().await };
        let mut task = AbortOnDrop(runtime.spawn(work));
        match (&mut task.0).await {
            Ok(value) => value,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
