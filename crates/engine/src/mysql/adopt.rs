//! Taking an existing data directory as a cluster's first copy.
//!
//! What is refused is put back as it was: it is looked at by a run that can't write, and does not start where the last one did
//! not end cleanly. Whoever came from certain hosts, by the operating system's word or without a password is told of: to the
//! database, all clients come from this machine now.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::paths::own;
use super::session::{Session, column, literal};
use super::state::Mysql;
use crate::adoption::{Adoption, check_owner};
use crate::files::sync_all;
use crate::{Adopted, EngineError};

/// What one of the databases' data directories has.
#[derive(Debug)]
pub(super) struct Home {
    /// A file that only this product's have.
    pub(super) mark: &'static str,
    /// Its redo log is one of these.
    pub(super) redo: &'static [&'static str],
    /// Where it says for which version its system tables are.
    pub(super) version: &'static [&'static str],
    /// Asks for a file of its data that is elsewhere.
    pub(super) elsewhere: Option<&'static str>,
    /// Asks for users (name, host) who can come in without a password.
    pub(super) without_password: &'static str,
    /// What makes it forget the names of all transactions: the first that it understands.
    pub(super) forget_log: &'static [&'static str],
}

/// "That is no statement" (`ER_PARSE_ERROR`).
const NOT_UNDERSTOOD: u16 = 1064;

/// What the names of binary logs, and of received ones, begin with here.
const LOGS: [&str; 2] = ["binlog.", "received."];

impl Mysql {
    pub(super) async fn adopt(&self, from: &Path) -> Result<Adopted, EngineError> {
        let _turn = self.turn.lock().await;
        let refuse = |why: String| EngineError::AdoptRefused { path: from.to_owned(), why };
        let adoption = match Adoption::resume(from, &self.paths.adopting, (&self.copy(), &self.paths.data))? {
            Some(cut_off) => {
                self.nothing_works_in(&cut_off.at).await?;
                cut_off
            }
            None => {
                check_owner(&self.account, from)?;
                self.check_files(from).map_err(refuse)?;
                Adoption::begin(&self.account, from, &self.paths.adopting, &self.paths.fresh)?
            }
        };
        match self.finish_adoption(from, &adoption).await {
            Ok(notes) => Ok(Adopted { identity: self.config.identity, timeline: 1, notes }),
            Err(e) => {
                adoption.put_back();
                Err(e)
            }
        }
    }

    /// What can be seen without running it.
    fn check_files(&self, from: &Path) -> Result<(), String> {
        let (product, home) = (self.words().product, self.config.dialect.home());
        let has = |name: &str| from.join(name).exists();
        if !has("ibdata1") || !has(home.mark) {
            return Err(format!("it is no data directory of {product} (it has no ibdata1 or no {})", home.mark));
        }
        if !home.redo.iter().any(|r| has(r)) {
            return Err(format!(
                "its redo log is elsewhere (it has no {}): move it there, with its database stopped",
                home.redo.join(" or ")
            ));
        }
        if runs(from).map_err(|e| format!("whether its database runs can't be seen: {e}"))? {
            return Err(format!("its {product} runs: stop it first"));
        }
        if [own::COPIED_TO, own::SALVAGE, own::TAIL].iter().any(|f| has(f)) {
            return Err("it is a copy of a cluster's that has not applied all of its log: adopt the primary's".into());
        }
        match linked(from).map_err(|e| format!("it can't be read: {e}"))? {
            Some(path) => Err(format!(
                "{} leads elsewhere, which can't be replicated: put the data itself in its place",
                path.display()
            )),
            None => Ok(()),
        }
    }

    async fn finish_adoption(&self, from: &Path, adoption: &Adoption) -> Result<Vec<String>, EngineError> {
        let data = &adoption.at;
        let look = self.adopting_arguments(&["--innodb-read-only"]);
        let seen = self.in_private(data, &look, async |session| self.look_over(session, data).await).await;
        let refuse = |why: String| EngineError::AdoptRefused { path: from.to_owned(), why };
        let seen = match seen {
            Err(EngineError::StartFailed { log, .. }) => {
                return Err(refuse(format!(
                    "it can't be read as it is: it was not shut down cleanly, is of another version, or needs a setting that \
                     [engine.parameters] has not. Start it with this {} by itself, and stop it. The end of its log:\n{log}",
                    self.words().product
                )));
            }
            seen => seen?.map_err(refuse)?,
        };
        let logs = Aside::take(data, &self.paths.dir.join("kept/adopted"))?;
        let set_up = self.adopting_arguments(&[]);
        let done = self.in_private(data, &set_up, async |session| self.take_over_users(session, &seen).await).await;
        let done = match done {
            Ok(()) => self.complete_adoption(adoption).await,
            failed => failed,
        };
        if let Err(e) = done {
            logs.put_back();
            return Err(e);
        }
        Ok(seen.notes(&logs))
    }

    /// The data may need settings of the user's to be read at all.
    fn adopting_arguments(&self, more: &[&str]) -> Vec<String> {
        let own = self.config.parameters.iter().map(|(k, v)| format!("--{k}={v}"));
        let all = ["--skip-grant-tables", "--event-scheduler=OFF"].iter().chain(more);
        own.chain(all.map(|&s| s.to_owned())).collect()
    }

    /// What only its database can say. The inner error: why it can't be taken.
    async fn look_over(&self, session: &mut Session, data: &Path) -> Result<Result<Seen, String>, EngineError> {
        const ACTION: &str = "look over the data directory";
        let (product, home) = (self.words().product, self.config.dialect.home());
        let running: String = session.value(ACTION, "select @@version").await?;
        for file in home.version {
            let tables = fs::read_to_string(data.join(file)).unwrap_or_default();
            if !tables.is_empty() && release(&tables) != release(&running) {
                return Ok(Err(format!(
                    "its system tables are of {}, and {product} is {running}: start it by itself, run mariadb-upgrade, and \
                     stop it",
                    tables.trim()
                )));
            }
        }
        if session.row(ACTION, self.words().follows).await?.is_some() {
            return Ok(Err("it is a replica: adopt the primary's directory".into()));
        }
        let ours = "select count(*) from information_schema.schemata where schema_name = 'trine'";
        let trine = session.value::<u64>(ACTION, ours).await? > 0;
        if trine && !data.join(own::IDENTITY).exists() {
            return Ok(Err("it has a database named trine, which the cluster needs for itself: rename it".into()));
        }
        if let Some(elsewhere) = home.elsewhere
            && let Some(path) = session.row(ACTION, elsewhere).await?.and_then(|r| column::<String>(&r, 0))
        {
            return Ok(Err(format!(
                "{path} is elsewhere, which can't be replicated: move that table into the directory"
            )));
        }
        let users = async |session: &mut Session, asked: &str| -> Result<Vec<User>, EngineError> {
            let rows = session.rows(ACTION, asked).await?;
            Ok(rows.iter().filter_map(|r| Some(User { name: column(r, 0)?, host: column(r, 1)? })).collect())
        };
        Ok(Ok(Seen {
            trine,
            anonymous: users(session, "select user, host from mysql.user where user = ''").await?,
            app: users(session, "select user, host from mysql.user where user = 'app' and host = 'localhost'").await?,
            open: users(session, home.without_password).await?,
            elsewhere: users(
                session,
                "select user, host from mysql.user where user <> '' and host not in ('%', 'localhost', '')",
            )
            .await?,
            by_system: users(
                session,
                "select user, host from mysql.user where plugin in ('unix_socket', 'auth_socket') \
                 or authentication_string = 'invalid'",
            )
            .await?,
        }))
    }

    async fn take_over_users(&self, session: &mut Session, seen: &Seen) -> Result<(), EngineError> {
        const ACTION: &str = "make the cluster's users and tables";
        let mut statements = vec!["flush privileges".to_owned()];
        statements.extend(seen.anonymous.iter().map(|u| format!("drop user {}", u.literal())));
        statements.extend(seen.open.iter().map(|u| format!("alter user {} account lock", u.literal())));
        if seen.trine {
            statements.push("drop database trine".into());
        }
        let hosts: &[&str] = if seen.app.is_empty() { &["%"] } else { &["%", "localhost"] };
        statements.extend(self.first_statements(hosts));
        for statement in &statements {
            session.run(ACTION, statement).await?;
        }
        let (last, others) = self.config.dialect.home().forget_log.split_last().unwrap_or((&"do 0", &[]));
        for statement in others {
            match session.run(ACTION, statement).await {
                Err(EngineError::MySql { source: mysql_async::Error::Server(e), .. }) if e.code == NOT_UNDERSTOOD => {}
                done => return done,
            }
        }
        session.run(ACTION, last).await
    }

    async fn complete_adoption(&self, adoption: &Adoption) -> Result<(), EngineError> {
        let identity = format!("{}\n", self.config.identity);
        self.account.write(&adoption.at.join(own::IDENTITY), identity.as_bytes())?;
        sync_all(&adoption.at).await?;
        adoption.complete(&self.paths.data)
    }
}

/// A user of the database.
#[derive(Clone, PartialEq, Eq, Debug)]
struct User {
    name: String,
    host: String,
}

impl User {
    fn literal(&self) -> String {
        format!("{}@{}", literal(&self.name), literal(&self.host))
    }
}

/// What the directory has that a person must know of, or that has to be changed.
#[derive(Debug)]
struct Seen {
    /// A cluster's tables.
    trine: bool,
    anonymous: Vec<User>,
    app: Vec<User>,
    open: Vec<User>,
    elsewhere: Vec<User>,
    by_system: Vec<User>,
}

impl Seen {
    fn notes(&self, logs: &Aside) -> Vec<String> {
        let mut notes = vec![
            "the settings of its my.cnf are not taken over: write those that you need to [engine.parameters]"
                .to_owned(),
        ];
        let mut say = |users: &[User], what: &str| {
            if !users.is_empty() {
                let names: Vec<String> = users.iter().map(User::literal).collect();
                notes.push(format!("{}: {what}", names.join(", ")));
            }
        };
        say(&self.app, "has the password of the cluster's app now");
        say(&self.anonymous, "dropped: they would stand before app@'%'");
        say(
            &self.open,
            "locked, as they have no password and clients from everywhere come as from localhost: give them one and unlock them",
        );
        say(&self.elsewhere, "can't come in: clients come through the endpoints, as from localhost. Make them for '%'");
        say(&self.by_system, "can't come in by the operating system's word any more: give them a password");
        if !logs.moved.is_empty() {
            notes.push(format!(
                "its {} binary logs are in {}: the cluster begins new ones",
                logs.moved.len(),
                logs.to.display()
            ));
        }
        notes
    }
}

/// Logs of before, out of the way of those to come.
#[derive(Debug)]
struct Aside {
    to: PathBuf,
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Aside {
    fn take(data: &Path, to: &Path) -> Result<Self, EngineError> {
        let mut aside = Self { to: to.to_owned(), moved: Vec::new() };
        for entry in fs::read_dir(data).map_err(EngineError::io("read", data))?.flatten() {
            let name = entry.file_name();
            if !LOGS.iter().any(|l| name.to_string_lossy().starts_with(l)) {
                continue;
            }
            fs::create_dir_all(to).map_err(EngineError::io("make the folder", to))?;
            let pair = (entry.path(), to.join(name));
            if let Err(e) = fs::rename(&pair.0, &pair.1) {
                aside.put_back();
                return Err(EngineError::io("move", pair.0)(e));
            }
            aside.moved.push(pair);
        }
        Ok(aside)
    }

    fn put_back(self) {
        for (was, is) in &self.moved {
            if let Err(error) = fs::rename(is, was) {
                tracing::warn!(at = %is.display(), %error, "a log can't be put back; it is here");
            }
        }
    }
}

/// Does somebody hold the lock that the database holds on its data while it runs?
fn runs(data: &Path) -> std::io::Result<bool> {
    let file = fs::File::open(data.join("ibdata1"))?;
    Ok(fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))?.is_some())
}

/// A link in it, or a table's file that says where the data is.
fn linked(folder: &Path) -> std::io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let (kind, path) = entry.and_then(|e| Ok((e.file_type()?, e.path())))?;
        if kind.is_symlink() || path.extension().is_some_and(|e| e == "isl") {
            return Ok(Some(path));
        }
        if kind.is_dir()
            && let Some(found) = linked(&path)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// `10.11` of `10.11.19-MariaDB`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim().split(['.', '-']).map(|n| n.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(release("10.11.19-MariaDB-0+deb12u1"), Some((10, 11)));
        assert_eq!(release("10.6.2-MariaDB\n"), Some((10, 6)));
        assert_eq!(release("nonsense"), None);
    }

    #[test]
    fn logs_are_set_aside_and_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let (data, to) = (dir.path().join("data"), dir.path().join("kept/adopted"));
        fs::create_dir(&data).unwrap();
        for name in ["binlog.000001", "binlog.index", "ibdata1", "mysql-bin.000001"] {
            fs::write(data.join(name), name).unwrap();
        }
        let aside = Aside::take(&data, &to).unwrap();
        assert_eq!(aside.moved.len(), 2);
        assert!(!data.join("binlog.index").exists() && data.join("mysql-bin.000001").exists());
        aside.put_back();
        assert_eq!(fs::read(data.join("binlog.000001")).unwrap(), b"binlog.000001");
    }

    #[test]
    fn what_leads_elsewhere_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("x")).unwrap();
        fs::write(dir.path().join("x/t.ibd"), "").unwrap();
        assert_eq!(linked(dir.path()).unwrap(), None);
        fs::write(dir.path().join("x/t.isl"), "/far").unwrap();
        assert_eq!(linked(dir.path()).unwrap(), Some(dir.path().join("x/t.isl")));
    }
}
