//! Finding and ending processes: all descendants of this one, or all that work in a folder.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};

/// Ends every descendant of this process and waits until none is left. `first` goes first: the database's first process,
/// which must not see its children die and start anew. Returns how `first` ended.
///
/// Descendants whose parent dies become children of this process (it is their subreaper), so the loop ends only when
/// the last of them is gone, whatever they forked in between.
pub(super) fn end_all(first: Pid) -> Option<WaitStatus> {
    let _ = kill_process(first, Signal::KILL);
    let mut ending = None;
    loop {
        kill_below(std::process::id());
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == first => ending = Some(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ending,
        }
    }
}

/// Sends SIGKILL to all of them, without waiting.
pub(super) fn kill_all(first: Pid) {
    let _ = kill_process(first, Signal::KILL);
    kill_below(std::process::id());
}

fn kill_below(parent: u32) {
    for child in children(parent) {
        kill_below(child);
        if let Some(pid) = pid(child) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The children of a process's first thread; with a kernel that does not list them, from everybody's parent.
pub(crate) fn children(of: u32) -> Vec<u32> {
    match fs::read_to_string(format!("/proc/{of}/task/{of}/children")) {
        Ok(list) => list.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect(),
        Err(_) => all_processes().into_iter().filter(|&p| parent(p) == Some(of)).collect(),
    }
}

fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

pub(super) fn all_processes() -> Vec<u32> {
    let Ok(list) = fs::read_dir("/proc") else { return Vec::new() };
    list.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// Which of the processes that work in a database's folders are its.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// Those that run one of PostgreSQL's programs.
    Postgres,
    /// Those that run one of MariaDB's or MySQL's.
    MariaDb,
    /// Whatever program: every process without a terminal. A person's shell there, and what it runs, has one.
    Anybody,
}

/// The database's processes whose working directory is one of `folders` or below it.
///
/// The folders may be on a file system that hangs or is dead: no path is looked up, the kernel is only asked for names
/// (a link of `/proc` is read without a look at what it leads to). Below a mount that was taken off lazily they are named
/// from its own root, and are not found here any more: sweep first.
pub(crate) fn working_in(folders: &[PathBuf], whose: Whose) -> Vec<u32> {
    let own = std::process::id();
    let inside = |p: &u32| {
        let Ok(at) = fs::read_link(format!("/proc/{p}/cwd")) else { return false };
        *p != own && folders.iter().any(|f| at.starts_with(f)) && whose.has(*p)
    };
    all_processes().into_iter().filter(inside).collect()
}

impl Whose {
    fn has(self, process: u32) -> bool {
        // A process that is being torn down has lost its memory, and with it its program, before the kernel closes its
        // files and sockets and then takes its working directory away: until then it is not gone.
        let Ok(program) = fs::read_link(format!("/proc/{process}/exe")) else { return true };
        match self {
            Self::Postgres => {
                let name = name_of(&program);
                name.starts_with("postgres") || name.starts_with("pg_") || name.starts_with("initdb")
            }
            Self::MariaDb => {
                let name = name_of(&program);
                ["mariadb", "mysql", "mbstream"].iter().any(|prefix| name.starts_with(prefix))
            }
            Self::Anybody => terminal(process) == Some(0),
        }
    }
}

fn name_of(program: &std::path::Path) -> String {
    program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The number of a process's terminal; 0 without one.
fn terminal(process: u32) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Ends the processes that work in `folders` and waits until none is left, or `patience` is over. Blocks.
///
/// A process without a parent that cares stays as a zombie for a moment; it has no working directory any more.
pub(crate) fn sweep(folders: &[PathBuf], whose: Whose, patience: Duration) -> Result<usize, Vec<u32>> {
    let mut ended = 0;
    let mut waited = Duration::ZERO;
    loop {
        let left = end_working_in(folders, whose);
        if left.is_empty() {
            return Ok(ended);
        }
        if waited >= patience {
            return Err(left);
        }
        ended = ended.max(left.len());
        std::thread::sleep(STEP);
        waited += STEP;
    }
}

/// Ends the database's processes that work in `folders`, without waiting; says which there were.
pub(crate) fn end_working_in(folders: &[PathBuf], whose: Whose) -> Vec<u32> {
    let found = working_in(folders, whose);
    for pid in found.iter().copied().filter_map(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
    found
}

const STEP: Duration = Duration::from_millis(2);

/// A process's number as the system calls take it.
pub(crate) fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// What a process calls itself now.
pub(crate) fn title(process: u32) -> Option<String> {
    let raw = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&raw);
    Some(text.trim_end_matches(['\0', ' ']).replace('\0', " "))
}

/// How often a process has gone to sleep by itself: it has been awake between two readings that differ.
pub(crate) fn sleeps(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// The kernel takes a large process's memory first, which takes a while, and closes its files afterwards.
    #[test]
    fn a_process_that_is_being_torn_down_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let program = folder.join("postgres");
        fs::copy("/usr/bin/tail", &program).unwrap();
        let mut tail = Command::new(&program);
        tail.args(["-c", "1000000000"]).current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        // Another test's child may have inherited the program's file while it was written, for a moment.
        let mut child = loop {
            match tail.spawn() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::sleep(STEP),
                spawned => break spawned.unwrap(),
            }
        };
        // `tail` keeps what may become its last bytes.
        let megabyte = vec![0; 1 << 20];
        for _ in 0..400 {
            child.stdin.as_mut().unwrap().write_all(&megabyte).unwrap();
        }
        assert_eq!(sweep(&[folder], Whose::Postgres, Duration::from_secs(10)), Ok(1));
        assert!(fs::read_link(format!("/proc/{}/cwd", child.id())).is_err(), "it still has its files");
        child.wait().unwrap();
    }

    #[test]
    fn a_database_of_another_kind_may_be_any_program() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let mut child = Command::new("sleep").arg("60").current_dir(&folder).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        // The tests may have been started from a terminal, which the child has then, too.
        let has_none = terminal(pid) == Some(0);
        assert_eq!(working_in(std::slice::from_ref(&folder), Whose::Postgres), Vec::<u32>::new());
        assert_eq!(working_in(&[folder.join("below")], Whose::Anybody), Vec::<u32>::new());
        if has_none {
            assert_eq!(sweep(&[folder], Whose::Anybody, Duration::from_secs(10)), Ok(1));
        } else {
            child.kill().unwrap();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_person_at_a_terminal_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        // `script` runs a shell at a terminal of its own.
        let mut shell = Command::new("script");
        shell.args(["-qfc", "echo there; exec sleep 60", "/dev/null"]).current_dir(&folder);
        let Ok(mut script) = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() else { return };
        let mut said = [0; 5];
        std::io::Read::read_exact(script.stdout.as_mut().unwrap(), &mut said).unwrap();
        let inside = children(script.id());
        let found = working_in(&[folder], Whose::Anybody);
        assert!(!inside.is_empty() && inside.iter().all(|p| !found.contains(p)), "{inside:?} {found:?}");
        for pid in inside.into_iter().filter_map(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = script.kill();
        script.wait().unwrap();
    }
}
