//! A database's description resolved on one node: what is started, as whom, and how it is asked.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use trine_platform::BoxStream;

use super::container::ContainerSpec;
use super::place::Place;
use super::table::Database;
use crate::EngineError;
use crate::account::Account;
use crate::files::{remove_file, remove_tree};
use crate::guard::GuardCommand;
use crate::guard::holder::{self, Held};
use crate::guard::wire::Order;

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Absolute.
    pub path: PathBuf,
    /// Without the program itself.
    pub args: Vec<String>,
}

/// Where clients' connections reach the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port on a loopback address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Opens a connection. The caller sets the deadline.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(&self) -> io::Result<BoxStream> {
        match self {
            Self::Tcp(at) => {
                let stream = tokio::net::TcpStream::connect(at).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How a database is asked whether it answers.
#[derive(Clone, PartialEq, Eq)]
pub enum How {
    /// It takes a connection; and its answer to `send` (or what it says unasked) holds `expect`.
    Connect {
        /// What is sent. It may hold the password.
        send: Option<String>,
        /// What must come back.
        expect: Option<String>,
    },
    /// A program ends with exit code 0, and what it says holds `expect`.
    Command {
        /// Which.
        program: Program,
        /// What it must say.
        expect: Option<String>,
    },
}

/// Keeps the password out of logs.
impl std::fmt::Debug for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect { expect, .. } => f.debug_struct("Connect").field("expect", expect).finish_non_exhaustive(),
            Self::Command { program, expect } => {
                f.debug_struct("Command").field("program", program).field("expect", expect).finish()
            }
        }
    }
}

/// A check of a database that should be running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How it asks.
    pub how: How,
    /// How long after one try the next one begins.
    pub every: Duration,
    /// How long one try may take.
    pub deadline: Duration,
}

/// When a database that was started is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Tried until it succeeds.
    pub check: Check,
    /// How long after the start that may take: its recovery is within it. 10 minutes by default.
    pub within: Duration,
}

/// When a database that was up hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Tried for ever.
    pub check: Check,
    /// How many failures in a row mean that it hangs. 3 by default.
    pub failures: u32,
}

/// How it is stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What its first process is sent.
    pub signal: Signal,
    /// How long it may take before it is killed. 20 s by default.
    pub patience: Duration,
}

/// A database on a node, ready to be started.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseSpec {
    /// The user that it runs as.
    pub(crate) account: Account,
    /// Where the placeholders lead.
    pub place: Place,
    /// What is started. Of a container the image, and what is given to it to run.
    pub program: Program,
    /// The container that it runs in.
    pub container: Option<ContainerSpec>,
    /// Its whole environment, and that of checks and of `init`.
    pub env: Vec<(String, String)>,
    /// Where it is started: `{run}` by default. Not in the volume, so that a volume that hangs can't keep the guard from
    /// starting it, and from ending it.
    pub workdir: PathBuf,
    /// Where clients' connections reach it.
    pub listen: Listen,
    /// What makes the first data in an empty `{data}`, one after the other; none: the database itself does.
    pub init: Vec<Program>,
    /// How long all of `init` may take.
    pub init_deadline: Duration,
    /// Files of `{data}` that are removed before each start.
    pub remove: Vec<PathBuf>,
    /// When it is up.
    pub ready: Ready,
    /// When it hangs.
    pub health: Health,
    /// How it is stopped.
    pub stop: Stop,
    pub(super) files: Vec<(PathBuf, String)>,
    pub(super) from: Arc<Database>,
}

/// Keeps environment and files, which may hold the password, out of logs.
impl std::fmt::Debug for DatabaseSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut s = f.debug_struct("DatabaseSpec");
        s.field("program", &self.program).field("account", &self.account).field("listen", &self.listen);
        s.finish_non_exhaustive()
    }
}

impl DatabaseSpec {
    /// The same with another data directory: where a first copy is made before it is put in place.
    ///
    /// # Errors
    /// As [`Database::resolve`].
    pub fn with_data(&self, data: &Path) -> Result<Self, EngineError> {
        self.from.resolve(Place { data: data.to_owned(), ..self.place.clone() })
    }

    /// The program's or the image's name, for people.
    #[must_use]
    pub fn name(&self) -> String {
        self.program.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Where it is started, when something says so: a container has a place of its own.
    pub(super) fn own_workdir(&self) -> Option<&Path> {
        Some(self.workdir.as_path()).filter(|w| *w != self.place.run)
    }

    /// Whose the data directory is: user and group.
    pub(crate) fn owner(&self) -> (u32, u32) {
        (self.account.uid, self.account.gid)
    }

    /// Before each start, when no process of the database is left: makes `{run}` and `{log}`, empties `{run}`, writes the
    /// files there, and removes from the data what must not outlive a process.
    ///
    /// # Errors
    /// [`EngineError::Io`], or a folder above that the database's user can't pass.
    pub(crate) fn prepare(&self) -> Result<(), EngineError> {
        let place = &self.place;
        for folder in [&place.run, &place.log] {
            let parent = folder.parent().unwrap_or(&place.dir);
            fs::create_dir_all(parent).map_err(EngineError::io("make the folder", parent))?;
            self.account.let_through(parent)?;
        }
        if self.account.is_other() {
            self.account.let_through(&place.dir)?;
            self.account.can_reach(&place.dir)?;
        }
        remove_tree(&place.run)?;
        for folder in [&place.run, &place.log] {
            self.account.make_dir(folder)?;
        }
        for (path, text) in &self.files {
            self.account.write(path, text.as_bytes())?;
        }
        self.remove.iter().try_for_each(|path| remove_file(path))
    }

    /// What the guard is to run. `run` and `log` are the agent's own: the guard's socket and lock, the database's output.
    pub(crate) fn order(&self, run: &Path, log: PathBuf) -> Order {
        Order {
            socket: run.join("guard.sock"),
            lock: run.join("guard.lock"),
            log,
            data: self.place.data.clone(),
            workdir: Some(self.workdir.clone()),
            account: self.account.change_to(),
            program: self.program.path.clone(),
            args: self.program.args.clone(),
            env: self.env.clone(),
            cage: None,
        }
    }

    /// The same for a container: the holder is run, as the agent's own user.
    pub(crate) fn order_to_hold(&self, held: &Held, guard: &GuardCommand, run: &Path, log: PathBuf) -> Order {
        let mut args = guard.args.clone();
        args.push(holder::WORD.to_owned());
        Order {
            workdir: Some("/".into()),
            account: None,
            program: guard.program.clone(),
            args,
            env: vec![(holder::ORDER.to_owned(), serde_json::to_string(held).unwrap_or_default())],
            cage: Some(held.cage.clone()),
            ..self.order(run, log)
        }
    }

    /// Where processes of the database work, to find those that have lost their guard.
    pub(crate) fn workplaces(&self) -> Vec<PathBuf> {
        let mut all = vec![self.place.data.clone(), self.place.run.clone()];
        // Nobody's shell is mistaken for a database's process because somebody chose `/` as its working directory.
        if self.workdir.starts_with(&self.place.dir) && self.workdir != self.place.dir {
            all.push(self.workdir.clone());
        }
        all
    }
}
