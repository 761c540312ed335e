//! A database in a container: which processes are its, and how they are ended without the container daemon.
//!
//! The daemon (Docker, Podman) is the parent of a container's processes, and may hang or be gone when the lease ends. So the
//! guard does not ask it for anything. Two things make "nothing of it runs, nor will" certain all the same:
//!
//! 1. **Its processes are in cgroups that are named by the container's number**, which the daemon gave when the container was
//!    *created*, before it was started. They are found in `/proc/*/cgroup`, from the first moment on: a runtime puts a new
//!    container's first process there before it lets it do anything. SIGKILL to the first one of a process namespace ends
//!    all of them.
//! 2. **A gate closes the window of a start that is under way** (asked for, and the daemon hangs, or is slow): an empty
//!    folder that is mounted into the container, and that the guard removes. A start either has its process in the cgroup
//!    already, where 1. finds it after the gate was removed, or has not come to its mounts yet, and fails there for ever. It
//!    needs no cooperation of the image (a waiting entry point would need a program in it), nor of the daemon (to pause a
//!    container that was just started leaves a moment in between).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use super::descendants::{all_processes, pid};

/// How long after one look the next one comes.
const STEP: Duration = Duration::from_millis(2);

/// A container that was created here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Cage {
    /// The daemon's number for it: 64 hexadecimal digits.
    pub(crate) id: String,
    /// The folder without which it can't be started.
    pub(crate) gate: PathBuf,
}

impl Cage {
    /// Whether a process is in one of its cgroups.
    pub(crate) fn holds(&self, process: u32) -> bool {
        let Ok(groups) = fs::read_to_string(format!("/proc/{process}/cgroup")) else { return false };
        groups.lines().any(|line| is_named(line, &self.id))
    }

    /// Makes it impossible to start it from now on.
    fn shut(&self) -> bool {
        match fs::remove_dir(&self.gate) {
            Ok(()) => true,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// Knows a container's processes, and ends them.
///
/// Those that it has seen once it keeps until they are gone: with cgroup v1 a process that exits is in no cgroup any more
/// *before* it lets go of its files and sockets. The end of the first one says that all of its namespace are gone.
#[derive(Debug)]
pub(crate) struct Keeper {
    cage: Cage,
    seen: Mutex<BTreeMap<u32, OwnedFd>>,
}

impl Keeper {
    pub(crate) fn new(cage: Cage) -> Self {
        Self { cage, seen: Mutex::default() }
    }

    /// Its processes now; those that are not quite gone, too.
    pub(crate) fn left(&self) -> Vec<u32> {
        self.look().keys().copied().collect()
    }

    /// Sends SIGKILL to all of its processes, without waiting; says which there were.
    pub(crate) fn kill(&self) -> Vec<u32> {
        let seen = self.look();
        for (&process, fd) in seen.iter() {
            let _ = pidfd_send_signal(fd, Signal::KILL);
            thaw(process);
        }
        seen.keys().copied().collect()
    }

    /// Ends it for good: nothing of it is left when this returns, and it can't be started any more. Blocks; an error after
    /// `patience`: which processes are left, or none when only the gate could not be removed.
    pub(crate) fn end(&self, patience: Duration) -> Result<usize, Vec<u32>> {
        let (mut ended, mut waited) = (0, Duration::ZERO);
        loop {
            // What runs goes first: the gate may be on a disk that hangs.
            ended = ended.max(self.kill().len());
            let shut = self.cage.shut();
            let left = self.kill();
            if shut && left.is_empty() {
                return Ok(ended);
            }
            if waited >= patience {
                return Err(left);
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }

    fn look(&self) -> MutexGuard<'_, BTreeMap<u32, OwnedFd>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, fd| !has_ended(fd));
        for process in all_processes() {
            if seen.contains_key(&process) || !self.cage.holds(process) {
                continue;
            }
            let Some(fd) = pid(process).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok()) else { continue };
            // Looked at again: the number may have become another's before there was a descriptor for it.
            if self.cage.holds(process) && !has_ended(&fd) {
                seen.insert(process, fd);
            }
        }
        seen
    }
}

/// Whether the last of a process's threads has let go of everything.
fn has_ended(process: &OwnedFd) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&at_once)), Ok(1..))
}

/// Makes a gate of a new name below `/run` (or what an ordinary user has instead), in memory, so that a disk that hangs can't
/// keep the guard from removing it; in `otherwise` when there is no such place.
pub(crate) fn new_gate(otherwise: &Path) -> io::Result<PathBuf> {
    let root = rustix::process::geteuid().is_root();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !root).map(PathBuf::from);
    let memory = if root { Some(PathBuf::from("/run")) } else { runtime };
    let places = memory.into_iter().chain([otherwise.to_owned()]).map(|p| p.join("trine-gates"));
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in places {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let gate = place.join(format!("{}-{}-{}", std::process::id(), t.tv_sec, t.tv_nsec));
        match fs::create_dir_all(&place).and_then(|()| fs::create_dir(&gate)) {
            Ok(()) => return Ok(gate),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Is the cgroup of this line the container's? `…/ID`, `…/docker-ID.scope`, `…/libpod-ID.scope/container`; not that of
/// Podman's own process beside it, `libpod-conmon-ID.scope`.
fn is_named(line: &str, id: &str) -> bool {
    id.len() >= 32 && line.split('/').any(|part| part.contains(id) && !part.contains("conmon"))
}

/// With cgroup v1 a paused container's processes do not even take SIGKILL before they go on.
fn thaw(process: u32) {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let path = |l: &str| l.split_once(":freezer:").map(|(_, path)| path.to_owned());
    if let Some(path) = groups.lines().find_map(path) {
        let _ = fs::write(format!("/sys/fs/cgroup/freezer{path}/freezer.state"), "THAWED");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_docker_and_podman_are_known_and_no_others() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for line in ["4:memory:/docker/ID", "0::/system.slice/docker-ID.scope", "0::/x/libpod-ID.scope/container"] {
            assert!(is_named(&line.replace("ID", id), id), "{line}");
        }
        for line in ["0::/", "0::/x/libpod-conmon-ID.scope", "0::/docker/0123"] {
            assert!(!is_named(&line.replace("ID", id), id), "{line}");
        }
        assert!(!is_named("0::/docker/abc", ""), "a container without a number holds nobody");
    }

    #[test]
    fn a_gate_is_shut_once_and_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let gate = new_gate(dir.path()).unwrap();
        let cage = Keeper::new(Cage { id: "f".repeat(64), gate: gate.clone() });
        assert_eq!(cage.end(Duration::ZERO), Ok(0));
        assert!(!gate.exists());
        assert_eq!(cage.end(Duration::ZERO), Ok(0));
    }
}
