//! MariaDB. An append is done and committed within one block, which the server runs to its end also when its client is cut off in
//! between: nobody is left with a lock that holds all others up. A register is written and read by prepared statements.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Statement};
use tokio::time::timeout;

use super::{Failure, Question, Reply, Session, list_of, tables};
use crate::cluster::Cluster;
use crate::mariadb;

/// Its two numbers. `None`: there is no row.
type Numbers = Option<(u64, Option<u64>)>;

/// A session with its statements prepared.
pub struct Mariadb {
    conn: Conn,
    write: Statement,
    read: Statement,
}

/// One transaction that says where it has put the value. A procedure, as only MariaDB takes such a block by itself.
const APPEND: &str = "create procedure torture_append(v bigint) begin declare len bigint; start transaction; \
    update torture_end set length = length + 1, last_val = v; select length into len from torture_end; \
    insert into torture_list values (len, v); commit; select len, null; end";

impl Mariadb {
    /// Makes the tables.
    ///
    /// # Errors
    /// They can't be made, or what is acknowledged would not be on the disk.
    pub fn prepare(cluster: &Cluster, registers: u32) -> Result<()> {
        cluster.as_client(async move |dsn| {
            let mut conn = mariadb::connect(&dsn, Duration::from_secs(10)).await?;
            let flushes: Vec<u64> = mariadb::rows(&mut conn, "select @@innodb_flush_log_at_trx_commit").await?;
            ensure!(flushes == [1], "a commit is not flushed: innodb_flush_log_at_trx_commit is {flushes:?}");
            for statement in tables(registers) {
                conn.query_drop(statement).await?;
            }
            conn.query_drop(APPEND).await?;
            Ok(())
        })
    }

    /// Opens a session at the first address that takes one: each is tried for so long.
    ///
    /// # Errors
    /// None does.
    pub async fn open(dsn: &str, each: Duration) -> Result<Self> {
        let mut conn = mariadb::connect(dsn, each).await?;
        let write = conn.prep("update torture_registers set val = ? where name = ?").await?;
        let read = conn.prep("select name, val from torture_registers where name = ?").await?;
        Ok(Self { conn, write, read })
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// It can't be read, or has a gap.
    pub async fn list(dsn: &str) -> Result<Vec<u64>> {
        let mut conn = mariadb::connect(dsn, Duration::from_secs(10)).await?;
        let all = mariadb::rows(&mut conn, "select pos, val from torture_list order by pos");
        let rows: Vec<(Option<u64>, Option<u64>)> = timeout(Duration::from_secs(60), all).await??;
        let rows: Vec<[Option<u64>; 2]> = rows.into_iter().map(<[_; 2]>::from).collect();
        list_of(rows.iter().map(<[_; 2]>::as_slice))
    }

    async fn reply(&mut self, question: Question) -> Result<Reply> {
        let numbers: Numbers = match question {
            Question::Append(value) => self.conn.query_first(format!("call torture_append({value})")).await?,
            Question::Look => self.conn.query_first("select length, last_val from torture_end").await?,
            Question::Write { key, value } => {
                self.conn.exec_drop(&self.write, (value, key)).await?;
                Some((self.conn.affected_rows(), None)).filter(|(rows, _)| *rows == 1)
            }
            Question::Read(key) => self.conn.exec_first(&self.read, (key,)).await?,
        };
        let (first, value) = numbers.with_context(|| format!("the row that answers {question:?} is not there"))?;
        Ok(Reply { length: usize::try_from(first)?, value, ..Reply::default() })
    }
}

/// What went wrong, and did the database certainly do nothing?
fn failure(e: &anyhow::Error) -> Failure {
    match mariadb::code(e) {
        // No lock in time, a deadlock, a row that another has changed; a database that takes no writes.
        Some(code @ (1205 | 1213 | 1020 | 1290 | 1836)) => {
            Failure { refused: true, ..Failure::unknown(code.to_string()) }
        }
        // A table that is damaged, or not there any more; a statement that the database does not know.
        Some(1034 | 1035 | 1064 | 1146 | 1194 | 1195 | 1712 | 1877 | 1932 | 1305) => {
            Failure { impossible: true, ..Failure::unknown(format!("{e:#}")) }
        }
        Some(code) => Failure::unknown(code.to_string()),
        None => Failure { impossible: e.to_string().starts_with("the row that"), ..Failure::unknown(mariadb::kind(e)) },
    }
}

impl Session for Mariadb {
    fn ask(&mut self, question: Question) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move { self.reply(question).await.map_err(|e| failure(&e)) })
    }
}

#[cfg(test)]
mod tests {
    use mysql_async::{Error, ServerError};

    use super::*;

    fn of(code: u16) -> Failure {
        failure(&Error::Server(ServerError { code, message: "said".to_owned(), state: "HY000".to_owned() }).into())
    }

    #[test]
    fn a_deadlock_did_nothing_and_an_interrupted_commit_may_have() {
        assert!(of(1213).refused);
        assert_eq!(of(1317), Failure::unknown("1317"));
        assert_eq!(failure(&std::io::Error::other("reset").into()), Failure::unknown("reset"));
    }

    #[test]
    fn a_damaged_index_is_impossible() {
        assert!(of(1712).impossible && of(1146).impossible);
        assert!(!of(1205).impossible);
    }
}
