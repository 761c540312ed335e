//! The processes of a node, as /proc shows them.
//!
//! Only a program that is known to be a part of a node is ever signalled: a shell that stands in the cluster's folder, or
//! an editor that has one of its files open, is none. Signals go through a pidfd after the start time was compared, so a
//! number that has been given to another process meanwhile is never hit.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use trine_agent::CONFIG_FILE;

/// A process, when it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// When it started, in clock ticks since boot: with the pid, who it is.
    pub(crate) start: u64,
    /// A zombie none of whose threads is left.
    gone: bool,
    /// It has a terminal: a person's.
    terminal: bool,
    program: String,
    args: Vec<Vec<u8>>,
    cwd: PathBuf,
}

/// What a process is to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Agent,
    Guard,
    Database,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Guard => "guard",
            Self::Database => "database",
        })
    }
}

impl Process {
    /// The process of this number, if there is one that is not gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::read(pid).filter(|p| !p.gone)
    }

    /// Is it still the same process, and holds what it had open?
    pub(crate) fn is_there(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// It was killed, and is about to be gone.
    pub(crate) fn is_ending(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.pid)).is_ok_and(|status| ending(&status))
    }

    fn read(pid: u32) -> Option<Self> {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(base.join("stat")).ok()?;
        // The name stands in parentheses and may hold anything.
        let (before, after) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let exe = fs::read_link(base.join("exe")).ok();
        let exe = exe.as_deref().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        let comm = before.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default();
        let program = exe.unwrap_or(comm).trim_end_matches(" (deleted)").to_owned();
        let cmdline = fs::read(base.join("cmdline")).unwrap_or_default();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            gone: gone(&fields),
            terminal: fields.get(4).is_some_and(|tty| *tty != "0"),
            program,
            args: cmdline.split(|b| *b == 0).map(<[u8]>::to_vec).collect(),
            cwd: fs::read_link(base.join("cwd")).unwrap_or_default(),
        })
    }

    /// Its program, for people.
    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// What part of the node in `dir` it is by itself; its children are not looked at.
    fn part(&self, dir: &Path) -> Option<Part> {
        let word = self.args.get(1).map(Vec::as_slice).unwrap_or_default();
        if self.program == "trine" || self.is_this_program() {
            let named = self.args.iter().any(|a| names(a, dir));
            return match word {
                b"agent" if named => Some(Part::Agent),
                b"guard" if named => Some(Part::Guard),
                _ => None,
            };
        }
        let of_a_database =
            matches!(self.program.as_str(), "postgres" | "postmaster" | "initdb" | "mariadbd" | "mysqld" | "mbstream")
                || ["pg_", "mariadb-"].iter().any(|prefix| self.program.starts_with(prefix));
        let here = self.cwd.starts_with(dir) || self.args.iter().any(|a| names(a, dir));
        // Of a database that trine does not know: whatever works in its folders, but for a person's shell. (A file in the
        // node's folder says which, no look at the data, whose mount may hang.)
        let of_any =
            || !self.terminal && WORKPLACES.iter().any(|f| self.cwd.starts_with(dir.join(f))) && is_volume(dir);
        ((of_a_database && here) || of_any()).then_some(Part::Database)
    }

    /// The same file as this very program, under whatever name.
    fn is_this_program(&self) -> bool {
        let own = std::env::current_exe().ok();
        own.as_deref().and_then(Path::file_name).is_some_and(|n| n == OsStr::new(&self.program))
    }

    /// Sends it a signal, if it is still the same process. False: it is gone, or not ours to signal.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // Compared after the descriptor was opened: it can't become another process from here on.
        let same = Self::read(self.pid).is_some_and(|now| now.start == self.start);
        same && pidfd_send_signal(&fd, signal).is_ok()
    }
}

/// Where the processes of a volume's database work, below the node's folder.
const WORKPLACES: [&str; 2] = ["data", "run/db"];

/// Is the node's database one that trine does not know?
fn is_volume(dir: &Path) -> bool {
    let text = fs::read_to_string(dir.join(CONFIG_FILE)).unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    table.get("engine").and_then(|e| e.get("kind")).and_then(toml::Value::as_str) == Some("volume")
}

/// What the fields of /proc/PID/stat from the state on say. A killed process is a zombie as soon as its first thread has
/// ended, while the others still hold its files and ports; it is gone with the last of them (field 20 of the line).
fn gone(fields: &[&str]) -> bool {
    let threads = fields.get(17).and_then(|n| n.parse().ok()).unwrap_or(1);
    matches!(fields.first(), Some(&("Z" | "X"))) && threads <= 1
}

/// What /proc/PID/status says: the first thread has ended, or a SIGKILL waits for one of them.
fn ending(status: &str) -> bool {
    const KILL: u64 = 1 << (9 - 1);
    status.lines().filter_map(|l| l.split_once(':')).any(|(name, value)| match name {
        "State" => value.trim().starts_with(['Z', 'X']),
        "SigPnd" | "ShdPnd" => u64::from_str_radix(value.trim(), 16).is_ok_and(|pending| pending & KILL != 0),
        _ => false,
    })
}

/// Does an argument name the folder, or a path below it? (`/x/n1` is no part of `/x/n10`.)
fn names(arg: &[u8], dir: &Path) -> bool {
    let dir = dir.as_os_str().as_bytes();
    let mut rest = arg;
    while let Some(at) = rest.windows(dir.len()).position(|w| w == dir) {
        let after = rest.get(at + dir.len()..).unwrap_or_default();
        if matches!(after.first(), None | Some(b'/' | b'"' | b'\'' | b',')) {
            return true;
        }
        rest = after;
    }
    false
}

/// Every process of the machine that this user can see.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::read).filter(|p| !p.gone).collect()
}

/// The processes of the node in `dir`: its agent, its guard, its database, and whatever these have started.
pub(crate) fn of_node(dir: &Path) -> Vec<(Process, Part)> {
    of_node_among(dir, &all())
}

fn of_node_among(dir: &Path, all: &[Process]) -> Vec<(Process, Part)> {
    let own = std::process::id();
    let mut found: Vec<(Process, Part)> =
        all.iter().filter(|p| p.pid != own).filter_map(|p| Some((p.clone(), p.part(dir)?))).collect();
    let mut pids: BTreeSet<u32> = found.iter().map(|(p, _)| p.pid).collect();
    loop {
        let children: Vec<&Process> =
            all.iter().filter(|p| pids.contains(&p.parent) && !pids.contains(&p.pid) && p.pid != own).collect();
        if children.is_empty() {
            break;
        }
        for child in children {
            pids.insert(child.pid);
            found.push((child.clone(), Part::Database));
        }
    }
    found.sort_by_key(|(_, part)| *part);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, program: &str, args: &[&str], cwd: &str) -> Process {
        let args = args.iter().map(|a| a.as_bytes().to_vec()).collect();
        Process { pid, parent, start: 1, gone: false, terminal: false, program: program.into(), args, cwd: cwd.into() }
    }

    #[test]
    fn a_zombie_is_there_as_long_as_a_thread_of_it_is() {
        let stat =
            |state, threads| format!("{state} 1 9 9 0 -1 4227084 3022 6497 16 0 3 1 2 2 20 0 {threads} 0 1315447");
        let gone = |state, threads| gone(&stat(state, threads).split(' ').collect::<Vec<_>>());
        assert!(gone("Z", 1));
        assert!(!gone("Z", 2));
        assert!(!gone("S", 1));
    }

    #[test]
    fn a_killed_process_is_ending() {
        let status =
            |state, pending, shared| format!("Name:\tx\nState:\t{state}\nSigPnd:\t{pending}\nShdPnd:\t{shared}\n");
        assert!(ending(&status("Z (zombie)", "0000000000000000", "0000000000000000")));
        assert!(ending(&status("D (disk sleep)", "0000000000000100", "0000000000000000")));
        assert!(ending(&status("D (disk sleep)", "0000000000000000", "0000000000000100")));
        assert!(!ending(&status("S (sleeping)", "0000000000004000", "0000000000000200")));
    }

    #[test]
    fn only_parts_of_the_node_are_found() {
        let dir = Path::new("/c/n1");
        let all = [
            process(10, 1, "trine", &["trine", "agent", "--config", "/c/n1/trine.toml"], "/c/n1"),
            process(11, 10, "trine", &["trine", "guard", "/c/n1/data"], "/"),
            process(12, 11, "postgres", &["postgres", "-D", "/c/n1/data"], "/c/n1/data"),
            process(13, 12, "postgres", &["postgres: walwriter"], "/c/n1/data"),
            process(14, 10, "sh", &["sh", "-c", "hook"], "/"),
            process(20, 1, "bash", &["bash"], "/c/n1"),
            process(21, 20, "trine", &["trine", "local", "down", "--dir", "/c/n1"], "/c/n1"),
            process(22, 20, "tail", &["tail", "-f", "/c/n1/log/agent.log"], "/c/n1"),
            process(23, 1, "trine", &["trine", "agent", "--config", "/c/n10/trine.toml"], "/"),
            process(24, 1, "postgres", &["postgres"], "/c/n10/data"),
        ];
        let mut found: Vec<u32> = of_node_among(dir, &all).iter().map(|(p, _)| p.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12, 13, 14]);
        assert_eq!(of_node_among(dir, &all)[0].1, Part::Agent);
    }

    #[test]
    fn whatever_works_in_a_volume_without_a_terminal_is_its_database() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data/x");
        let text = data.to_string_lossy();
        let all = [
            process(11, 1, "mydb", &["mydb"], &text),
            process(12, 1, "mydb", &["mydb"], &dir.path().join("log").to_string_lossy()),
            Process { terminal: true, ..process(13, 1, "vi", &["vi"], &text) },
        ];
        let found = || of_node_among(dir.path(), &all).iter().map(|(p, _)| p.pid).collect::<Vec<_>>();
        assert_eq!(found(), Vec::<u32>::new());
        fs::write(dir.path().join(CONFIG_FILE), "[engine]\nkind = \"volume\"\n").unwrap();
        assert_eq!(found(), [11]);
    }

    #[test]
    fn a_process_of_another_start_time_is_not_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut found = Process::of(child.id()).unwrap();
        found.start += 1;
        assert!(!found.signal(Signal::KILL));
        assert!(child.try_wait().unwrap().is_none());
        found.start -= 1;
        assert!(found.signal(Signal::KILL));
        child.wait().unwrap();
    }
}
