//! A local cluster's folder, and starting its agents.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use trine_agent::{CONFIG_FILE, Config};
use trine_protocol::NodeName;

use crate::create::cant;
use crate::failure::{Done, Exit, Failure, chain};

use super::processes::{self, Part, Process};

/// What makes a folder a cluster's.
const RECORD: &str = "cluster.json";

/// What `local up` chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) cluster: String,
    pub(crate) cluster_id: String,
    pub(crate) engine: String,
    pub(crate) nodes: Vec<NodeName>,
    /// False while the files are being made: no agent has run yet.
    pub(crate) complete: bool,
    /// The version that made it.
    pub(crate) version: String,
}

/// A local cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
    pub(crate) nodes: Vec<Node>,
}

/// One of its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) dir: PathBuf,
}

/// An agent that was just started.
pub(crate) struct Started {
    pub(crate) node: Node,
    child: Child,
    /// Where in its log it began.
    log_from: u64,
}

/// Only one command at a time may start and stop things. Held until dropped.
pub(crate) struct Lock {
    _folder: File,
}

/// The path with `..` and links resolved as far as it exists, since processes are recognised by it.
pub(crate) fn absolute(dir: &Path) -> Done<PathBuf> {
    let dir = std::path::absolute(dir).map_err(|e| cant("use", dir, &e))?;
    let mut missing = Vec::new();
    let mut there = dir.as_path();
    loop {
        match fs::canonicalize(there) {
            Ok(found) => return Ok(missing.iter().rev().fold(found, |path, name| path.join(name))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(cant("use", there, &e)),
        }
        match (there.file_name(), there.parent()) {
            (Some(name), Some(parent)) => {
                missing.push(name);
                there = parent;
            }
            _ => return Ok(dir),
        }
    }
}

impl Record {
    /// The record in a folder; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> Done<Option<Self>> {
        let path = dir.join(RECORD);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(cant("read", &path, &e)),
        };
        let record = serde_json::from_str(&text);
        record.map(Some).map_err(|e| Failure::failed(format!("{} is damaged: {e}", path.display())))
    }

    /// Writes it, whole.
    pub(crate) fn write(&self, dir: &Path) -> Done {
        let path = dir.join(RECORD);
        let fresh = dir.join(format!("{RECORD}.new"));
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|e| cant("write", &path, &e))
    }
}

impl Cluster {
    /// The cluster in a folder.
    pub(crate) fn open(dir: &Path) -> Done<Self> {
        let dir = absolute(dir)?;
        match Record::read(&dir)? {
            Some(record) if record.complete => Ok(Self::of(dir, record)),
            Some(_) => Err(Failure::failed(format!("the cluster in {} was never completely made", dir.display()))
                .hint("`trine local up` makes it anew")),
            None => {
                let what = if dir.exists() { "holds no trine cluster" } else { "does not exist" };
                Err(Failure::wrong_use(format!("{} {what}", dir.display()))
                    .hint("use the folder that was given to `trine local up`"))
            }
        }
    }

    /// The cluster that a record describes.
    pub(crate) fn of(dir: PathBuf, record: Record) -> Self {
        let nodes = record.nodes.iter().map(|n| Node { name: n.clone(), dir: dir.join(n.as_str()) }).collect();
        Self { dir, record, nodes }
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &NodeName) -> Done<&Node> {
        self.nodes.iter().find(|n| n.name == *name).ok_or_else(|| {
            let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
            Failure::wrong_use(format!("there is no node {name}; use one of {}", names.join(", ")))
        })
    }

    /// Keeps other commands from starting and stopping things meanwhile.
    pub(crate) fn lock(&self) -> Done<Lock> {
        let folder = File::open(&self.dir).map_err(|e| cant("open", &self.dir, &e))?;
        rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| cant("lock", &self.dir, &e.into()))?;
        Ok(Lock { _folder: folder })
    }

    /// Every process of every node.
    pub(crate) fn processes(&self) -> Vec<(Process, Part)> {
        self.nodes.iter().flat_map(|n| processes::of_node(&n.dir)).collect()
    }
}

impl Node {
    /// Its configuration.
    pub(crate) fn config(&self) -> Done<Config> {
        Ok(Config::load(&self.dir.join(CONFIG_FILE))?)
    }

    /// Its agent's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log/agent.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("run/agent.pid")
    }

    /// Its agent, if it runs: the one that the pid file names, or else any that has this configuration.
    pub(crate) fn agent(&self) -> Option<Process> {
        let recorded = fs::read_to_string(self.pid_file()).ok().and_then(|text| {
            let (pid, start) = text.trim().split_once(' ')?;
            let process = Process::of(pid.parse().ok()?)?;
            (process.start == start.parse::<u64>().ok()?).then_some(process)
        });
        recorded.or_else(|| {
            let all = processes::of_node(&self.dir);
            all.into_iter().find(|(_, part)| *part == Part::Agent).map(|(p, _)| p)
        })
    }

    /// Starts its agent in a session of its own, so that it outlives the shell.
    pub(crate) fn start(&self) -> Done<Started> {
        for sub in ["log", "run"] {
            let path = self.dir.join(sub);
            fs::create_dir_all(&path).map_err(|e| cant("create", &path, &e))?;
        }
        let log = self.log();
        trine_platform::put_aside(&log).map_err(|e| cant("move", &log, &e))?;
        let open = OpenOptions::new().create(true).append(true).open(&log);
        let out = open.map_err(|e| cant("open", &log, &e))?;
        let log_from = out.metadata().map_or(0, |m| m.len());
        let err = out.try_clone().map_err(|e| cant("open", &log, &e))?;
        let program = std::env::current_exe().map_err(|e| Failure::because("can't find this program", &e))?;
        close_the_callers_files();
        let mut command = Command::new(&program);
        command.arg("agent").arg("--config").arg(self.dir.join(CONFIG_FILE)).arg("--session");
        command.stdin(Stdio::null()).stdout(out).stderr(err).current_dir(&self.dir);
        // The caller's PGHOST, PGDATA, … must not lead the database's programs astray.
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(|e| Failure::because(format!("can't start {}", program.display()), &e))?;
        if let Some(process) = Process::of(child.id()) {
            let path = self.pid_file();
            fs::write(&path, format!("{} {}\n", process.pid, process.start)).map_err(|e| cant("write", &path, &e))?;
        }
        Ok(Started { node: self.clone(), child, log_from })
    }

    /// Forgets the agent that has ended.
    pub(crate) fn forget_agent(&self) {
        let _ = fs::remove_file(self.pid_file());
    }
}

impl Started {
    /// Why it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Failure> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = self.node.log();
        let reason = self.reason().unwrap_or_else(|| format!("it says nothing ({status})"));
        let message = format!("the agent of {} has ended: {reason}", self.node.name);
        if status.code() == Some(Exit::WrongUse as i32) {
            return Some(Failure::wrong_use(message));
        }
        Some(Failure::failed(message).hint(format!("its log is {}", log.display())))
    }

    /// It has ended by itself, and said why: no crash.
    pub(crate) fn has_refused(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if status.code().is_some_and(|c| c != 0))
    }

    /// The last thing in the log that looks like a reason.
    fn reason(&self) -> Option<String> {
        let mut file = File::open(self.node.log()).ok()?;
        file.seek(SeekFrom::Start(self.log_from)).ok()?;
        let mut bytes = Vec::new();
        file.take(4 << 20).read_to_end(&mut bytes).ok()?;
        reason_in(&String::from_utf8_lossy(&bytes))
    }
}

fn reason_in(log: &str) -> Option<String> {
    let last = |wanted: &dyn Fn(&str) -> bool| log.lines().rev().find(|l| wanted(l));
    let said = last(&|l| l.starts_with("trine: ")).map(|l| l.trim_start_matches("trine: "));
    let logged = || last(&|l| l.contains(" ERROR ")).and_then(|l| l.split_once(" ERROR ")).map(|(_, text)| text.trim());
    said.or_else(logged).or_else(|| last(&|l| !l.trim().is_empty())).map(str::to_owned)
}

/// Makes every file that the caller has left open, beyond the three standard ones, close in programs started from here:
/// an agent that outlives its caller must not keep the caller's pipes and locks open.
#[allow(unsafe_code)]
fn close_the_callers_files() {
    // SAFETY: it marks file descriptors close-on-exec, and touches no memory. Those that this program has opened itself
    // are so already.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
    }
}

/// The token of a node's API.
pub(crate) fn token_of(node: &Node) -> Done<String> {
    let path = node.dir.join(trine_agent::SECRETS_FILE);
    trine_agent::Secrets::load(&path).map(|s| s.api_token).map_err(|e| Failure::failed(chain(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_what_the_agent_said_last() {
        let log = "2026 INFO x: starting\n2026 ERROR x: disk gone\ntrine: can't listen on 127.0.0.1:1\n  hint: y\n";
        assert_eq!(reason_in(log).unwrap(), "can't listen on 127.0.0.1:1");
        assert_eq!(reason_in("a\n2026 ERROR trine: disk gone\nb\n").unwrap(), "trine: disk gone");
        assert_eq!(reason_in("only this\n\n").unwrap(), "only this");
        assert_eq!(reason_in(""), None);
    }
}
