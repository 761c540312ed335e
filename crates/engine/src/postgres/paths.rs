//! Where everything of one node's database is.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::account::Account;
use crate::EngineError;

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
                open_passage(folder).map_err(EngineError::io("let the database's user pass through", folder))?;
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

fn open_passage(folder: &Path) -> io::Result<()> {
    let mode = fs::metadata(folder)?.mode();
    if mode & 0o001 == 0 { fs::set_permissions(folder, PermissionsExt::from_mode(mode | 0o011)) } else { Ok(()) }
}

/// Makes what was done in a folder (a file made, renamed, removed) survive a power loss.
pub(super) fn sync_dir(folder: &Path) -> Result<(), EngineError> {
    fs::File::open(folder).and_then(|d| d.sync_all()).map_err(EngineError::io("make durable", folder))
}

/// Makes everything in a folder survive a power loss: in one go for its whole file system, since a flush for each of
/// thousands of small files takes seconds.
pub(super) async fn sync_all(folder: &Path) -> Result<(), EngineError> {
    let path = folder.to_owned();
    let done = crate::guard::blocking(move || {
        let folder = fs::File::open(path)?;
        Ok::<(), io::Error>(rustix::fs::syncfs(folder)?)
    });
    done.await.map_err(EngineError::io("make durable", folder))
}

/// Removes a folder with all that is in it, or nothing when there is none.
pub(super) fn remove_tree(folder: &Path) -> Result<(), EngineError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(EngineError::io("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// Removes a file, or nothing when there is none.
pub(super) fn remove_file(file: &Path) -> Result<(), EngineError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(EngineError::io("remove", file)(e)),
        _ => Ok(()),
    }
}
