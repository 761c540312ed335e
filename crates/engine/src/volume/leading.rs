//! The primary's side of the engine.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use trine_protocol::Epoch;
use trine_volume::{Mark, Volume};

use super::serving::{Serving, Up};
use super::site::Inner;
use crate::guard::blocking;
use crate::{EngineError, Process};

/// A primary that stops gives its standbys so long to take the end of its log.
const LAST_WORD: Duration = Duration::from_secs(5);

impl Inner {
    pub(super) async fn promote(self: &Arc<Self>, epoch: Epoch) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let failed = |why: String| EngineError::PromoteFailed { epoch, why };
        let volume = self.volume()?;
        let serving = self.opened().serving.clone();
        if let Some(serving) = serving {
            return if serving.epoch == epoch { Ok(()) } else { Err(failed("it leads another epoch".to_owned())) };
        }
        self.cut().await;
        let lead = volume.clone();
        blocking(move || lead.lead(epoch)).await.map_err(|e| failed(e.to_string()))?;
        let serving = Serving::mount(epoch, volume, self.instance.clone(), &self.paths).await?;
        {
            let mut open = self.opened();
            open.serving = Some(Arc::clone(&serving));
            open.words = None;
        }
        self.process.send_replace(Process::Running);
        let (this, run) = (Arc::clone(self), Arc::clone(&serving));
        self.threads.spawn(async move {
            let why = run.run().await;
            // Who has it stopped or killed takes it down.
            if !run.is_ending() {
                this.opened().words = Some(why.clone());
                this.tear_down(&run.volume, Some(&run), &why).await;
            }
        });
        let (this, look) = (Arc::clone(self), serving);
        self.threads.spawn(async move { this.keep_asking(&look).await });
        Ok(())
    }

    /// Asks the database again and again how it is, while it runs.
    pub(super) async fn keep_asking(&self, serving: &Serving) {
        let mut up = serving.up();
        let ready = up.wait_for(|u| *u != Up::Starting).await.map(|u| *u == Up::Ready);
        if !ready.is_ok_and(|ready| ready) {
            return;
        }
        let spec = self.instance.spec().clone();
        let ask = async {
            let mut failures = 0;
            loop {
                let asked = self.clock.now();
                match spec.ask(&spec.health.check).await {
                    Ok(()) => {
                        failures = 0;
                        self.opened().silent = None;
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::debug!(%error, failures, "the database does not answer as it should");
                        if failures >= spec.health.failures {
                            self.opened().silent.get_or_insert(asked);
                        }
                    }
                }
                sleep(spec.health.check.every).await;
            }
        };
        tokio::select! {
            () = ask => {}
            _ = up.wait_for(|u| *u != Up::Ready) => {}
        }
        self.opened().silent = None;
    }

    pub(super) async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError> {
        let failed = |why: String| EngineError::BarrierFailed { epoch, why };
        let serving = self.opened().serving.clone().filter(|s| s.epoch == epoch);
        let Some(serving) = serving else { return Err(failed("it does not lead this epoch".to_owned())) };
        let volume = self.volume()?;
        let (tell, told) = oneshot::channel();
        let done = Box::new(|outcome| {
            let _ = tell.send(outcome);
        });
        volume.barrier(done).map_err(|e| failed(e.to_string()))?;
        match told.await {
            Ok(Ok(())) => {}
            _ => return Err(failed(volume.closed().unwrap_or_else(|| "the volume is closed".to_owned()))),
        }
        // Clients are let in by this: the database must be there.
        let mut up = serving.up();
        let up = up.wait_for(|u| *u != Up::Starting).await.map(|u| u.clone());
        match up {
            Ok(Up::Ready) => Ok(()),
            Ok(Up::Ended(why)) => Err(failed(why)),
            _ => Err(failed("its database has ended".to_owned())),
        }
    }

    pub(super) async fn stop(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let (volume, serving) = self.what_is_open();
        let Some(volume) = volume else { return Ok(()) };
        if let Some(serving) = &serving {
            serving.stop().await?;
            let flush = volume.clone();
            // What a disk that has failed did not keep, it does not keep the next time either.
            if let Err(error) = blocking(move || flush.flush()).await {
                tracing::warn!(%error, "the end of the log may not be on this node's disk");
            }
            let end = volume.log_end();
            let _ = timeout(LAST_WORD, taken_by_all(&volume, end)).await;
        }
        self.tear_down(&volume, serving.as_ref(), "it was stopped").await;
        Ok(())
    }
}

/// Returns once each node that takes the log has it up to `end`.
async fn taken_by_all(volume: &Volume, end: Mark) {
    let mut progress = volume.progress();
    while volume.followers().values().any(|f| f.acked.durable < end.lsn) {
        if progress.changed().await.is_err() {
            return;
        }
    }
}
