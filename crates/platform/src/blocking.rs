//! Calls that may block, such as those to a disk.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Where calls that may block are run.
#[derive(Clone, Default)]
pub enum Blocking {
    /// On threads of their own, so that a disk that hangs holds up nobody but who waits for it.
    #[default]
    Threads,
    /// On the caller's thread, after a pause: a simulated disk takes no time but what the simulator says.
    Here(Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>),
}

impl Blocking {
    /// Runs `call`, and gives what it returns. Once begun it goes on when this is dropped, but for a simulated one that has
    /// not come to its turn.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        let done = match self {
            Self::Threads => tokio::task::spawn_blocking(call).await,
            Self::Here(pause) => {
                pause().await;
                return call();
            }
        };
        match done {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only when the runtime is being torn down: nobody waits any more.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "Threads",
            Self::Here(_) => "Here",
        })
    }
}
