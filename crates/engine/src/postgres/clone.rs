//! A new copy of another node's data, made beside the old one.

use tokio::sync::watch;

use super::Postgres;
use super::binaries::data_major;
use super::config::{Live, conninfo};
use super::control::Control;
use super::paths::{Paths, remove_file, remove_tree, sync_all, sync_dir};
use crate::swap::{finish, put_in_place};
use crate::tool::Tool;
use crate::{CopyId, EngineError, Progress, Upstream};

/// What the primary sees of a clone: no node's name, or the clone would count for the sync rule.
const NAME: &str = "trine_clone";

impl Postgres {
    pub(super) async fn copy_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let _one = self.copying.lock().await;
        let fresh = &self.paths.fresh;
        self.nothing_works_in(&self.paths.tools).await?;
        remove_tree(fresh)?;
        if let Err(e) = self.copy_into_fresh(upstream, identity, progress).await {
            // What is there is useless, and may be what fills the disk.
            if let Err(left) = remove_tree(fresh) {
                tracing::warn!(error = %left.chain(), "can't remove what is left of a clone");
            }
            return Err(e);
        }
        progress.send_replace(Progress { phase: "putting in place".into(), done: 0, total: None });
        let _turn = self.turn.lock().await;
        self.stop_now().await?;
        self.swap()?;
        self.write_live(&Live::default())
    }

    async fn copy_into_fresh(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let fresh = &self.paths.fresh;
        let binaries = self.newest_binaries()?;
        progress.send_replace(Progress { phase: "connecting".into(), done: 0, total: None });
        self.account.make_dir(fresh)?;
        self.copy_certificates(&self.paths.sockets)?;
        let dsn = conninfo(NAME, upstream, &self.paths.sockets, None);
        let args = [
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-manifest",
            "--progress",
            "--no-sync",
            "--no-password",
            &format!("--pgdata={}", fresh.display()),
            &format!("--dbname={dsn}"),
        ]
        .map(str::to_owned);
        let tool =
            Tool { program: binaries.program("pg_basebackup"), account: &self.account, place: &self.paths.tools };
        let said = tool
            .run(&args, |line| {
                if let Some((done, total)) = kilobytes(line) {
                    progress.send_replace(Progress { phase: "copying".into(), done, total: Some(total) });
                }
            })
            .await?;
        self.check_tool("pg_basebackup", &said)?;
        let major = data_major(fresh);
        let binaries = super::Binaries::find(self.config.bin_dir.as_deref(), major)?;
        let control = Control::read(&binaries, &self.account, fresh).await?;
        match identity {
            Some(expected) if expected != control.identity => {
                let what = format!("the database on {}", upstream.node);
                Err(EngineError::OtherCluster { what, found: control.identity, expected })
            }
            _ => {
                self.account.write(&fresh.join("standby.signal"), b"")?;
                progress.send_replace(Progress { phase: "writing to disk".into(), done: 0, total: None });
                sync_all(fresh).await
            }
        }
    }

    /// Puts the complete new copy in the old one's place, and removes the old one.
    fn swap(&self) -> Result<(), EngineError> {
        let Paths { dir, data, fresh, old, .. } = &self.paths;
        put_in_place(dir, data, fresh, old)?;
        // The mark of an interrupted rewind was the old copy's.
        remove_file(&self.paths.rewind_mark)?;
        sync_dir(dir)?;
        remove_tree(fresh)?;
        remove_tree(old)
    }

    /// At the agent's start.
    pub(super) fn finish_clone(&self) -> Result<(), EngineError> {
        let Paths { dir, data, fresh, old, .. } = &self.paths;
        finish(dir, data, fresh, old)
    }
}

/// `12345/67890 kB (18%), 0/1 tablespace` in bytes.
pub(super) fn kilobytes(line: &str) -> Option<(u64, u64)> {
    let (done, rest) = line.trim().split_once('/')?;
    let total = rest.split_once(" kB")?.0;
    Some((done.trim().parse::<u64>().ok()?.checked_mul(1024)?, total.trim().parse::<u64>().ok()?.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines() {
        assert_eq!(kilobytes("  22/ 100 kB (22%), 0/1 tablespace"), Some((22 * 1024, 100 * 1024)));
        assert_eq!(kilobytes(" 123/456 kB (26%) copied"), Some((123 * 1024, 456 * 1024)));
        assert_eq!(kilobytes("waiting for checkpoint"), None);
    }
}
