//! Firebird, through an `isql-fb` that is kept open: statements in, rows out, and after each question a mark of its own.
//!
//! Two that change one row at the same time would refuse each other, so an append locks the row that has the list's length. It is
//! done and committed within one statement: a client that is cut off in between would hold the lock, and all others up.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::BoxFuture;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::{Failure, Question, Reply, Session, list_of, tables};
use crate::cluster::Cluster;
use crate::dsn;

/// After each question.
const MARK: &str = "THE_END";
/// Ends a statement: a block has semicolons of its own.
const TERM: &str = "^";
/// Each try to connect is a program that is started: not as often as the others can try.
const BETWEEN_TRIES: Duration = Duration::from_millis(250);

/// A running `isql-fb` with a session. It ends with this.
pub struct Firebird {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _child: Child,
}

impl Firebird {
    /// Makes the tables.
    ///
    /// # Errors
    /// They can't be made, or what is acknowledged would not be on the disk.
    pub fn prepare(cluster: &Cluster, registers: u32) -> Result<()> {
        cluster.as_client(async move |dsn| {
            let mut session = Self::open(&dsn, Duration::from_secs(10)).await?;
            let forced = session.rows("select mon$forced_writes from mon$database").await?;
            ensure!(forced == [[Some(1)]], "the preset's database has its forced writes off: {forced:?}");
            for statement in tables(registers) {
                session.rows(&statement).await?;
            }
            Ok(())
        })
    }

    /// Opens a session at the first address that takes it and answers.
    ///
    /// # Errors
    /// None does: each is tried for so long.
    pub async fn open(dsn: &str, each: Duration) -> Result<Self> {
        let opened = dsn::first(dsn, each, Self::one).await;
        if opened.is_err() {
            sleep(BETWEEN_TRIES).await;
        }
        opened
    }

    async fn one(uri: &str) -> Result<Self> {
        let rest = uri.strip_prefix("firebird://").context("a URI of Firebird begins with firebird://")?;
        let (login, place) = rest.rsplit_once('@').context("no login in the URI")?;
        let (user, password) = login.split_once(':').context("no password in the URI")?;
        let (address, database) = place.split_once('/').context("no database in the URI")?;
        let (host, port) = address.rsplit_once(':').context("no port in the URI")?;
        let mut child = Command::new("isql-fb")
            .args(["-q", "-m", "-t", TERM, "-user", user, "-password", password])
            .arg(format!("{host}/{port}:{database}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting isql-fb")?;
        let stdin = child.stdin.take().context("isql-fb has no input")?;
        let stdout = BufReader::new(child.stdout.take().context("isql-fb has no output")?);
        let mut session = Self { stdin, stdout, _child: child };
        session.send(&format!("set heading off{TERM}\n")).await?;
        session.rows("select 1 from rdb$database").await?;
        Ok(session)
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// It can't be read, or has a gap.
    pub async fn list(dsn: &str) -> Result<Vec<u64>> {
        let mut session = Self::open(dsn, Duration::from_secs(10)).await?;
        let all = session.rows("select pos, val from torture_list order by pos");
        let rows = timeout(Duration::from_secs(60), all).await??;
        list_of(rows.iter().map(Vec::as_slice))
    }

    async fn send(&mut self, text: &str) -> Result<()> {
        self.stdin.write_all(text.as_bytes()).await?;
        Ok(self.stdin.flush().await?)
    }

    /// One transaction of one statement, and its rows of numbers, when the commit is over.
    async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<u64>>>> {
        // isql begins one of its own whenever it looks something up.
        let transaction =
            format!("commit{TERM}\nset transaction read write wait isolation level read committed record_version");
        // What shows the mark is a transaction, too.
        let mark = format!("select '{MARK}' from rdb$database{TERM} commit{TERM}");
        self.send(&format!("{transaction}{TERM}\n{sql}{TERM}\ncommit{TERM}\n{mark}\n")).await?;
        let mut rows = Vec::new();
        let mut wrong = String::new();
        loop {
            let mut line = String::new();
            ensure!(self.stdout.read_line(&mut line).await? > 0, "closed");
            let line = line.trim();
            if line == MARK {
                break;
            }
            if !wrong.is_empty() || line.starts_with("Statement failed") {
                wrong.push_str(line);
                wrong.push(' ');
                // The mark would have to come by the connection that is lost.
                ensure!(!line.contains("SQLSTATE = 08"), "{wrong}");
            } else if !line.is_empty() {
                let number = |word: &str| if word == "<null>" { Ok(None) } else { word.parse().map(Some) };
                let row = line.split_whitespace().map(number).collect::<Result<_, _>>();
                rows.push(row.with_context(|| format!("a row: {line}"))?);
            }
        }
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(rows)
    }

    async fn reply(&mut self, question: Question) -> Result<Reply> {
        let sql = match question {
            Question::Append(value) => format!(
                "execute block returns (len bigint) as begin in autonomous transaction do begin \
                 select length from torture_end with lock into :len; len = len + 1; \
                 update torture_end set length = :len, last_val = {value}; \
                 insert into torture_list values (:len, {value}); end suspend; end"
            ),
            Question::Look => "select length, last_val from torture_end".to_owned(),
            Question::Write { key, value } => {
                format!(
                    "execute block returns (written int) as begin in autonomous transaction do \
                     update torture_registers set val = {value} where name = {key} returning name into :written; \
                     suspend; end"
                )
            }
            Question::Read(key) => format!("select name, val from torture_registers where name = {key}"),
        };
        let rows = self.rows(&sql).await?;
        let (first, value) = match (rows.as_slice(), question.value()) {
            ([row], Some(_)) if row.len() == 1 => (row[0], None),
            ([row], None) if row.len() == 2 => (row[0], row[1]),
            other => bail!("the row that answers {question:?}: {other:?}"),
        };
        Ok(Reply { length: usize::try_from(first.context("a null")?)?, value, ..Reply::default() })
    }
}

/// What went wrong, in a word, and did the database certainly do nothing?
fn failure(e: &anyhow::Error) -> Failure {
    let said = e.to_string();
    if e.is::<std::io::Error>() || said == "closed" {
        return Failure::unknown("connection");
    }
    let state = said.strip_prefix("Statement failed, SQLSTATE = ").and_then(|rest| rest.split_whitespace().next());
    match state {
        // Another changed the same at the same time: a commit of nothing follows.
        Some("40001") => Failure { refused: true, ..Failure::unknown("40001") },
        // Damage that Firebird itself sees.
        Some("XX000" | "XX001") => Failure { impossible: true, ..Failure::unknown(said) },
        Some(state) => Failure::unknown(state),
        None => Failure { impossible: said.starts_with("the row that"), ..Failure::unknown(said) },
    }
}

impl Session for Firebird {
    fn ask(&mut self, question: Question) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move { self.reply(question).await.map_err(|e| failure(&e)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_did_nothing_and_a_lost_connection_may_have() {
        let of = |said: &str| failure(&anyhow::anyhow!("{said}"));
        assert!(of("Statement failed, SQLSTATE = 40001 deadlock").refused);
        assert_eq!(of("Statement failed, SQLSTATE = 08006 Error reading"), Failure::unknown("08006"));
        assert!(of("Statement failed, SQLSTATE = XX001 database file appears corrupt").impossible);
    }
}
