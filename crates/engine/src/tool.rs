//! Running a database's tools.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::EngineError;
use crate::account::Account;

/// The environment of everything that is started: nothing of the agent's own, messages in English.
pub(crate) fn environment() -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
    [("PATH", path.as_str()), ("LC_ALL", "C"), ("LANG", "C"), ("HOME", "/")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec()
}

/// What a tool or a private run is started as: the database's user, without the agent's priority, gone when the agent is.
pub(crate) fn as_child(command: &mut Command, account: &Account) {
    command.env_clear().envs(environment());
    account.child(command);
}

/// One of the database's tools, run as the database's user.
pub(crate) struct Tool<'a> {
    pub(crate) program: PathBuf,
    pub(crate) account: &'a Account,
    /// The folder that it works in; what is found there later is swept.
    pub(crate) place: &'a Path,
}

/// What a tool said.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Said {
    /// The last lines, for an error.
    pub(crate) fn end(&self) -> String {
        let lines: Vec<&str> = self.text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("\n")
    }

    pub(crate) fn disk_full(&self) -> bool {
        // The last is the hint after a write that was cut short.
        ["No space left on device", "Disk quota exceeded", "Check free disk space"]
            .iter()
            .any(|t| self.text.contains(t))
    }
}

/// Ends a tool and all its children when it goes out of scope.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Tool<'_> {
    /// Runs it to its end, `line` sees each line of its output. Dropping the future ends the tool.
    pub(crate) async fn run(&self, args: &[String], mut line: impl FnMut(&str) + Send) -> Result<Said, EngineError> {
        let failed = EngineError::io("run", &self.program);
        let mut child = match self.spawn(args) {
            Ok(child) => child,
            Err(e) => return Err(failed(e)),
        };
        let mut group = Group(child.id().and_then(crate::guard::descendants::pid));
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(std::io::Error::other("no output")));
        };
        let mut text = Text::default();
        let (mut from_out, mut from_err) = ([0; 4096], [0; 4096]);
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            tokio::select! {
                n = out.read(&mut from_out), if out_open => {
                    out_open = text.take(from_out.get(..n.unwrap_or(0)), &mut line);
                }
                n = err.read(&mut from_err), if err_open => {
                    err_open = text.take(from_err.get(..n.unwrap_or(0)), &mut line);
                }
            }
        }
        let status = child.wait().await.map_err(failed)?;
        group.0 = None;
        Ok(Said { ok: status.success(), text: text.all })
    }

    fn spawn(&self, args: &[String]) -> std::io::Result<tokio::process::Child> {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.place).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        as_child(&mut command, self.account);
        command.spawn()
    }
}

/// How much of a tool's output is kept.
const KEEP: usize = 64 << 10;

#[derive(Default)]
struct Text {
    all: String,
    partial: String,
}

impl Text {
    /// Takes what was read; false at the end.
    fn take(&mut self, bytes: Option<&[u8]>, line: &mut impl FnMut(&str)) -> bool {
        let bytes = bytes.unwrap_or_default();
        if bytes.is_empty() {
            return false;
        }
        let piece = String::from_utf8_lossy(bytes).replace('\r', "\n");
        self.partial.push_str(&piece);
        while let Some(end) = self.partial.find('\n') {
            let rest = self.partial.split_off(end + 1);
            let whole = std::mem::replace(&mut self.partial, rest);
            line(whole.trim_end());
        }
        if self.all.len() > KEEP {
            let cut = self.all.char_indices().map(|(i, _)| i).find(|&i| i >= KEEP / 2).unwrap_or(0);
            self.all.drain(..cut);
        }
        self.all.push_str(&piece);
        true
    }
}
