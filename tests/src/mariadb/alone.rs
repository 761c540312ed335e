//! A server of its own on a copy of a database's files.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Local;
use crate::cluster::mysql_folder;
use crate::namespace;
use crate::wait::wait_for;

/// Crash recovery included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The server: no network, no passwords. It is killed with this.
#[derive(Debug)]
pub struct Alone {
    child: Child,
    socket: PathBuf,
}

/// The server's version.
#[must_use]
pub fn version() -> String {
    // `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)`
    let said = namespace::run(Command::new("mariadbd").arg("--version")).unwrap_or_default();
    format!("MariaDB {}", said.split_whitespace().nth(2).unwrap_or_default())
}

/// The version of the MySQL for tests.
#[must_use]
pub fn mysql_version() -> String {
    let mut ask = Command::new(mysql_folder().join("bin/mysqld"));
    let said = namespace::run(ask.args(["--no-defaults", "--version"])).unwrap_or_default();
    format!("MySQL {}", said.split_whitespace().nth(2).unwrap_or_default())
}

impl Alone {
    /// Starts it on these files, which it recovers, and are its own from then on.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(files: &Path) -> Result<Self> {
        namespace::run(Command::new("chown").args(["-R", "mysql:mysql"]).arg(files))?;
        let socket = files.join("alone.sock");
        let mut c = Command::new("mariadbd");
        c.args(["--no-defaults", "--user=mysql", "--skip-networking", "--skip-grant-tables"]);
        c.arg(format!("--datadir={}", files.display()));
        c.arg(format!("--socket={}", socket.display()))
            .arg(format!("--log-error={}", files.join("alone.log").display()));
        // What it has prepared and not committed is decided by its binary log, if it has one.
        for name in std::fs::read_dir(files)?.flatten().map(|entry| entry.file_name()) {
            if let Some(base) = name.to_str().and_then(|n| n.strip_suffix(".index")) {
                c.arg(format!("--log-bin={base}"));
            }
        }
        let child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("starting mariadbd")?, socket })
    }

    /// A session, as soon as it gives one.
    ///
    /// # Errors
    /// It gives none; with what its log says.
    pub fn local(&mut self) -> Result<Local> {
        let log = self.socket.with_extension("log");
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        wait_for("a server on a copy of the files", READY_WITHIN, || {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "mariadbd has ended: {ended:?}");
            Local::open(&self.socket, "root", None).map(Some)
        })
        .with_context(said)
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self, session: Local) -> Result<()> {
        session.rows("shutdown")?;
        drop(session);
        wait_for("a server on a copy of the files to end", READY_WITHIN, || Ok(self.child.try_wait()?)).map(drop)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
