//! The roles and tables that the cluster needs, made in a copy before it is put to use: by a private run of the database
//! that nobody else can reach.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::binaries::Binaries;
use super::session::{Session, literal};
use crate::EngineError;
use crate::account::Account;
use crate::tool::as_child;

/// What the replication role may call: all that pg_rewind does.
const REWIND: &str = "grant execute on function pg_catalog.pg_ls_dir(text, boolean, boolean), \
    pg_catalog.pg_stat_file(text, boolean), pg_catalog.pg_read_binary_file(text), \
    pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) to trine_replication";

/// How long a private run may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A private run: no TCP, a socket of its own, no password.
pub(super) struct Private<'a> {
    pub(super) binaries: &'a Binaries,
    pub(super) account: &'a Account,
    /// The copy.
    pub(super) data: &'a Path,
    /// A folder for its socket and settings, of the database's user.
    pub(super) place: PathBuf,
    /// Settings that the data needs.
    pub(super) settings: &'a [(String, u32)],
}

impl Private<'_> {
    /// Makes sure of the role `trine` in a copy that was not made here: in single-user mode, where no role is needed.
    pub(super) async fn make_superuser(&self) -> Result<(), EngineError> {
        self.single_user(
            "do $$ begin if not exists (select from pg_catalog.pg_roles where rolname = 'trine') \
             then create role trine; end if; alter role trine superuser login; end $$\n",
        )
        .await
    }

    /// Runs statements, one a line, in single-user mode: without a standby's mark it recovers first, and ends with a
    /// checkpoint.
    pub(super) async fn single_user(&self, statements: &str) -> Result<(), EngineError> {
        self.settings()?;
        let mut command = self.command(&["--single", "-c", "exit_on_error=on"]);
        command.arg("postgres").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = self.binaries.program("postgres");
        let mut child = command.spawn().map_err(EngineError::io("run", &program))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A child that is gone already says why on its stderr.
            let _ = stdin.write_all(statements.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(EngineError::io("run", program))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(EngineError::Tool { tool: "postgres --single", output: said })
    }

    /// Makes the roles, the schema and the application's database, where they are missing.
    pub(super) async fn set_up(&self, superuser: &str, app: &str) -> Result<(), EngineError> {
        self.settings()?;
        let mut server = self.start()?;
        let done = async {
            let session = self.connect(&mut server).await?;
            fill(&session, superuser, app).await
        };
        let done = done.await;
        if let Some(pid) = server.id().and_then(crate::guard::descendants::pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let ended = timeout(PATIENCE, server.wait()).await;
        done?;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            other => Err(EngineError::StopFailed(format!("the private run ended so: {other:?}; {}", self.log()))),
        }
    }

    fn settings(&self) -> Result<(), EngineError> {
        self.account.make_dir(&self.place)?;
        let write = |name: &str, text: &str| self.account.write(&self.place.join(name), text.as_bytes());
        let needed: String = self.settings.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        write("postgresql.conf", &needed)?;
        write("pg_ident.conf", "")?;
        write("pg_hba.conf", "local all all trust\n")
    }

    fn command(&self, first: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.program("postgres"));
        let file = |name: &str| self.place.join(name).display().to_string();
        command.args(first).arg("-D").arg(self.data);
        let socket = self.place.display().to_string();
        for setting in [
            ("config_file", file("postgresql.conf").as_str()),
            ("hba_file", file("pg_hba.conf").as_str()),
            ("ident_file", file("pg_ident.conf").as_str()),
            ("listen_addresses", ""),
            ("port", "5432"),
            ("unix_socket_directories", socket.as_str()),
            ("synchronous_standby_names", ""),
            ("archive_mode", "off"),
            ("password_encryption", "scram-sha-256"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("lc_messages", "C"),
            ("ssl", "off"),
            ("wal_level", "replica"),
            ("shared_preload_libraries", ""),
            ("restart_after_crash", "off"),
            // A rewind may need all of the log that is here.
            ("wal_keep_size", "1TB"),
        ] {
            command.arg("-c").arg(format!("{}={}", setting.0, setting.1));
        }
        command.current_dir(self.data);
        as_child(&mut command, self.account);
        command
    }

    fn start(&self) -> Result<Child, EngineError> {
        let path = self.place.join("log");
        let log = std::fs::File::create(&path).map_err(EngineError::io("write", path))?;
        let mut command = self.command(&[]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(EngineError::io("run", self.binaries.program("postgres")))
    }

    async fn connect(&self, server: &mut Child) -> Result<Session, EngineError> {
        let connected = async {
            loop {
                match Session::open(&self.place, 5432, "", "postgres").await {
                    Ok(session) => return session,
                    Err(e) => tracing::trace!(error = %e.chain(), "the private run is not up yet"),
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let failed = |why: &str| EngineError::StartFailed { why: why.into(), log: self.log() };
        tokio::select! {
            session = connected => Ok(session),
            ended = server.wait() => Err(failed(&format!("it ended: {ended:?}"))),
            () = sleep(PATIENCE) => Err(failed("it does not answer")),
        }
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.place.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }
}

async fn fill(session: &Session, superuser: &str, app: &str) -> Result<(), EngineError> {
    let role = |name: &str, what: &str| {
        format!(
            "do $$ begin if not exists (select from pg_catalog.pg_roles where rolname = '{name}') \
             then create role {name}; end if; end $$; alter role {name} {what};\n"
        )
    };
    let statements = [
        role("trine", &format!("superuser login password {}", literal(superuser))),
        role("trine_replication", "nosuperuser replication login"),
        role("app", &format!("login createdb createrole password {}", literal(app))),
        format!("grant pg_monitor to app;\n{REWIND};\n"),
        "create schema if not exists trine;\n\
         create table if not exists trine.epoch (epoch bigint primary key, node text not null, \
         at timestamptz not null default now());\n"
            .into(),
    ];
    session.run("set up the roles", &statements.concat()).await?;
    let there = session.client.query_opt("select from pg_catalog.pg_database where datname = 'app'", &[]).await;
    if there.map_err(EngineError::sql("look for the database app"))?.is_none() {
        session.run("make the database app", "create database app owner app").await?;
    }
    Ok(())
}
