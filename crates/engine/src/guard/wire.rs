//! What the agent and a guard say to each other: one JSON object a line over a unix socket.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cage::Cage;

/// From the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToGuard {
    /// End the database at this moment (nanoseconds of `CLOCK_BOOTTIME`). The first one arms the guard.
    Deadline(u64),
    /// End it now.
    Kill,
    /// Send this signal to the database's first process.
    Signal(i32),
}

/// From the guard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromGuard {
    /// The first line: who it is and whose parent.
    Hello {
        /// The guard's process.
        guard: u32,
        /// The database's first process.
        database: u32,
    },
    /// The last line: no process of the database is left.
    Exited(Ending),
}

/// How the database's first process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ending {
    /// Its exit code.
    pub code: Option<i32>,
    /// Or the signal that killed it.
    pub signal: Option<i32>,
    /// Whether the guard itself ended it because its deadline was past.
    pub deadline: bool,
}

/// What a guard is to run: on its stdin, as JSON. (Not among its arguments, which everybody can read: the environment may
/// hold a password.)
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Where it listens for the agent.
    pub(crate) socket: PathBuf,
    /// Held locked while it lives, so that there is never a second one.
    pub(crate) lock: PathBuf,
    /// Where the database's output goes.
    pub(crate) log: PathBuf,
    /// The database's data directory.
    pub(crate) data: PathBuf,
    /// Where it is started; `None`: in the data directory.
    #[serde(default)]
    pub(crate) workdir: Option<PathBuf>,
    /// The user and group that it runs as; `None`: the guard's own.
    pub(crate) account: Option<(u32, u32)>,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Its whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// The container that the program holds; `None`: the program is the database itself.
    #[serde(default)]
    pub(crate) cage: Option<Cage>,
}

impl Order {
    /// Where the database is started.
    pub(crate) fn workdir(&self) -> &Path {
        self.workdir.as_ref().unwrap_or(&self.data)
    }
}

/// Keeps the environment out of logs.
impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut s = f.debug_struct("Order");
        s.field("program", &self.program).field("args", &self.args).field("data", &self.data).finish_non_exhaustive()
    }
}
