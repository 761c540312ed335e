//! Clients of MariaDB: numbered rows, which the table would also take twice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Statement};
use tokio::time::timeout;

use super::{Answered, Link, WriterOptions};
use crate::{dsn, mariadb};

/// A session with its statements prepared.
pub(super) struct Mariadb {
    conn: Conn,
    client: usize,
    insert: Statement,
    read: String,
}

impl Link for Mariadb {
    async fn prepare(options: &WriterOptions) -> Result<()> {
        let mut conn = mariadb::connect(&options.dsn, Duration::from_secs(5)).await?;
        // Whoever does a write twice is found: the number is no key that would refuse it.
        let columns = "id bigint primary key auto_increment, writer int not null, number bigint not null, \
                       at timestamp(6) not null default current_timestamp(6), key (number)";
        Ok(conn.query_drop(format!("create table if not exists {} ({columns})", options.table)).await?)
    }

    async fn open(options: &WriterOptions, client: usize) -> Result<Self> {
        let dsn = dsn::beginning_with(&options.dsn, client);
        let mut conn = mariadb::connect(&dsn, Duration::from_millis(options.connect_timeout_ms)).await?;
        let table = &options.table;
        let prepare = async {
            if options.statement_timeout_ms > 0 {
                let seconds = Duration::from_millis(options.statement_timeout_ms).as_secs_f64();
                // MySQL has no limit for writes.
                conn.query_drop(format!("/*M! set max_statement_time = {seconds} */")).await?;
            }
            anyhow::Ok(conn.prep(format!("insert into {table} (writer, number) values (?, ?)")).await?)
        };
        let insert = timeout(Duration::from_millis(options.answer_timeout_ms), prepare).await??;
        Ok(Self { conn, client, insert, read: format!("select id from {table} order by id desc limit 1") })
    }

    async fn write(&mut self, id: i64) -> Result<Answered> {
        self.conn.exec_drop(&self.insert, (self.client, id)).await?;
        ensure!(self.conn.affected_rows() == 1, "an insert of {} rows", self.conn.affected_rows());
        Ok(Answered::default())
    }

    async fn read(&mut self) -> Result<Answered> {
        let last: Option<u64> = self.conn.query_first(&self.read).await?;
        last.context("the table is empty, and there was a row")?;
        Ok(Answered::default())
    }

    fn kind(e: &anyhow::Error) -> String {
        mariadb::kind(e)
    }

    fn code(e: &anyhow::Error) -> Option<String> {
        mariadb::code(e).map(|code| code.to_string())
    }
}
