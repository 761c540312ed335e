//! Where everything of one node's database is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::EngineError;
use crate::account::Account;
pub(super) use crate::files::{remove_file, remove_tree, sync_all, sync_dir};

/// The folders and files below a node's folder.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// The node's folder, without links.
    pub(super) dir: PathBuf,
    /// The data directory in use.
    pub(super) data: PathBuf,
    /// A copy that is being made. What is found here at a start is removed.
    pub(super) fresh: PathBuf,
    /// The copy before, while it is being replaced.
    pub(super) old: PathBuf,
    /// A directory that is being adopted: never removed.
    pub(super) adopting: PathBuf,
    /// The mark that the copy is in the middle of a rewind.
    pub(super) rewind_mark: PathBuf,
    /// What rewinds cut off.
    pub(super) kept: PathBuf,
    /// The settings files.
    pub(super) conf: PathBuf,
    /// The agent's own sockets and locks.
    pub(super) run: PathBuf,
    /// What the database's user writes at run time: its socket, its copies of the certificates.
    pub(super) sockets: PathBuf,
    /// Where the database's tools work.
    pub(super) tools: PathBuf,
    /// The database's log.
    pub(super) log: PathBuf,
    /// The guard's log.
    pub(super) guard_log: PathBuf,
}

/// What a unix socket's path may have at most, with a zero at the end (`sun_path`).
const SOCKET_LIMIT: usize = 107;

impl Paths {
    /// Makes the folders that every operation needs.
    pub(super) fn prepare(dir: &Path, account: &Account, port: u16) -> Result<Self, EngineError> {
        fs::create_dir_all(dir).map_err(EngineError::io("make the folder", dir))?;
        let dir = fs::canonicalize(dir).map_err(EngineError::io("find the folder", dir))?;
        let below = |name: &str| dir.join(name);
        let paths = Self {
            data: below("data"),
            fresh: below("data.new"),
            old: below("data.old"),
            adopting: below("data.adopt"),
            rewind_mark: below("rewind.incomplete"),
            kept: below("kept"),
            conf: below("conf"),
            run: below("run"),
            sockets: below("run/db"),
            tools: below("run/tools"),
            log: below("log/database.log"),
            guard_log: below("log/guard.log"),
            dir: dir.clone(),
        };
        let socket = paths.private().join(format!(".s.PGSQL.{port}"));
        if socket.as_os_str().len() > SOCKET_LIMIT {
            return Err(EngineError::Config(format!(
                "the path of the unix socket, {}, is longer than {SOCKET_LIMIT} bytes: use a folder with a shorter path",
                socket.display()
            )));
        }
        for folder in [&paths.conf, &paths.run, &below("log")] {
            fs::create_dir_all(folder).map_err(EngineError::io("make the folder", folder))?;
        }
        for folder in [&paths.sockets, &paths.tools] {
            account.make_dir(folder)?;
        }
        // The database's user must get through to its own folders, and see nothing of the others.
        if account.is_other() {
            for folder in [&paths.dir, &paths.run, &paths.conf] {
                account.let_through(folder)?;
            }
            account.can_reach(&paths.dir)?;
        }
        Ok(paths)
    }

    /// The database's unix socket.
    pub(super) fn socket(&self, port: u16) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{port}"))
    }

    /// The place of a private run.
    pub(super) fn private(&self) -> PathBuf {
        self.sockets.join("p")
    }

    /// The folders in which only the database's processes and tools work.
    pub(super) fn workplaces(&self) -> Vec<PathBuf> {
        vec![self.data.clone(), self.fresh.clone(), self.old.clone(), self.adopting.clone(), self.tools.clone()]
    }

    /// The WAL of the copy in use.
    pub(super) fn wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }
}
