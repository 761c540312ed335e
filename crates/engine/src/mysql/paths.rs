//! Where everything of one node's database is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::EngineError;
use crate::account::Account;

/// What a unix socket's path may have at most, with a zero at the end (`sun_path`).
const SOCKET_LIMIT: usize = 107;

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
    /// A directory that is being adopted: it may be the only copy.
    pub(super) adopting: PathBuf,
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

impl Paths {
    /// Makes the folders that every operation needs.
    pub(super) fn prepare(dir: &Path, account: &Account) -> Result<Self, EngineError> {
        fs::create_dir_all(dir).map_err(EngineError::io("make the folder", dir))?;
        let dir = fs::canonicalize(dir).map_err(EngineError::io("find the folder", dir))?;
        let below = |name: &str| dir.join(name);
        let paths = Self {
            data: below("data"),
            fresh: below("data.new"),
            old: below("data.old"),
            adopting: below("data.adopt"),
            conf: below("conf"),
            run: below("run"),
            sockets: below("run/db"),
            tools: below("run/tools"),
            log: below("log/database.log"),
            guard_log: below("log/guard.log"),
            dir: dir.clone(),
        };
        let socket = paths.private_socket();
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
    pub(super) fn socket(&self) -> PathBuf {
        self.sockets.join("mysqld.sock")
    }

    /// The socket of a private run.
    pub(super) fn private_socket(&self) -> PathBuf {
        self.sockets.join("private.sock")
    }

    /// The settings of a running database.
    pub(super) fn settings(&self) -> PathBuf {
        self.conf.join("my.cnf")
    }

    /// The agent's credentials, for tools. Only the database's user can read it.
    pub(super) fn credentials(&self) -> PathBuf {
        self.sockets.join("trine.cnf")
    }

    /// Says that the database was made the primary of an epoch, and of which.
    pub(super) fn leading(&self) -> PathBuf {
        self.conf.join("leading.json")
    }

    /// The folders in which only the database's processes and tools work.
    pub(super) fn workplaces(&self) -> Vec<PathBuf> {
        vec![self.data.clone(), self.fresh.clone(), self.old.clone(), self.adopting.clone(), self.tools.clone()]
    }
}

/// Files of trine's own in a data directory. They go where it goes.
pub(super) mod own {
    /// Whose data it is.
    pub(crate) const IDENTITY: &str = "trine.id";
    /// How far a copy reaches that was made from another: the database does not know it yet.
    pub(crate) const COPIED_TO: &str = "trine.gtid";
    /// Received logs that an earlier run of the database had not applied.
    pub(crate) const SALVAGE: &str = ".trine-received";
    /// The same while it is being put together.
    pub(crate) const SALVAGE_NEW: &str = ".trine-received.new";
    /// The end of the log of a run that was a primary's.
    pub(crate) const TAIL: &str = ".trine-tail";
    /// The same while it is being put together.
    pub(crate) const TAIL_NEW: &str = ".trine-tail.new";
}
