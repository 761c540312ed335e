//! Runs a program to its end, within a deadline; makes a database's first data.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

use super::spec::{DatabaseSpec, Program};
use crate::EngineError;
use crate::files::{remove_file, remove_tree, sync_all};
use crate::guard::{blocking, descendants};

/// How much of what a program says is kept.
const KEEP: usize = 64 << 10;
/// How long is waited for the last of its output once it has ended: a child of it may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// What it said on both outputs, at most 64 KiB of each.
    pub(super) said: String,
}

/// Why a program did not come to its end.
#[derive(Debug)]
pub(super) enum Failed {
    Start(io::Error),
    Deadline(String),
}

/// Ends a program and all of its process group when it goes out of scope.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl DatabaseSpec {
    /// Runs a program as the database's user, with its environment, in `{run}`. Its process group is killed at the
    /// deadline, and when the future is dropped; what of the group outlives the program is killed, too.
    pub(super) async fn run(&self, program: &Program, deadline: Instant) -> Result<Ended, Failed> {
        let mut command = Command::new(&program.path);
        command.args(&program.args).env_clear().envs(self.env.iter().cloned());
        command.current_dir(&self.place.run).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.account.child(&mut command);
        let mut child = command.spawn().map_err(Failed::Start)?;
        let group = Group(child.id().and_then(descendants::pid));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut pipes = (child.stdout.take(), child.stderr.take());
        let mut status = None;
        let finished = async {
            let mut read = std::pin::pin!(async {
                tokio::join!(read(pipes.0.as_mut(), &mut out), read(pipes.1.as_mut(), &mut err))
            });
            tokio::select! {
                _ = &mut read => {
                    status = Some(child.wait().await);
                }
                ended = child.wait() => {
                    status = Some(ended);
                    let _ = timeout(LAST_WORDS, read).await;
                }
            }
        };
        let late = timeout_at(deadline, finished).await.is_err();
        drop(group);
        let said = [out, err].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        match status {
            Some(Ok(status)) => Ok(Ended { status, said }),
            Some(Err(e)) if !late => Err(Failed::Start(e)),
            _ => Err(Failed::Deadline(said)),
        }
    }

    /// Makes the first data in `{data}`, which is made, or is empty: runs `init`, and makes all of it durable.
    ///
    /// # Errors
    /// [`EngineError::Tool`] says which command failed and what it said; [`EngineError::DiskFull`];
    /// [`EngineError::IncompleteCopy`]: `{data}` holds something, and is left as it is. After any other error `{data}` is
    /// empty.
    pub async fn initialise(&self) -> Result<(), EngineError> {
        let data = &self.place.data;
        if fs::read_dir(data).is_ok_and(|mut d| d.next().is_some()) {
            return Err(EngineError::IncompleteCopy { path: data.clone(), why: "it is not empty".into() });
        }
        self.prepare()?;
        self.account.make_dir(data)?;
        let deadline = Instant::now() + self.init_deadline;
        for program in &self.init {
            if let Err(e) = self.make(program, deadline).await {
                let data = data.clone();
                blocking(move || empty(&data)).await?;
                return Err(e);
            }
        }
        sync_all(data).await
    }

    async fn make(&self, program: &Program, deadline: Instant) -> Result<(), EngineError> {
        let name = program.path.display();
        let failed = |output: String| Err(EngineError::Tool { tool: "database.init", output });
        match self.run(program, deadline).await {
            Ok(ended) if ended.status.success() => Ok(()),
            Ok(ended) if ended.said.contains("No space left on device") => {
                Err(EngineError::DiskFull { path: self.place.data.clone(), what: format!("{name} could not write") })
            }
            Ok(ended) => failed(format!("{name} ended with {}: {}", ended.status, end(&ended.said))),
            Err(Failed::Start(e)) => failed(format!("can't run {name}: {e}")),
            Err(Failed::Deadline(said)) => {
                failed(format!("{name} did not end within {:?}: {}", self.init_deadline, end(&said)))
            }
        }
    }
}

async fn read(from: Option<&mut (impl AsyncRead + Unpin)>, into: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut piece = [0; 4096];
    // What is too much is read all the same: the program must not wait for ever at a full pipe.
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        let room = KEEP.saturating_sub(into.len()).min(n);
        into.extend_from_slice(piece.get(..room).unwrap_or_default());
    }
}

/// The last lines of an output in one line, for an error.
pub(super) fn end(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join("; ");
    let cut = last.char_indices().rev().nth(499).map_or(0, |(i, _)| i);
    let text = trine_platform::plain(last.get(cut..).unwrap_or_default());
    if text.is_empty() { "it said nothing".to_owned() } else { text }
}

/// Removes everything in a folder.
pub(super) fn empty(folder: &Path) -> Result<(), EngineError> {
    let entries = fs::read_dir(folder).map_err(EngineError::io("read", folder))?;
    for entry in entries {
        let entry = entry.map_err(EngineError::io("read", folder))?;
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_folder { remove_tree(&entry.path())? } else { remove_file(&entry.path())? }
    }
    Ok(())
}
