//! Runs of the database that nobody else can reach: to make a copy, and to look at one.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::session::Session;
use super::state::Mysql;
use crate::EngineError;
use crate::files::remove_file;
use crate::guard::descendants::pid;
use crate::tool::as_child;

/// How long a private run may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_millis(20);

impl Mysql {
    /// Starts a run on a folder, lets somebody work with it, and ends it in good order. Nothing of it is in a binary log.
    pub(super) async fn in_private<T>(
        &self,
        data: &Path,
        more: &[impl AsRef<OsStr>],
        work: impl AsyncFnOnce(&mut Session) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mut server = self.private_run(data, more)?;
        let done = match self.private_session(&mut server).await {
            Ok(mut session) => work(&mut session).await,
            Err(e) => Err(e),
        };
        if let Some(pid) = server.id().and_then(pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let ended = timeout(PATIENCE, server.wait()).await;
        remove_file(&self.paths.private_socket())?;
        let done = done?;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(done),
            other => {
                Err(EngineError::StopFailed(format!("the private run ended so: {other:?}; {}", self.private_log())))
            }
        }
    }

    /// A run on a folder that nobody else can reach.
    pub(super) fn private_run(&self, data: &Path, more: &[impl AsRef<OsStr>]) -> Result<Child, EngineError> {
        let path = self.paths.sockets.join("private.log");
        let log = fs::File::create(&path).map_err(EngineError::io("write", path))?;
        let program = self.binaries.server();
        let mut command = Command::new(&program);
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        command.arg(format!("--socket={}", self.paths.private_socket().display()));
        command.arg(format!("--pid-file={}", self.paths.sockets.join("private.pid").display()));
        command.args(["--skip-networking", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=1"]);
        command.args(self.words().private_run).args(more);
        command.current_dir(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        as_child(&mut command, &self.account);
        command.spawn().map_err(EngineError::io("run", program))
    }

    pub(super) async fn private_session(&self, server: &mut Child) -> Result<Session, EngineError> {
        let socket = self.paths.private_socket();
        let connected = async {
            loop {
                match Session::open(&socket, self.words(), "root", "").await {
                    Ok(session) => return session,
                    Err(e) => tracing::trace!(error = %e.chain(), "the private run is not up yet"),
                }
                sleep(ASK).await;
            }
        };
        let failed = |why: String| EngineError::StartFailed { why, log: self.private_log() };
        tokio::select! {
            session = connected => Ok(session),
            ended = server.wait() => Err(failed(format!("it ended: {ended:?}"))),
            () = sleep(PATIENCE) => Err(failed("it does not answer".into())),
        }
    }

    fn private_log(&self) -> String {
        let text = fs::read_to_string(self.paths.sockets.join("private.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }
}
