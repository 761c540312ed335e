//! The end of a lost primary's log, which perhaps nobody has acknowledged.
//!
//! Started again, MariaDB commits whatever its binary log has, and can't take it back. Told that it was not the primary
//! (`--init-rpl-role=SLAVE`), it cuts off what it had not committed yet; but some of that may have been acknowledged. So the
//! end of the log is set aside before the start, and then treated as a received log that is not applied: it counts as long as nobody
//! else leads, and is applied before the position is told. Behind a new primary it is applied as far as that has it, and the rest
//! is dropped, as nobody has acknowledged it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::gtid::Gtid;
use super::{binlog, places};
use crate::EngineError;
use crate::files::{remove_tree, sync_dir};
use crate::guard::blocking;
use crate::history::History;
use crate::mysql::paths::own;
use crate::mysql::place::{self, Place};
use crate::mysql::state::Mysql;

/// What the binary log's files are called (`log_bin` in `settings.rs`).
const BINLOG: &str = "binlog.";

impl Mysql {
    /// Before a start: sets the end of the log aside, if the last run was a primary's, and says whether there is one.
    ///
    /// One that was set aside before a start before has not become part of the log since: nothing leads before it has.
    pub(super) fn set_tail_aside(&self) -> Result<bool, EngineError> {
        let (aside, fresh) = (self.own(own::TAIL), self.own(own::TAIL_NEW));
        if aside.exists() {
            return Ok(true);
        }
        let data = &self.paths.data;
        let failed = || EngineError::io("set the end of the log aside, in", data);
        if !self.paths.leading().exists() {
            return Ok(false);
        }
        if let Err(e) = self.copy_tail(&fresh) {
            // What is there of it may be what fills the disk.
            let _ = remove_tree(&fresh);
            return Err(e);
        }
        fs::rename(&fresh, &aside).map_err(failed())?;
        sync_dir(data)?;
        Ok(true)
    }

    fn copy_tail(&self, fresh: &Path) -> Result<(), EngineError> {
        let data = &self.paths.data;
        let failed = || EngineError::io("set the end of the log aside, in", data);
        remove_tree(fresh)?;
        self.account.make_dir(fresh)?;
        for file in last_files(data).map_err(failed())? {
            let to = fresh.join(file.file_name().unwrap_or_default());
            fs::copy(&file, &to).and_then(|_| fs::File::open(&to)?.sync_all()).map_err(failed())?;
            self.account.give(&to)?;
        }
        sync_dir(fresh)
    }

    /// The database, started as the primary that it was, has committed all of it itself.
    pub(super) fn tail_is_committed(&self) -> Result<(), EngineError> {
        remove_tree(&self.own(own::TAIL))?;
        sync_dir(&self.paths.data)
    }

    /// Applies what was set aside, as a part of this copy's log.
    pub(super) async fn apply_tail(&self) -> Result<(), EngineError> {
        let Some((files, last)) = self.tail(u64::MAX).await? else { return Ok(()) };
        self.apply_up_to(&files, &last.into()).await?;
        self.tail_is_committed()
    }

    /// Behind a primary with this history: applies what is part of that, and drops the rest.
    pub(super) async fn cut_tail(&self, history: &History) -> Result<(), EngineError> {
        let Some((_, last)) = self.tail(u64::MAX).await? else { return Ok(()) };
        let epoch = place::epoch_of(last.number);
        // An epoch that the primary's log has no part of: nothing of it is common.
        let fork = history.end_of(epoch).unwrap_or(place::first_of(epoch).saturating_sub(1));
        if last.number <= fork {
            return self.apply_tail().await;
        }
        let mut session = self.session().await?;
        let (applied, written) = places(&mut session).await?;
        self.give_back(session);
        let reached = applied.or_further(written).number;
        if reached > fork {
            // It goes too far by itself. All of it makes no difference.
            return self.apply_tail().await;
        }
        if let Some((files, common)) = self.tail(fork).await? {
            self.apply_up_to(&files, &common.into()).await?;
        }
        let kept = self.paths.dir.join("kept");
        let to = kept.join(format!("unacknowledged-of-epoch-{epoch}"));
        tracing::warn!(%epoch, from = fork, to = last.number, folder = %to.display(), "cut off what nobody had acknowledged");
        let failed = || EngineError::io("keep what is cut off in", &to);
        fs::create_dir_all(&kept).map_err(failed())?;
        remove_tree(&to)?;
        fs::rename(self.own(own::TAIL), &to).map_err(failed())?;
        sync_dir(&self.paths.data)
    }

    /// What was set aside, and the last transaction of it that is not after `limit`.
    async fn tail(&self, limit: u64) -> Result<Option<(Vec<PathBuf>, Gtid)>, EngineError> {
        let aside = self.own(own::TAIL);
        if !aside.exists() {
            return Ok(None);
        }
        let folder = aside.clone();
        let found = blocking(move || {
            let files = binlogs_in(&folder)?;
            let mut last: Option<Gtid> = None;
            for file in &files {
                let found = binlog::last_whole(file, limit)?;
                last = last.into_iter().chain(found).max_by_key(|g| g.number);
            }
            Ok::<_, io::Error>(last.map(|last| (files, last)))
        });
        let found = found.await.map_err(EngineError::io("read", &aside))?;
        if found.is_none() && limit == u64::MAX {
            self.tail_is_committed()?;
        }
        Ok(found)
    }

    async fn apply_up_to(&self, files: &[PathBuf], last: &Place) -> Result<(), EngineError> {
        self.apply_logs(files, last, "what its log had when it ended").await
    }
}

/// The log's files in a folder, in order.
fn binlogs_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(BINLOG);
        if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            files.push(entry.path());
        }
    }
    // As numbers: they get longer.
    files.sort_by_key(|f| (f.as_os_str().len(), f.clone()));
    Ok(files)
}

/// The files that have what was not committed: from the one that the last of them names on.
fn last_files(data: &Path) -> io::Result<Vec<PathBuf>> {
    let files = binlogs_in(data)?;
    let Some(last) = files.last() else { return Ok(files) };
    let first = binlog::checkpoint(last)?;
    let at = first.and_then(|name| files.iter().position(|f| f.file_name().is_some_and(|n| n == name.as_str())));
    // Nothing said: all that there is.
    Ok(files.into_iter().skip(at.unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["binlog.1000000", "binlog.000009", "binlog.999999", "binlog.index", "binlog.state", "received.000001"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = binlogs_in(folder.path()).unwrap();
        assert_eq!(found, ["binlog.000009", "binlog.999999", "binlog.1000000"].map(|n| folder.path().join(n)));
        assert_eq!(last_files(folder.path()).unwrap(), found);
    }
}
