//! Ending it.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::dialect::GivesWay;
use super::session::column;
use super::state::Mysql;
use crate::files::remove_file;
use crate::{EngineError, Process};

/// How long a clean end may take.
const STOP: Duration = Duration::from_secs(60);
/// How long is waited beforehand, at most, until so few pages are left to write.
const PREPARE: Duration = Duration::from_secs(3);
const FEW: u64 = 200;
const LOOK: Duration = Duration::from_millis(20);

impl Mysql {
    /// What is in memory only goes to disk, so that a clean end has little left to write. The database writes less and
    /// less of it the longer this goes on beside a load: it is given up after a while.
    pub(super) async fn prepare_stop(&self) -> Result<(), EngineError> {
        const ACTION: &str = "write what is in memory";
        let mut session = self.session().await?;
        let usual: f64 = session.value(ACTION, "select @@global.innodb_max_dirty_pages_pct").await?;
        session.run(ACTION, "set global innodb_max_dirty_pages_pct = 0").await?;
        let written = async {
            loop {
                let row = session.row(ACTION, "show global status like 'Innodb_buffer_pool_pages_dirty'").await?;
                let dirty = row.and_then(|r| column::<String>(&r, 1)).and_then(|n| n.parse::<u64>().ok());
                if dirty.is_none_or(|n| n <= FEW) {
                    return Ok(());
                }
                sleep(LOOK).await;
            }
        };
        let written = timeout(PREPARE, written).await.unwrap_or(Ok(()));
        session.run(ACTION, &format!("set global innodb_max_dirty_pages_pct = {usual}")).await?;
        self.give_back(session);
        written
    }

    pub(super) async fn stop(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        self.stop_now().await
    }

    /// Ends a primary whose place another one takes.
    pub(super) async fn hand_over(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        if self.leading().is_none() || self.gives_way() == GivesWay::Ended {
            return self.stop_now().await;
        }
        self.take_no_more_writes().await?;
        // Every commit of its log has been acknowledged, so a standby has them all: nothing is lost with it.
        self.gate.close();
        self.guard.kill();
        Ok(())
    }

    /// A primary is stopped when its clients have gone and a standby has everything. It takes no more writes first:
    /// what would still come in between would be acknowledged by nobody.
    pub(super) async fn stop_now(&self) -> Result<(), EngineError> {
        let mut state = self.guard.state();
        if *state.borrow() == Process::Stopped && self.process_id().is_err() {
            return Ok(());
        }
        if self.leading().is_some() {
            self.take_no_more_writes().await?;
        } else {
            self.cut_feed().await;
            if let Err(error) = self.ready_to_end().await {
                tracing::info!(error = error.chain(), "its end may take longer");
            }
        }
        self.guard.signal(Signal::TERM);
        let ended = timeout(STOP, state.wait_for(|s| *s == Process::Stopped)).await;
        self.gate.close();
        match ended {
            Ok(_) => {
                if self.guard.ending().is_some_and(|e| e.code == Some(0)) {
                    // Everything in its log is committed: there is nothing to cut off.
                    remove_file(&self.paths.leading())?;
                }
                Ok(())
            }
            Err(_) => Err(EngineError::StopFailed(format!("it still runs after {} s", STOP.as_secs()))),
        }
    }

    /// Returns once the commits under way are acknowledged; new ones are refused.
    async fn take_no_more_writes(&self) -> Result<(), EngineError> {
        const ACTION: &str = "take no more writes";
        let mut session = self.session().await?;
        session.run(ACTION, "set session lock_wait_timeout = 2").await?;
        session.run(ACTION, self.words().close_for_all).await
    }

    async fn ready_to_end(&self) -> Result<(), EngineError> {
        let mut session = self.session().await?;
        self.before_end(&mut session).await
    }
}
