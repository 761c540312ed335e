//! Processes as /proc shows them: whose they are, and signals to exactly one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A process, when it was looked at.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its command line, joined by spaces; PostgreSQL's processes put their title here.
    pub title: String,
    /// Where it stands. PostgreSQL's processes stand in their data directory.
    pub cwd: PathBuf,
    /// `R`, `S`, `D`, `T`, `Z`.
    pub state: char,
    /// Its threads that have not ended. A killed process is `Z` with its first thread, and holds its files until the last.
    pub threads: u32,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(base.join("stat")).ok()?;
        // The name stands in parentheses and may hold anything.
        let mut after_name = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
        let state = after_name.next()?.chars().next()?;
        let parent = after_name.next()?.parse().ok()?;
        let threads = after_name.nth(15)?.parse().ok()?;
        let title = String::from_utf8_lossy(&fs::read(base.join("cmdline")).ok()?).replace('\0', " ").trim().to_owned();
        let cwd = fs::read_link(base.join("cwd")).unwrap_or_default();
        Some(Self { pid, parent, title, cwd, state, threads })
    }

    /// Is it still there, and no zombie that has nothing left?
    #[must_use]
    pub fn alive(pid: u32) -> bool {
        Self::read(pid).is_some_and(|p| !p.gone())
    }

    fn gone(&self) -> bool {
        self.state == 'Z' && self.threads <= 1
    }

    /// Is it a part of the node whose directory this is? Its agent, guard, database, or a tool that these run.
    #[must_use]
    pub fn belongs_to(&self, node_dir: &Path) -> bool {
        let dir = node_dir.to_string_lossy();
        let named = self.title.match_indices(&*dir).any(|(at, _)| {
            // n1's directory is no part of n10's.
            self.title.get(at + dir.len()..).is_none_or(|rest| rest.is_empty() || rest.starts_with(['/', ' ']))
        });
        named || self.cwd.starts_with(node_dir)
    }
}

/// Every process of this machine that can be read.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(Process::read).collect()
}

/// The process, its children, theirs, and so on.
#[must_use]
pub fn tree(root: u32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = all.iter().filter(|p| p.pid == root).cloned().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|p| p.pid) {
        found.extend(all.iter().filter(|p| p.parent == parent && p.pid != root).cloned());
        next += 1;
    }
    found
}

/// The processor time that a process has used, in seconds.
///
/// # Errors
/// It is gone.
pub fn processor_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
    // Fields 14 and 15 of the line, in ticks of 10 ms (USER_HZ); the state after the name is the 3rd.
    let ticks: u32 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u32>().ok()).sum();
    Ok(f64::from(ticks) / 100.0)
}

/// Sends a signal. A process that is gone already is no error.
///
/// # Errors
/// It may not be signalled.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let target =
        i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process number"))?;
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("{signal:?} to process {pid}")),
    }
}

/// Kills it with SIGKILL.
///
/// # Errors
/// It may not be killed.
pub fn kill(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL)
}

/// Kills them all with SIGKILL, at once.
///
/// # Errors
/// One may not be signalled.
pub fn kill_all(processes: &[Process]) -> Result<()> {
    processes.iter().try_for_each(|p| kill(p.pid))
}

/// What this process is called in names of things that must not clash with another run's.
#[must_use]
pub fn own_id() -> u32 {
    std::process::id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_node_whose_directory_it_names() {
        let p = |title: &str, cwd: &str| Process {
            pid: 1,
            parent: 0,
            title: title.into(),
            cwd: cwd.into(),
            state: 'S',
            threads: 1,
        };
        let n1 = Path::new("/t/n1");
        assert!(p("trine agent --config /t/n1/trine.toml", "/").belongs_to(n1));
        assert!(p("postgres: n1: walsender", "/t/n1/data").belongs_to(n1));
        assert!(!p("trine agent --config /t/n10/trine.toml", "/t/n10").belongs_to(n1));
    }

    #[test]
    fn this_process_is_found() {
        assert!(Process::alive(own_id()));
        assert!(tree(own_id()).iter().any(|p| p.pid == own_id()));
    }
}
