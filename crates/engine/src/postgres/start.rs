//! Starting and stopping.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::Postgres;
use super::binaries::data_major;
use super::config::{self, Live};
use super::control::Control;
use super::paths::{remove_file, remove_tree, sync_dir};
use super::{hba, timeline};
use crate::account::Account;
use crate::files::write_readable;
use crate::guard::wire::Order;
use crate::guard::{blocking, descendants, tail};
use crate::tool::environment;
use crate::{DataCopy, EngineError, Process};

/// How often a database that is coming up is asked whether it is.
const ASK: Duration = Duration::from_millis(5);
/// How long a clean end may take.
const STOP: Duration = Duration::from_secs(60);

impl Postgres {
    pub(super) async fn attach(&self) -> Result<Process, EngineError> {
        let _turn = self.turn.lock().await;
        let found = self.guard.attach(self.paths.workplaces()).await?;
        if found {
            let text = fs::read_to_string(self.paths.conf.join("live.conf")).unwrap_or_default();
            let live = Live::parse(&text).unwrap_or_else(Live::unknown);
            *self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = live;
            self.log_mark.store(self.log_length(), Ordering::Relaxed);
        }
        self.finish_clone()?;
        remove_tree(&self.paths.private())?;
        Ok(*self.guard.state().borrow())
    }

    pub(super) async fn start(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        self.refuse_unusable()?;
        self.start_as(&Live::default()).await
    }

    fn refuse_unusable(&self) -> Result<(), EngineError> {
        let path = self.paths.data.clone();
        match self.copy() {
            DataCopy::Complete => Ok(()),
            DataCopy::Missing => Err(EngineError::NoCopy(path)),
            DataCopy::Incomplete(why) => Err(EngineError::IncompleteCopy { path, why }),
        }
    }

    /// Is there a copy that can be used? Reads a few small files.
    pub(super) fn copy(&self) -> DataCopy {
        let data = &self.paths.data;
        if !data.join("PG_VERSION").exists() {
            return match fs::read_dir(data).map(|mut d| d.next().is_some()) {
                Ok(true) => DataCopy::Incomplete("it has no PG_VERSION".into()),
                _ => DataCopy::Missing,
            };
        }
        if data_major(data).is_none() {
            return DataCopy::Incomplete("its PG_VERSION can't be read".into());
        }
        if !data.join("global/pg_control").exists() {
            return DataCopy::Incomplete("it has no global/pg_control".into());
        }
        match self.rewind_mark() {
            Some(mark) => DataCopy::Incomplete(mark.why()),
            None => DataCopy::Complete,
        }
    }

    /// Starts it as a standby with `live` settings; or waits for one that runs already.
    pub(super) async fn start_as(&self, live: &Live) -> Result<(), EngineError> {
        if self.running().is_err() && !self.guard.attach(vec![self.paths.data.clone()]).await? {
            let mark = self.log_length();
            self.log_mark.store(mark, Ordering::Relaxed);
            let order = self.prepare(live).await?;
            self.guard.spawn(&order).await?;
        }
        self.wait_until_up().await
    }

    async fn wait_until_up(&self) -> Result<(), EngineError> {
        let mut state = self.guard.state();
        loop {
            if *state.borrow_and_update() == Process::Stopped {
                return Err(self.start_failed().await);
            }
            let pid = self.running();
            match self.new_session().await {
                Ok(session) => {
                    self.guard.answered(pid?);
                    self.forget_slots(&session).await;
                    self.give_back(session);
                    return Ok(());
                }
                Err(EngineError::Sql { action, source }) if is_refusal(&source) => {
                    return Err(EngineError::Sql { action, source });
                }
                Err(e) => tracing::trace!(error = %e.chain(), "not up yet"),
            }
            tokio::select! {
                _ = state.changed() => {}
                () = sleep(ASK) => {}
            }
        }
    }

    async fn start_failed(&self) -> EngineError {
        let mark = self.log_mark.load(Ordering::Relaxed);
        let new = self.log_length().saturating_sub(mark).clamp(1, 16 << 10);
        let text = tail(&self.paths.log, new).await;
        let lines: Vec<&str> = text.lines().collect();
        let log = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        let why = match self.guard.ending() {
            Some(e) if e.deadline => "the guard ended it".to_owned(),
            Some(crate::guard::Ending { code: Some(code), .. }) => format!("it ended with exit code {code}"),
            Some(crate::guard::Ending { signal: Some(signal), .. }) => format!("signal {signal} ended it"),
            _ => "its guard ended".to_owned(),
        };
        EngineError::StartFailed { why, log }
    }

    /// A standby keeps the log for nobody; slots that it had as a primary would keep it for ever.
    async fn forget_slots(&self, session: &super::session::Session) {
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
                    where slot_type = 'physical' and not active and slot_name ~ '^trine_' and pg_is_in_recovery()";
        if let Err(e) = session.run("drop the slots of an earlier epoch", drop).await {
            tracing::warn!(error = %e.chain(), "can't drop the slots of an earlier epoch");
        }
    }

    /// Writes everything that a start needs, and says how to start it.
    async fn prepare(&self, live: &Live) -> Result<Order, EngineError> {
        let binaries = self.binaries()?;
        let control = Control::read(&binaries, &self.account, &self.paths.data).await?;
        timeline::tidy(&self.paths.wal(), &control, &self.paths.kept.join("histories"))?;
        self.clear_links(live)?;
        self.copy_certificates(&self.paths.sockets)?;
        let conf = |name: &str| self.paths.conf.join(name);
        let main = config::render(&self.config, &self.paths, binaries.major, &control.floor);
        write_readable(&conf("postgresql.conf"), &main)?;
        write_readable(&conf("pg_hba.conf"), &hba::hba(&self.config.hba))?;
        write_readable(&conf("pg_ident.conf"), hba::IDENT)?;
        self.write_live(live)?;
        self.strip_auto_conf()?;
        self.account.write(&self.paths.data.join("standby.signal"), b"")?;
        remove_file(&self.paths.data.join("recovery.signal"))?;
        forget_dead_postmaster(&self.paths.data)?;
        let socket = self.paths.socket(self.config.port);
        remove_file(&socket)?;
        remove_file(&socket.with_extension(format!("{}.lock", self.config.port)))?;
        sync_dir(&self.paths.data)?;
        let file = |key: &str, name: &str| ["-c".to_owned(), format!("{key}={}", conf(name).display())];
        let mut args = vec!["-D".to_owned(), self.paths.data.display().to_string()];
        args.extend(file("config_file", "postgresql.conf"));
        args.extend(file("hba_file", "pg_hba.conf"));
        args.extend(file("ident_file", "pg_ident.conf"));
        Ok(Order {
            socket: self.paths.run.join("guard.sock"),
            lock: self.paths.run.join("guard.lock"),
            log: self.paths.log.clone(),
            data: self.paths.data.clone(),
            workdir: None,
            account: self.account.change_to(),
            program: binaries.program("postgres"),
            args,
            env: environment(),
            cage: None,
        })
    }

    /// Copies the node's certificates to where the database's user can read them.
    pub(super) fn copy_certificates(&self, folder: &Path) -> Result<(), EngineError> {
        let all = [(&self.config.ca, "ca.pem"), (&self.config.cert, "node.pem"), (&self.config.key, "node.key")];
        for (from, name) in all {
            let content = fs::read(from).map_err(EngineError::io("read", from))?;
            copy_private(&self.account, &folder.join(name), &content)?;
        }
        Ok(())
    }

    pub(super) fn log_length(&self) -> u64 {
        fs::metadata(&self.paths.log).map_or(0, |m| m.len())
    }

    pub(super) async fn stop(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        self.stop_now().await
    }

    pub(super) async fn checkpoint(&self) -> Result<(), EngineError> {
        let session = self.session().await?;
        session.run("make a checkpoint", "checkpoint").await?;
        self.give_back(session);
        Ok(())
    }

    pub(super) async fn stop_now(&self) -> Result<(), EngineError> {
        let mut state = self.guard.state();
        if *state.borrow() == Process::Stopped && self.running().is_err() {
            return Ok(());
        }
        self.guard.signal(Signal::INT);
        match timeout(STOP, state.wait_for(|s| *s == Process::Stopped)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::StopFailed(format!("it still runs after {} s", STOP.as_secs()))),
        }
    }

    /// Sweeps and waits off the async threads.
    pub(super) async fn nothing_works_in(&self, folder: &Path) -> Result<(), EngineError> {
        let folders = vec![folder.to_owned()];
        blocking(move || descendants::sweep(&folders, descendants::Whose::Postgres, Duration::from_secs(10)))
            .await
            .map(drop)
            .map_err(|left| EngineError::StopFailed(format!("processes {left:?} can't be ended")))
    }
}

/// Like [`Account::write`], but into a run-time folder: it need not survive a power loss.
fn copy_private(account: &Account, path: &Path, content: &[u8]) -> Result<(), EngineError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let done = (|| {
        remove_file(&fresh).map_err(std::io::Error::other)?;
        let mut f = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        f.write_all(content)
    })();
    done.map_err(EngineError::io("write", path))?;
    account.give(&fresh)?;
    fs::rename(&fresh, path).map_err(EngineError::io("write", path))
}

/// A refused password or role: waiting does not help.
fn is_refusal(e: &tokio_postgres::Error) -> bool {
    e.code().is_some_and(|c| c.code().starts_with("28"))
}

/// Removes a `postmaster.pid` whose number another process has by now: PostgreSQL would take that for itself. (No process
/// of the database is left when this is called. One whose process is gone stays: PostgreSQL checks its shared memory.)
fn forget_dead_postmaster(data: &Path) -> Result<(), EngineError> {
    let path = data.join("postmaster.pid");
    let pid = fs::read_to_string(&path).ok().and_then(|t| t.lines().next()?.trim().parse::<u32>().ok());
    match pid.and_then(descendants::pid) {
        Some(pid) if rustix::process::test_kill_process(pid).is_ok() => remove_file(&path),
        _ => Ok(()),
    }
}
