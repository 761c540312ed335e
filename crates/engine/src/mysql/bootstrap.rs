//! The first copy of a cluster, and who may do what in it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::dialect::Dialect;
use super::paths::own;
use super::session::{REPLICATION, Session, USER, literal};
use super::state::Mysql;
use crate::files::{remove_file, remove_tree, sync_all, sync_dir};
use crate::guard::descendants::pid;
use crate::tool::as_child;
use crate::{CopyId, EngineError};

/// How long a private run may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_millis(20);

impl Mysql {
    pub(super) async fn make_first(&self) -> Result<CopyId, EngineError> {
        let _turn = self.turn.lock().await;
        if let Some(there) = self.identity()? {
            return Ok(there);
        }
        remove_tree(&self.paths.fresh)?;
        if let Err(e) = self.make_fresh().await {
            // What is left is useless, and may be what fills the disk.
            let _ = remove_tree(&self.paths.fresh);
            return Err(e);
        }
        fs::rename(&self.paths.fresh, &self.paths.data).map_err(EngineError::io("put in place", &self.paths.data))?;
        sync_dir(&self.paths.dir)?;
        Ok(self.config.identity)
    }

    async fn make_fresh(&self) -> Result<(), EngineError> {
        let data = &self.paths.fresh;
        self.account.make_dir(data)?;
        match self.config.dialect {
            Dialect::MariaDb => self.mariadb_installs(data).await?,
            Dialect::MySql => self.mysql_installs(data).await?,
        }
        self.set_up().await?;
        self.account.write(&data.join(own::IDENTITY), format!("{}\n", self.config.identity).as_bytes())?;
        sync_all(data).await
    }

    /// Makes the users and tables that the cluster needs, by a private run of the database that nobody else can reach.
    /// Nothing of it is in a binary log: every copy begins with it.
    async fn set_up(&self) -> Result<(), EngineError> {
        let mut server = self.private_run(&self.paths.fresh, &[])?;
        let done = async {
            let mut session = self.private_session(&mut server).await?;
            for statement in self.first_statements() {
                session.run("set up the first copy", &statement).await?;
            }
            Ok::<(), EngineError>(())
        };
        let done = done.await;
        if let Some(pid) = server.id().and_then(pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let ended = timeout(PATIENCE, server.wait()).await;
        remove_file(&self.paths.private_socket())?;
        done?;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            other => {
                Err(EngineError::StopFailed(format!("the private run ended so: {other:?}; {}", self.private_log())))
            }
        }
    }

    fn first_statements(&self) -> Vec<String> {
        let user = |name: &str, host: &str, password: &str| {
            format!("create user {}@{} identified by {}", literal(name), literal(host), literal(password))
        };
        let mut all = vec![
            user(USER, "localhost", &self.config.superuser_password),
            format!("grant all on *.* to {USER}@localhost with grant option"),
            user(REPLICATION, "localhost", &self.config.superuser_password),
            format!("grant replication slave on *.* to {REPLICATION}@localhost"),
            user("app", "%", &self.config.app_password),
            "create database app character set utf8mb4".into(),
            "grant all on app.* to app@'%'".into(),
            // Databases of its own, by name: a right to all of them would be one to the users' table as well.
            r"grant all on `app\_%`.* to app@'%'".into(),
            "grant process, show databases on *.* to app@'%'".into(),
            "create database trine".into(),
            // One row for each epoch: where its log left the one before.
            "create table trine.epoch (epoch bigint unsigned primary key, node varchar(255) not null, \
             server varchar(36) not null, \
             previous bigint unsigned not null, barriers bigint unsigned not null default 0, \
             at timestamp(6) not null default current_timestamp(6)) engine = InnoDB"
                .into(),
            "create table trine.nudge (id bigint unsigned primary key auto_increment) engine = InnoDB".into(),
        ];
        all.extend(self.words().tidy.iter().map(|&s| s.to_owned()));
        all
    }

    /// A run on a folder that nobody else can reach.
    pub(super) fn private_run(&self, data: &Path, more: &[&str]) -> Result<Child, EngineError> {
        let path = self.paths.sockets.join("private.log");
        let log = fs::File::create(&path).map_err(EngineError::io("write", path))?;
        let program = self.binaries.server();
        let mut command = Command::new(&program);
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        command.arg(format!("--socket={}", self.paths.private_socket().display()));
        command.arg(format!("--pid-file={}", self.paths.sockets.join("private.pid").display()));
        command.args(["--skip-networking", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=1"]);
        command.args(self.words().private_run).args(more);
        command.current_dir(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        as_child(&mut command, &self.account);
        command.spawn().map_err(EngineError::io("run", program))
    }

    pub(super) async fn private_session(&self, server: &mut Child) -> Result<Session, EngineError> {
        let socket = self.paths.private_socket();
        let connected = async {
            loop {
                match Session::open(&socket, self.words(), "root", "").await {
                    Ok(session) => return session,
                    Err(e) => tracing::trace!(error = %e.chain(), "the private run is not up yet"),
                }
                sleep(ASK).await;
            }
        };
        let failed = |why: String| EngineError::StartFailed { why, log: self.private_log() };
        tokio::select! {
            session = connected => Ok(session),
            ended = server.wait() => Err(failed(format!("it ended: {ended:?}"))),
            () = sleep(PATIENCE) => Err(failed("it does not answer".into())),
        }
    }

    fn private_log(&self) -> String {
        let text = fs::read_to_string(self.paths.sockets.join("private.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }
}
