//! A standby takes the log of its primary.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use trine_protocol::{Epoch, NodeName};
use trine_volume::Volume;
use trine_volume::link::{FollowError, Refusal, follow};

use crate::threads::Threads;
use crate::{Ask, Neighbours};

/// How soon a connection that broke is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// How it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// Not yet, or not now; why, if that is known.
    Connecting(Option<String>),
    /// The log flows.
    Streaming,
    /// The primary has another log.
    Parted,
    /// The primary has no longer what comes next.
    TooFar(u64),
}

/// The task that takes the log. Dropped, it ends at its next wait; [`Following::cut`] waits for that.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) upstream: NodeName,
    pub(super) epoch: Epoch,
    pub(super) flow: watch::Receiver<Flow>,
    task: Option<JoinHandle<()>>,
}

impl Following {
    pub(super) fn start(
        threads: &Threads,
        volume: Volume,
        neighbours: Arc<dyn Neighbours>,
        upstream: NodeName,
        epoch: Epoch,
    ) -> Option<Self> {
        let (tell, flow) = watch::channel(Flow::Connecting(None));
        let node = upstream.clone();
        let task = threads.start_task(async move {
            loop {
                let stream = match neighbours.open(&node, Ask::Log).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        tell.send_replace(Flow::Connecting(Some(error.to_string())));
                        sleep(AGAIN).await;
                        continue;
                    }
                };
                let Err(ended) = follow(&volume, epoch, stream, || {
                    tell.send_replace(Flow::Streaming);
                })
                .await;
                tracing::debug!(upstream = %node, %epoch, %ended, "the log flows no longer");
                let last = match ended {
                    FollowError::Refused(Refusal::Parted) => Flow::Parted,
                    FollowError::Refused(Refusal::TooFar(first)) => Flow::TooFar(first),
                    other => Flow::Connecting(Some(other.to_string())),
                };
                let final_word = matches!(last, Flow::Parted | Flow::TooFar(_));
                tell.send_replace(last);
                if final_word || volume.closed().is_some() {
                    return;
                }
                sleep(AGAIN).await;
            }
        })?;
        Some(Self { upstream, epoch, flow, task: Some(task) })
    }

    /// Ends it, and returns once nothing flows any more. Can be called again when it was dropped half-way.
    pub(super) async fn cut(&mut self) {
        if let Some(task) = &mut self.task {
            task.abort();
            let _ = task.await;
            self.task = None;
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
