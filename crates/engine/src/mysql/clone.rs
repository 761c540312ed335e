//! A new copy of another node's data, made beside the old one.

use std::io;
use std::process::Stdio;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::watch;
use trine_platform::BoxStream;
use trine_protocol::NodeName;

use super::gtid;
use super::paths::own;
use super::state::{Mysql, Running};
use super::tunnel::{hear, say};
use crate::files::{remove_tree, sync_all};
use crate::swap::swap;
use crate::tool::{Tool, as_child};
use crate::{Ask, CopyId, EngineError, Progress, Upstream};

/// How much is sent at once.
const PIECE: usize = 256 << 10;
/// Where a backup says how far it reaches: by the newer name, and the older.
const REACHES: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];

/// What a primary says before it sends its data.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    identity: CopyId,
    /// How large its data directory is, about.
    bytes: u64,
}

impl Mysql {
    /// The primary's side: lets the database's own tool read the data, and sends it in pieces. An empty piece says that it
    /// is whole; a stream that ends without one is not.
    pub(super) async fn serve_copy(this: &Arc<Self>, from: &NodeName, mut stream: BoxStream) -> io::Result<()> {
        let identity = this.identity().ok().flatten();
        let Some(identity) = identity.filter(|_| this.leading().is_some()) else { return Ok(()) };
        this.write_credentials().map_err(io::Error::other)?;
        let data = this.paths.data.clone();
        let bytes = crate::guard::blocking(move || size_of(&data)).await;
        say(&mut stream, &Offer { identity, bytes }).await?;
        let program = this.binaries.tool("mariadb-backup");
        let mut command = Command::new(&program);
        command.arg(format!("--defaults-extra-file={}", this.paths.credentials().display()));
        command.args(["--backup", "--stream=xbstream", "--parallel=1"]);
        command.arg(format!("--datadir={}", this.paths.data.display()));
        command.arg(format!("--target-dir={}", this.paths.tools.display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(&this.paths.tools);
        as_child(&mut command, &this.account);
        let mut child = command.spawn()?;
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("the backup has no output"));
        };
        let said = tokio::spawn(async move {
            let mut said = String::new();
            let _ = err.read_to_string(&mut said).await;
            said
        });
        let mut piece = vec![0; PIECE];
        loop {
            let length = out.read(&mut piece).await?;
            if length == 0 {
                break;
            }
            stream.write_u32(u32::try_from(length).unwrap_or(0)).await?;
            stream.write_all(piece.get(..length).unwrap_or_default()).await?;
        }
        let ended = child.wait().await?;
        if !ended.success() {
            let said = said.await.unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let end = lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("\n");
            tracing::warn!(to = %from, %ended, said = end, "mariadb-backup failed");
            return Ok(());
        }
        stream.write_u32(0).await?;
        stream.flush().await?;
        // It closes when it has all of that.
        let _ = stream.read_u8().await;
        Ok(())
    }

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
        self.cut_feed().await;
        self.stop_now().await?;
        *self.running() = Running::default();
        swap(&self.paths.dir, &self.paths.data, fresh, &self.paths.old)
    }

    async fn copy_into_fresh(
        &self,
        upstream: &Upstream,
        expected: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let fresh = &self.paths.fresh;
        let node = &upstream.node;
        progress.send_replace(Progress { phase: "connecting".into(), done: 0, total: None });
        let broke = |source| EngineError::Neighbour { action: "copy the data of", node: node.clone(), source };
        let mut stream = self.neighbours()?.open(node, Ask::Copy).await.map_err(broke)?;
        let offer: Offer = hear(&mut stream).await.map_err(broke)?;
        if let Some(expected) = expected.filter(|e| *e != offer.identity) {
            let what = format!("the database on {node}");
            return Err(EngineError::OtherCluster { what, found: offer.identity, expected });
        }
        self.account.make_dir(fresh)?;
        self.unpack(&mut stream, &offer, node, progress).await?;
        progress.send_replace(Progress { phase: "preparing".into(), done: 0, total: None });
        let program = self.binaries.tool("mariadb-backup");
        let tool = Tool { program, account: &self.account, place: &self.paths.tools };
        let args = ["--no-defaults".to_owned(), "--prepare".into(), format!("--target-dir={}", fresh.display())];
        let said = tool.run(&args, |_| {}).await?;
        self.check_tool("mariadb-backup --prepare", &said)?;
        let reaches = REACHES.iter().find_map(|name| std::fs::read_to_string(fresh.join(name)).ok());
        let place = reaches.as_deref().map(reached).ok_or_else(|| EngineError::Tool {
            tool: "mariadb-backup",
            output: format!("does not say how far the copy reaches: there is no {}", REACHES.join(", nor a ")),
        })?;
        // None: nothing was ever committed.
        if let Some(place) = place {
            self.account.write(&fresh.join(own::COPIED_TO), format!("{place}\n").as_bytes())?;
        }
        self.account.write(&fresh.join(own::IDENTITY), format!("{}\n", offer.identity).as_bytes())?;
        progress.send_replace(Progress { phase: "writing to disk".into(), done: 0, total: None });
        sync_all(fresh).await
    }

    /// Takes the pieces, and gives them to the tool that makes files of them.
    async fn unpack(
        &self,
        stream: &mut BoxStream,
        offer: &Offer,
        node: &NodeName,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let program = self.binaries.tool("mbstream");
        let mut command = Command::new(&program);
        command.args(["-x", "-C"]).arg(&self.paths.fresh).current_dir(&self.paths.tools);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        as_child(&mut command, &self.account);
        let mut child = command.spawn().map_err(EngineError::io("run", program))?;
        let (Some(mut into), Some(mut err)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(EngineError::Tool { tool: "mbstream", output: "it takes no input".into() });
        };
        let broke = |source| EngineError::Neighbour { action: "copy the data of", node: node.clone(), source };
        let mut piece = Vec::new();
        let mut done = 0;
        let taken = async {
            loop {
                let length = stream.read_u32().await.map_err(broke)? as usize;
                if length == 0 {
                    return Ok(true);
                }
                if length > PIECE {
                    return Err(broke(io::Error::new(io::ErrorKind::InvalidData, "a piece is too long")));
                }
                piece.resize(length, 0);
                stream.read_exact(&mut piece).await.map_err(broke)?;
                if into.write_all(&piece).await.is_err() {
                    // It says why on its stderr.
                    return Ok(false);
                }
                done += length as u64;
                let total = Some(offer.bytes.max(done));
                progress.send_replace(Progress { phase: "copying".into(), done, total });
            }
        };
        let whole = taken.await?;
        drop(into);
        let mut text = String::new();
        let _ = err.read_to_string(&mut text).await;
        let ended = child.wait().await.map_err(EngineError::io("run", "mbstream"))?;
        let said = crate::tool::Said { ok: whole && ended.success(), text };
        self.check_tool("mbstream", &said)
    }
}

/// A file, a place in it and identifiers, between tabs; the identifiers of several domains on more lines.
fn reached(text: &str) -> Option<gtid::Gtid> {
    gtid::last_in(text.trim().splitn(3, '\t').nth(2)?.trim()).ok().flatten()
}

/// About how large the files of a folder are together.
fn size_of(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|e| match e.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&e.path()),
        Ok(meta) if !e.file_name().to_string_lossy().starts_with("binlog.") => meta.len(),
        _ => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_copy_reaches() {
        assert_eq!(reached("binlog.000001\t2386\t0-1-5\n").map(|g| g.number), Some(5));
        assert_eq!(reached("binlog.000001\t2386\t\n"), None);
        assert_eq!(reached(""), None);
    }
}
