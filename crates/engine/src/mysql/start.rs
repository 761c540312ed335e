//! Starting.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use trine_protocol::Epoch;

use super::dialect::Dialect;
use super::paths::own;
use super::settings;
use super::state::{Mysql, Running};
use crate::files::remove_file;
use crate::guard::wire::Order;
use crate::guard::{Ending, blocking, tail};
use crate::swap::finish;
use crate::tool::{Said, environment};
use crate::{CopyId, DataCopy, EngineError, History, Process};

/// How often a database that is coming up is asked whether it is.
const ASK: Duration = Duration::from_millis(5);

/// What `conf/leading.json` says: an agent that finds its database running has to know what it was made.
#[derive(Debug, Serialize, Deserialize)]
struct Leading {
    epoch: Epoch,
    /// Where its log left the epoch before.
    from: u64,
    process: u32,
}

impl Mysql {
    pub(super) async fn attach(&self) -> Result<Process, EngineError> {
        let _turn = self.turn.lock().await;
        // What stands in the log before is of an earlier agent's time.
        self.log_looked.store(self.log_length(), Ordering::Relaxed);
        let found = self.guard.attach(self.paths.workplaces()).await?;
        finish(&self.paths.dir, &self.paths.data, &self.paths.fresh, &self.paths.old)?;
        if found {
            self.log_mark.store(self.log_length(), Ordering::Relaxed);
            self.take_over().await;
        }
        Ok(*self.guard.state().borrow())
    }

    /// A database that runs already: as what, and what of it was the former agent's.
    async fn take_over(&self) {
        let said = fs::read(self.paths.leading()).ok().and_then(|text| serde_json::from_slice::<Leading>(&text).ok());
        let said = said.filter(|l| self.process_id().ok() == Some(l.process));
        let leading = said.as_ref().map(|l| (l.epoch, l.process));
        *self.running() = Running { leading, from: said.map_or(0, |l| l.from), ..Running::default() };
        if let Some((epoch, _)) = leading {
            self.gate.open(epoch);
            // The ways that standbys came by are gone, and with them what is known of those. What one of them has said
            // may still be on its way to the database, and must not be counted for another sync rule.
            if let Err(e) = self.end_senders().await {
                tracing::warn!(error = %e.chain(), "can't end the connections of standbys that an earlier agent let in");
            }
        }
    }

    async fn end_senders(&self) -> Result<(), EngineError> {
        let mut session = self.session().await?;
        let (processes, dump) = (self.words().processes, self.words().dump);
        let asked = format!("select id from {processes} where command = '{dump}'");
        let rows = session.rows("say who takes its log", &asked).await?;
        let all: Vec<u64> = rows.iter().filter_map(|row| super::session::column(row, 0)).collect();
        self.end_threads(&mut session, &all).await?;
        self.give_back(session);
        Ok(())
    }

    /// Notes that this process is the primary of an epoch, whose log left the one before at `from`.
    pub(super) fn note_leading(&self, epoch: Epoch, process: u32, from: u64) -> Result<(), EngineError> {
        let path = self.paths.leading();
        let text = serde_json::to_vec(&Leading { epoch, from, process }).unwrap_or_default();
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).map_err(EngineError::io("write", path))
    }

    /// Whose data the copy is.
    pub(super) fn identity(&self) -> Result<Option<CopyId>, EngineError> {
        let path = self.own(own::IDENTITY);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok().map(CopyId)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(EngineError::io("read", path)(e)),
        }
    }

    /// Is there a copy that can be used? Reads a few small files.
    pub(super) fn copy(&self) -> DataCopy {
        let data = &self.paths.data;
        match fs::read_dir(data).map(|mut d| d.next().is_some()) {
            Ok(true) => {}
            _ => return DataCopy::Missing,
        }
        if !data.join("ibdata1").exists() {
            return DataCopy::Incomplete("it has no ibdata1".into());
        }
        match self.identity() {
            Ok(Some(_)) => DataCopy::Complete,
            Ok(None) => DataCopy::Incomplete(format!("it has no {}", own::IDENTITY)),
            Err(e) => DataCopy::Incomplete(e.chain()),
        }
    }

    pub(super) async fn start(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let path = self.paths.data.clone();
        match self.copy() {
            DataCopy::Complete => {}
            DataCopy::Missing => return Err(EngineError::NoCopy(path)),
            DataCopy::Incomplete(why) => return Err(EngineError::IncompleteCopy { path, why }),
        }
        if self.process_id().is_err() && !self.guard.attach(vec![self.paths.data.clone()]).await? {
            self.gate.close();
            self.cut_feed().await;
            *self.running() = Running::default();
            self.log_mark.store(self.log_length(), Ordering::Relaxed);
            self.log_looked.store(self.log_length(), Ordering::Relaxed);
            let (order, cuts) = self.prepare()?;
            self.guard.spawn(&order).await?;
            match self.wait_until_up().await {
                Err(EngineError::StartFailed { why, log }) if cuts && self.mariadb_starts_as_it_was(&log)? => {
                    tracing::warn!(why, log, "the end of its log can't be cut off: it commits that");
                    self.log_mark.store(self.log_length(), Ordering::Relaxed);
                    let (order, _) = self.prepare()?;
                    self.guard.spawn(&order).await?;
                }
                other => other?,
            }
        }
        self.wait_until_up().await?;
        if self.leading().is_none() {
            self.know_log().await?;
        }
        // Somebody may have given it another password, or have dropped it.
        if let Err(e) = self.introduce("app", &self.config.app_password).await {
            tracing::debug!(error = %e.chain(), "the user app of secrets.toml is not let in");
        }
        Ok(())
    }

    /// Writes everything that a start needs, and says how to start it.
    ///
    /// The second: it is to cut off the end of its log.
    fn prepare(&self) -> Result<(Order, bool), EngineError> {
        let more = match self.config.dialect {
            Dialect::MariaDb => self.mariadb_forgets_its_upstream()?,
            Dialect::MySql => Vec::new(),
        };
        remove_file(&self.paths.leading())?;
        let text = settings::render(&self.config, &self.paths);
        crate::files::write_readable(&self.paths.settings(), &text)?;
        self.write_credentials()?;
        for left in [self.paths.socket(), self.paths.sockets.join("mysqld.pid")] {
            remove_file(&left)?;
        }
        let cuts = !more.is_empty();
        let mut args = vec![format!("--defaults-file={}", self.paths.settings().display())];
        args.extend(more);
        let order = Order {
            socket: self.paths.run.join("guard.sock"),
            lock: self.paths.run.join("guard.lock"),
            log: self.paths.log.clone(),
            data: self.paths.data.clone(),
            workdir: None,
            account: self.account.change_to(),
            program: self.binaries.server(),
            args,
            env: environment(),
            cage: None,
        };
        Ok((order, cuts))
    }

    /// For the database's own tools: a password is not for their command lines, which everybody can read. At a start only: two nodes
    /// may want a copy at once.
    fn write_credentials(&self) -> Result<(), EngineError> {
        let quoted = self.config.superuser_password.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!(
            "[client]\nuser = {}\npassword = \"{quoted}\"\nsocket = {}\n",
            super::session::USER,
            self.paths.socket().display()
        );
        self.account.write(&self.paths.credentials(), text.as_bytes())
    }

    async fn wait_until_up(&self) -> Result<(), EngineError> {
        let mut state = self.guard.state();
        loop {
            if *state.borrow_and_update() == Process::Stopped {
                return Err(self.start_failed().await);
            }
            let pid = self.process_id();
            match self.new_session().await {
                Ok(session) => {
                    self.guard.answered(pid?);
                    self.give_back(session);
                    return Ok(());
                }
                // A refused password: waiting does not help.
                Err(EngineError::MySql { action, source: mysql_async::Error::Server(e) }) if e.code == 1045 => {
                    return Err(EngineError::MySql { action, source: mysql_async::Error::Server(e) });
                }
                Err(e) => tracing::trace!(error = %e.chain(), "not up yet"),
            }
            tokio::select! {
                _ = state.changed() => {}
                () = sleep(ASK) => {}
            }
        }
    }

    /// Makes the database know all of the log that is here, where that needs no decision: how far it was copied to, and what an
    /// earlier run had received.
    async fn know_log(&self) -> Result<(), EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => {
                self.look_at_tables_in_memory().await?;
                self.mariadb_knows_its_log().await
            }
            Dialect::MySql => self.mysql_completes_its_log().await,
        }
    }

    /// Makes the database know all of the log that is here.
    ///
    /// Whatever reads or moves the log's end makes sure of it: an agent that ended in the middle of a start leaves a running
    /// database whose log is not complete.
    pub(super) async fn complete_log(&self) -> Result<(), EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => self.mariadb_completes_its_log().await,
            Dialect::MySql => self.mysql_completes_its_log().await,
        }
    }

    /// Makes it know what of the log that is here is a part of that of a primary, and drops what is not, where it can.
    pub(super) async fn complete_log_behind(&self, history: &History) -> Result<(), EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => self.mariadb_completes_its_log_behind(history).await,
            Dialect::MySql => self.mysql_completes_its_log().await,
        }
    }

    async fn start_failed(&self) -> EngineError {
        let mark = self.log_mark.load(Ordering::Relaxed);
        let new = self.log_length().saturating_sub(mark).clamp(1, 16 << 10);
        let text = tail(&self.paths.log, new).await;
        if let Some(line) = text.lines().rfind(|l| l.contains(super::inspect::WAITS_FOR_ROOM)) {
            return EngineError::DiskFull { path: self.paths.dir.clone(), what: line.to_owned() };
        }
        let lines: Vec<&str> = text.lines().collect();
        let log = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        let why = match self.guard.ending() {
            Some(e) if e.deadline => "the guard ended it".to_owned(),
            Some(Ending { code: Some(code), .. }) => format!("it ended with exit code {code}"),
            Some(Ending { signal: Some(signal), .. }) => format!("signal {signal} ended it"),
            _ => "its guard ended".to_owned(),
        };
        EngineError::StartFailed { why, log }
    }

    pub(super) fn log_length(&self) -> u64 {
        fs::metadata(&self.paths.log).map_or(0, |m| m.len())
    }

    pub(super) fn check_tool(&self, tool: &'static str, said: &Said) -> Result<(), EngineError> {
        match said {
            Said { ok: true, .. } => Ok(()),
            said if said.disk_full() => Err(EngineError::DiskFull { path: self.paths.dir.clone(), what: said.end() }),
            said => Err(EngineError::Tool { tool, output: said.end() }),
        }
    }

    /// Sweeps and waits off the async threads.
    pub(super) async fn nothing_works_in(&self, folder: &std::path::Path) -> Result<(), EngineError> {
        use crate::guard::descendants::{Whose, sweep};
        let folders = vec![folder.to_owned()];
        blocking(move || sweep(&folders, Whose::MariaDb, Duration::from_secs(10)))
            .await
            .map(drop)
            .map_err(|left| EngineError::StopFailed(format!("processes {left:?} can't be ended")))
    }
}
