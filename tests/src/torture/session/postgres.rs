//! PostgreSQL: the list is a table; its length and its last value are a row beside it, changed by the same statement. So the
//! database itself says at which place a value stands, and to read that row is to read how much of the list there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::{Failure, Question, Reply, Session, list_of};
use crate::checks;
use crate::cluster::Cluster;
use crate::writer;

const WHO: &str = "current_setting('cluster_name'), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";

/// A session with its statements prepared.
pub struct Postgres {
    client: Client,
    not_replicated: Arc<AtomicBool>,
    append: Statement,
    look: Statement,
    write: Statement,
    read: Statement,
}

impl Postgres {
    /// Makes the tables.
    ///
    /// # Errors
    /// They can't be made.
    pub fn prepare(cluster: &Cluster, registers: u32) -> Result<()> {
        let who = "node text not null default current_setting('cluster_name'), \
                   epoch text not null default substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
        let tables = format!(
            "create table torture_list (pos bigint primary key, value bigint not null, {who}); \
             create table torture_end (length bigint not null, last bigint); \
             insert into torture_end values (0, null); \
             create table torture_registers (key int primary key, value bigint); \
             insert into torture_registers (key) select generate_series(0, {registers} - 1)"
        );
        checks::select(cluster, &cluster.endpoints()?.writer, &tables, Duration::from_secs(20)).map(drop)
    }

    /// Opens a session.
    ///
    /// # Errors
    /// No host takes one: each is tried for so long.
    pub async fn open(dsn: &str, each: Duration) -> Result<Self> {
        let (client, not_replicated) = writer::connect(dsn, each).await?;
        let append = format!(
            "with grown as (update torture_end set length = length + 1, last = $1 returning length), \
             put as (insert into torture_list (pos, value) select length, $1 from grown) select {WHO}, length from grown"
        );
        let append = client.prepare(&append).await?;
        let look = client.prepare(&format!("select {WHO}, length, last from torture_end")).await?;
        let write = format!("update torture_registers set value = $2 where key = $1 returning {WHO}");
        let write = client.prepare(&write).await?;
        let read = client.prepare(&format!("select {WHO}, value from torture_registers where key = $1")).await?;
        Ok(Self { client, not_replicated, append, look, write, read })
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// It can't be read, has a gap, or rows of one epoch that two nodes wrote.
    pub async fn list(dsn: &str) -> Result<Vec<u64>> {
        let (client, _) = writer::connect(dsn, Duration::from_secs(10)).await?;
        let double =
            client.query("select epoch from torture_list group by epoch having count(distinct node) > 1", &[]).await?;
        anyhow::ensure!(double.is_empty(), "rows of one epoch were written by two nodes: {double:?}");
        let rows =
            timeout(Duration::from_secs(60), client.query("select pos, value from torture_list order by pos", &[]));
        let rows = rows.await.context("no answer in time")??;
        let numbers = rows.iter().map(|row| Ok([number(row.try_get(0)?), number(row.try_get(1)?)]));
        let numbers: Vec<_> = numbers.collect::<Result<_>>()?;
        list_of(numbers.iter().map(<[_; 2]>::as_slice))
    }

    async fn one(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Failure> {
        // `query` returns when the server is ready for the next one: the commit is over by then, not merely the row sent.
        let rows = self.client.query(statement, parameters).await.map_err(|e| failure(&e))?;
        rows.into_iter().next().ok_or_else(|| Failure::unknown("no row"))
    }
}

/// What went wrong, and did the database certainly do nothing?
fn failure(e: &tokio_postgres::Error) -> Failure {
    let Some(code) = e.code() else {
        return Failure::unknown(if e.is_closed() { "closed" } else { "connection" });
    };
    // A read-only session (a standby), a serialization failure, a deadlock.
    let refused = matches!(code.code(), "25006" | "40001" | "40P01");
    Failure { refused, ..Failure::unknown(code.code()) }
}

fn number(value: Option<i64>) -> Option<u64> {
    value.and_then(|v| u64::try_from(v).ok())
}

impl Session for Postgres {
    fn ask(&mut self, question: Question) -> BoxFuture<'_, Result<Reply, Failure>> {
        let signed = |value: u64| i64::try_from(value).unwrap_or_default();
        let key_of = |key: u32| i32::try_from(key).unwrap_or_default();
        Box::pin(async move {
            let row = match question {
                Question::Append(value) => self.one(&self.append, &[&signed(value)]).await?,
                Question::Look => self.one(&self.look, &[]).await?,
                Question::Write { key, value } => self.one(&self.write, &[&key_of(key), &signed(value)]).await?,
                Question::Read(key) => self.one(&self.read, &[&key_of(key)]).await?,
            };
            let node: String = row.get(0);
            let epoch: String = row.get(1);
            let by = (node.trim_start_matches('n').parse().unwrap_or(0), u64::from_str_radix(&epoch, 16).unwrap_or(0));
            let let_through = self.not_replicated.swap(false, Ordering::SeqCst);
            let mut reply = Reply { by: Some(by), let_through, ..Reply::default() };
            match question {
                Question::Append(_) => reply.length = number(row.get(2)).and_then(|n| n.try_into().ok()).unwrap_or(0),
                Question::Look => {
                    reply.length = number(row.get(2)).and_then(|n| n.try_into().ok()).unwrap_or(0);
                    reply.value = number(row.get(3));
                }
                Question::Write { .. } => {}
                Question::Read(_) => reply.value = number(row.get(2)),
            }
            Ok(reply)
        })
    }
}
