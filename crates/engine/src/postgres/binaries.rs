//! Finding PostgreSQL's programs, and running them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::paths::Paths;
use crate::EngineError;
use crate::account::Account;

/// The oldest major version that has what is needed.
pub(super) const OLDEST: u32 = 13;

/// One major version's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The programs for `major`, or the newest when there is no data yet that says which.
    pub(super) fn find(bin_dir: Option<&Path>, major: Option<u32>) -> Result<Self, EngineError> {
        let mut found: Vec<Self> = match bin_dir {
            Some(dir) => vec![Self::at(dir)?],
            None => candidates().iter().filter_map(|dir| Self::at(dir).ok()).collect(),
        };
        found.sort_by_key(|b| std::cmp::Reverse(b.major));
        let all = found.iter().map(|b| format!("{} in {}", b.major, b.dir.display())).collect::<Vec<_>>().join(", ");
        let seen = if all.is_empty() { "none".to_owned() } else { all };
        match major {
            Some(wanted) => found.into_iter().find(|b| b.major == wanted).ok_or_else(|| {
                EngineError::NoBinaries(format!(
                    "the data is of PostgreSQL {wanted}, and its programs were not found (found: {seen}): install \
                     PostgreSQL {wanted}, or name its folder in engine.bin_dir"
                ))
            }),
            None => found.into_iter().find(|b| b.major >= OLDEST).ok_or_else(|| {
                EngineError::NoBinaries(format!(
                    "PostgreSQL {OLDEST} or later was not found in /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin and PATH \
                     (found: {seen}): install it, or name its folder in engine.bin_dir"
                ))
            }),
        }
    }

    fn at(dir: &Path) -> Result<Self, EngineError> {
        let missing = |what: String| EngineError::NoBinaries(format!("{}: {what}", dir.display()));
        for program in ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"] {
            if !dir.join(program).is_file() {
                return Err(missing(format!("there is no {program} here")));
            }
        }
        let output = std::process::Command::new(dir.join("postgres")).arg("--version").env_clear().output();
        let output = output.map_err(EngineError::io("run", dir.join("postgres")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)", "postgres (PostgreSQL) 18beta1"
        let version = text.split_ascii_whitespace().nth(2).unwrap_or_default();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let major = digits.parse().map_err(|_| missing(format!("can't read the version in {:?}", text.trim())))?;
        Ok(Self { dir: dir.to_owned(), major })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for (parent, prefix, below) in [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")] {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let fitting = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        dirs.extend(fitting.map(|e| e.path().join(below)).filter(|d| d.join("postgres").is_file()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    dirs.extend(std::env::split_paths(&path).filter(|d| d.join("postgres").is_file()));
    dirs
}

/// The major version of the data in a directory; `None` when there is none.
pub(super) fn data_major(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// The environment of everything that is started: nothing of the agent's own, messages in English.
pub(super) fn environment() -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
    [("PATH", path.as_str()), ("LC_ALL", "C"), ("LANG", "C"), ("HOME", "/")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec()
}

/// What a tool or a private run is started as: the database's user, without the agent's priority, gone when the agent is.
pub(super) fn as_child(command: &mut Command, account: &Account) {
    command.env_clear().envs(environment());
    account.child(command);
}

/// Runs one of PostgreSQL's tools as the database's user.
pub(super) struct Tool<'a> {
    pub(super) name: &'static str,
    pub(super) binaries: &'a Binaries,
    pub(super) account: &'a Account,
    pub(super) paths: &'a Paths,
}

/// What a tool said.
pub(super) struct Said {
    pub(super) ok: bool,
    pub(super) text: String,
}

impl Said {
    /// The last lines, for an error.
    pub(super) fn end(&self) -> String {
        let lines: Vec<&str> = self.text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("\n")
    }

    pub(super) fn disk_full(&self) -> bool {
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
    pub(super) async fn run(&self, args: &[String], mut line: impl FnMut(&str) + Send) -> Result<Said, EngineError> {
        let failed = EngineError::io("run", self.binaries.program(self.name));
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
        let mut command = Command::new(self.binaries.program(self.name));
        command.args(args).current_dir(&self.paths.tools).process_group(0);
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
