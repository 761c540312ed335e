//! Cutting a standby off from its primary, for good.

use std::fs;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::time::sleep;
use trine_protocol::Position;

use super::Postgres;
use super::config::Live;
use super::paths::remove_tree;
use super::position::receivers;
use crate::EngineError;
use crate::guard::descendants;

/// How often it is looked whether the receiver has gone.
const LOOK: Duration = Duration::from_millis(1);

impl Postgres {
    pub(super) async fn seal(&self) -> Result<Position, EngineError> {
        let _turn = self.turn.lock().await;
        let session = self.session().await?;
        self.cut().await?;
        let position = self.sealed_position(&session).await?;
        self.give_back(session);
        Ok(position)
    }

    /// Ends the flow of the log into this copy and makes sure that it can't begin again.
    ///
    /// The receiver connects with credentials that were made for this one upstream. They go first: whatever the database
    /// still tries with its old settings, nobody lets it in. A receiver that had read them before is a process with that
    /// title by then; when none is left, nothing flows and nothing will.
    pub(super) async fn cut(&self) -> Result<(), EngineError> {
        let postmaster = self.running()?;
        let sealed = Live { upstream: None, ..self.live() };
        self.clear_links(&sealed)?;
        if self.live() != sealed {
            self.write_live(&sealed)?;
            self.reload()?;
        }
        loop {
            let found = receivers(postmaster);
            if found.is_empty() {
                return Ok(());
            }
            for pid in found.into_iter().filter_map(descendants::pid) {
                let _ = kill_process(pid, Signal::TERM);
                // It may be frozen, and would take the signal only when it wakes.
                let _ = kill_process(pid, Signal::CONT);
            }
            self.running()?;
            sleep(LOOK).await;
        }
    }

    /// Removes the credentials of all upstreams but the one of `live`.
    pub(super) fn clear_links(&self, live: &Live) -> Result<(), EngineError> {
        let keep = live.upstream.as_ref().map(|(_, link)| link.as_str());
        let folder = &self.paths.sockets;
        for entry in fs::read_dir(folder).map_err(EngineError::io("read", folder))? {
            let entry = entry.map_err(EngineError::io("read", folder))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("link-") && keep != Some(&*name) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}
