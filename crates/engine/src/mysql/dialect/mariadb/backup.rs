//! A copy by MariaDB's own tool, streamed.

use std::io;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::watch;
use trine_platform::BoxStream;
use trine_protocol::NodeName;

use super::last_in;
use crate::mysql::copy::Offer;
use crate::mysql::paths::own;
use crate::mysql::place::Place;
use crate::mysql::state::Mysql;
use crate::tool::{Said, Tool, as_child};
use crate::{EngineError, Progress};

/// How much is sent at once.
const PIECE: usize = 256 << 10;
/// Where a backup says how far it reaches: by the newer name, and the older.
const REACHES: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];

impl Mysql {
    /// Lets the database's own tool read the data, and sends it in pieces. An empty piece says that it is whole; a stream
    /// that ends without one is not.
    pub(crate) async fn send_backup(&self, to: &NodeName, mut stream: BoxStream) -> io::Result<()> {
        let program = self.binaries.tool("mariadb-backup");
        let mut command = Command::new(&program);
        command.arg(format!("--defaults-extra-file={}", self.paths.credentials().display()));
        command.args(["--backup", "--stream=xbstream", "--parallel=1"]);
        command.arg(format!("--datadir={}", self.paths.data.display()));
        command.arg(format!("--target-dir={}", self.paths.tools.display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(&self.paths.tools);
        as_child(&mut command, &self.account);
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
            let length = self.next_piece(to, out.read(&mut piece)).await?;
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
            tracing::warn!(%to, %ended, said = end, "mariadb-backup failed");
            return Ok(());
        }
        stream.write_u32(0).await?;
        stream.flush().await?;
        // It closes when it has all of that.
        let _ = stream.read_u8().await;
        Ok(())
    }

    /// Makes the copy of what [`send_backup`](Self::send_backup) sends.
    pub(crate) async fn take_backup(
        &self,
        mut stream: BoxStream,
        offer: &Offer,
        node: &NodeName,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let fresh = &self.paths.fresh;
        self.account.make_dir(fresh)?;
        self.unpack(&mut stream, offer, node, progress).await?;
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
        // 0: nothing was ever committed.
        if place.number > 0 {
            self.account.write(&fresh.join(own::COPIED_TO), format!("{}\n", place.text).as_bytes())?;
        }
        Ok(())
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
        let said = Said { ok: whole && ended.success(), text };
        self.check_tool("mbstream", &said)
    }
}

/// A file, a place in it and identifiers, between tabs; the identifiers of several domains on more lines.
fn reached(text: &str) -> Place {
    let identifiers = text.trim().splitn(3, '\t').nth(2).unwrap_or_default();
    last_in(identifiers.trim()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_copy_reaches() {
        assert_eq!(reached("binlog.000001\t2386\t0-1-5\n").number, 5);
        assert_eq!(reached("binlog.000001\t2386\t\n"), Place::default());
        assert_eq!(reached(""), Place::default());
    }
}
