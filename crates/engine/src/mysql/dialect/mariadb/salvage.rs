//! Received logs that the database would throw away.
//!
//! A standby acknowledges a transaction when it has it in its received log, and applies it later. Started again, MariaDB
//! with GTIDs throws that log away, and fetches it anew from its primary; which may be gone, and this may have been the
//! only copy. So the files are set aside before a start, and what of them the database has not applied is applied after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{binlog, places};
use crate::EngineError;
use crate::files::{remove_tree, sync_dir};
use crate::guard::blocking;
use crate::mysql::paths::own;
use crate::mysql::place::Place;
use crate::mysql::state::Mysql;
use crate::tool::as_child;

/// What the received log's files are called (`relay_log` in `settings.rs`).
const RECEIVED: &str = "received.";

impl Mysql {
    /// Before a start: moves the received log out of the database's way.
    ///
    /// Files that a start before has set aside already come from a run before that: since then nothing was received, as
    /// nobody is followed before they are applied.
    pub(crate) fn set_received_aside(&self) -> Result<(), EngineError> {
        let (aside, fresh) = (self.own(own::SALVAGE), self.own(own::SALVAGE_NEW));
        let data = &self.paths.data;
        let failed = || EngineError::io("set the received log aside, in", data);
        if !aside.exists() {
            self.account.make_dir(&fresh)?;
            for name in received_in(data).map_err(failed())? {
                fs::rename(data.join(&name), fresh.join(&name)).map_err(failed())?;
            }
            sync_dir(&fresh)?;
            sync_dir(data)?;
            fs::rename(&fresh, &aside).map_err(failed())?;
        } else {
            for name in received_in(data).map_err(failed())? {
                fs::remove_file(data.join(&name)).map_err(failed())?;
            }
        }
        sync_dir(data)
    }

    /// After a start: applies what was set aside, and removes it.
    pub(super) async fn apply_received(&self) -> Result<(), EngineError> {
        let aside = self.own(own::SALVAGE);
        if !aside.exists() {
            return Ok(());
        }
        let folder = aside.clone();
        let (files, last) = blocking(move || last_received(&folder)).await.map_err(EngineError::io("read", &aside))?;
        for file in &files {
            self.account.give(file)?;
        }
        self.apply_logs(&files, &last, "what was received before").await?;
        remove_tree(&aside)?;
        sync_dir(&self.paths.data)
    }

    /// Applies what the database has not applied of these files, up to the transaction `last`, and makes sure that it has.
    ///
    /// # Errors
    /// [`EngineError::StartFailed`]: a copy that can't take what it has acknowledged is no copy.
    pub(super) async fn apply_logs(
        &self,
        files: &[PathBuf],
        last: &Place,
        what: &'static str,
    ) -> Result<(), EngineError> {
        let mut session = self.session().await?;
        let (applied, written) = places(&mut session).await?;
        let applied = applied.or_further(written);
        if last.number > applied.number {
            tracing::warn!(applied = applied.number, last = last.number, "applying {what} and is not applied");
            let failed = |log: String| EngineError::StartFailed { why: format!("{what} can't be applied"), log };
            self.apply(files, &applied, last).await.map_err(|e| failed(e.chain()))?;
            let (applied, written) = places(&mut session).await?;
            let reached = applied.or_further(written).number;
            if reached < last.number {
                return Err(failed(format!("it goes to {}, and only {reached} could be applied", last.number)));
            }
        }
        self.give_back(session);
        Ok(())
    }

    /// Lets the database's own tools read the files from one place to another, and apply them as what they are.
    async fn apply(&self, files: &[PathBuf], from: &Place, to: &Place) -> Result<(), EngineError> {
        const TOOL: &str = "mariadb-binlog";
        let failed = |output: String| EngineError::Tool { tool: TOOL, output };
        let credentials = format!("--defaults-extra-file={}", self.paths.credentials().display());
        let mut client = Command::new(self.binaries.tool("mariadb"));
        client.args([credentials.as_str(), "--binary-mode", "--batch"]);
        client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir(&self.paths.tools);
        as_child(&mut client, &self.account);
        let mut client = client.spawn().map_err(EngineError::io("run", self.binaries.tool("mariadb")))?;
        let mut reader = Command::new(self.binaries.tool(TOOL));
        reader.arg("--no-defaults");
        if from.number > 0 {
            reader.arg(format!("--start-position={}", from.text));
        }
        // What is not whole comes after it.
        reader.arg(format!("--stop-position={}", to.text));
        reader.args(files).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        reader.current_dir(&self.paths.tools);
        as_child(&mut reader, &self.account);
        let mut reader = reader.spawn().map_err(EngineError::io("run", self.binaries.tool(TOOL)))?;
        let (Some(mut out), Some(mut into)) = (reader.stdout.take(), client.stdin.take()) else {
            return Err(failed("it has no output".into()));
        };
        let passed = tokio::io::copy(&mut out, &mut into).await;
        drop(into);
        let mut said = String::new();
        for mut stderr in [reader.stderr.take(), client.stderr.take()].into_iter().flatten() {
            let _ = stderr.read_to_string(&mut said).await;
        }
        let ended = (reader.wait().await, client.wait().await);
        match (passed, ended) {
            (Ok(_), (Ok(read), Ok(applied))) if read.success() && applied.success() => Ok(()),
            (passed, ended) => Err(failed(format!("{} ({passed:?}, {ended:?})", said.trim()))),
        }
    }
}

/// The received log's files in a folder, the list of them too.
fn received_in(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
    let mut found =
        names.filter(|n| n.as_ref().map_or(true, |n| n.starts_with(RECEIVED))).collect::<io::Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

/// The files of a received log in their order, and the last transaction that is whole in them.
fn last_received(folder: &Path) -> io::Result<(Vec<PathBuf>, Place)> {
    let numbered = |n: &String| n.rsplit_once('.').is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
    let files: Vec<PathBuf> = received_in(folder)?.into_iter().filter(numbered).map(|n| folder.join(n)).collect();
    for (at, file) in files.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| files.get(before)).map(PathBuf::as_path);
        if binlog::move_rest(file, before)? {
            tracing::info!(file = %file.display(), "it began within a transaction");
        }
    }
    let mut last = Place::default();
    for file in &files {
        last = last.or_further(binlog::last_whole(file, u64::MAX)?.map(Place::from).unwrap_or_default());
    }
    Ok((files, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_received_log_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["received.000002", "received.000001", "received.index", "ibdata1", "binlog.000001"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(received_in(folder.path()).unwrap(), ["received.000001", "received.000002", "received.index"]);
        let (files, last) = last_received(folder.path()).unwrap();
        assert_eq!(files, ["received.000001", "received.000002"].map(|n| folder.path().join(n)));
        assert_eq!(last, Place::default());
    }
}
