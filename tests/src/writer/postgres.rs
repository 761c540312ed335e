//! Clients of PostgreSQL.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};

use super::{Answered, Link, WriterOptions};

/// The table that every writer uses. Node and epoch are filled in by the primary itself, so each row says who wrote it.
fn table_sql(table: &str) -> String {
    format!(
        "create table if not exists {table} (id bigint primary key, client int not null, \
         at timestamptz not null default clock_timestamp(), node text not null default current_setting('cluster_name'), \
         epoch text not null default substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))"
    )
}

/// A session with its statements prepared, and whether it has been told that a commit was not replicated.
pub(super) struct Postgres {
    client: Client,
    number: i32,
    insert: Statement,
    read: Option<Statement>,
    not_replicated: Arc<AtomicBool>,
}

/// PostgreSQL's words, in every version since 9.1, when it stops waiting for a standby and answers OK all the same.
const NOT_REPLICATED: &str = "canceling wait for synchronous replication";

/// The hosts of a DSN, each as a configuration of its own.
fn hosts(dsn: &str) -> Result<Vec<Config>> {
    let all: Config = dsn.parse().context("the DSN")?;
    let ports = all.get_ports();
    let of_each = all.get_hosts().iter().enumerate().map(|(n, host)| {
        let mut one = Config::new();
        match host {
            Host::Tcp(name) => one.host(name),
            Host::Unix(path) => one.host_path(path),
        };
        one.port(ports.get(n).or(ports.first()).copied().unwrap_or(5432));
        one.user(all.get_user().unwrap_or("postgres")).dbname(all.get_dbname().unwrap_or("postgres"));
        if let Some(password) = all.get_password() {
            one.password(password);
        }
        // A node that is cut off answers nothing at all: without these a client sits on its half of a connection for hours.
        one.connect_timeout(Duration::from_secs(1)).tcp_user_timeout(Duration::from_secs(2));
        one.keepalives_idle(Duration::from_secs(1)).keepalives_interval(Duration::from_secs(1)).keepalives_retries(2);
        one
    });
    Ok(of_each.collect())
}

/// Connects to the first host that takes a session within `each`, as libpq does: also a host that only *accepts* the
/// connection (because its agent is frozen, say) is left for the next one. Logs warnings that make an OK worthless.
///
/// # Errors
/// No host of the DSN took a session; the last one's error.
pub async fn connect(dsn: &str, each: Duration) -> Result<(Client, Arc<AtomicBool>)> {
    let mut last = anyhow::anyhow!("the DSN names no host");
    for config in hosts(dsn)? {
        let (client, mut connection) = match timeout(each, config.connect(NoTls)).await {
            Ok(Ok(session)) => session,
            Ok(Err(e)) => {
                last = e.into();
                continue;
            }
            Err(e) => {
                last = e.into();
                continue;
            }
        };
        let warned = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&warned);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(n) = message
                    && n.message().contains(NOT_REPLICATED)
                {
                    flag.store(true, Ordering::SeqCst);
                }
            }
        });
        return Ok((client, warned));
    }
    Err(last)
}

fn epoch_of(timeline: &str) -> u64 {
    u64::from_str_radix(timeline, 16).unwrap_or(0)
}

impl Postgres {
    /// One statement that gives (node, epoch).
    async fn ask(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<Answered> {
        // `query` returns when the server is ready for the next one: the commit is over by then, not merely the row sent.
        let rows = self.client.query(statement, parameters).await?;
        let row = rows.first().context("no row came back")?;
        let not_replicated = self.not_replicated.swap(false, Ordering::SeqCst);
        Ok(Answered { node: row.try_get(0)?, epoch: epoch_of(row.try_get(1)?), not_replicated })
    }
}

impl Link for Postgres {
    async fn prepare(options: &WriterOptions) -> Result<()> {
        let (client, _) = connect(&options.dsn, Duration::from_secs(5)).await?;
        Ok(client.batch_execute(&table_sql(&options.table)).await?)
    }

    async fn open(options: &WriterOptions, client: usize) -> Result<Self> {
        let number = i32::try_from(client)?;
        let (client, not_replicated) = connect(&options.dsn, Duration::from_millis(options.connect_timeout_ms)).await?;
        let table = &options.table;
        let prepare = async {
            let mut settings = format!("set statement_timeout = {}", options.statement_timeout_ms);
            if let Some(level) = &options.synchronous_commit {
                settings.push_str(&format!("; set synchronous_commit = {level}"));
            }
            client.batch_execute(&settings).await?;
            let insert = format!("insert into {table} (id, client) values ($1, $2) returning node, epoch");
            let insert = client.prepare(&insert).await?;
            let read =
                "select current_setting('cluster_name'), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
            let read = if options.reads { Some(client.prepare(read).await?) } else { None };
            anyhow::Ok((insert, read))
        };
        let (insert, read) = timeout(Duration::from_millis(options.answer_timeout_ms), prepare).await??;
        Ok(Self { client, number, insert, read, not_replicated })
    }

    async fn write(&mut self, id: i64) -> Result<Answered> {
        self.ask(&self.insert, &[&id, &self.number]).await
    }

    async fn read(&mut self) -> Result<Answered> {
        self.ask(self.read.as_ref().context("it was not said that it will read")?, &[]).await
    }

    fn kind(e: &anyhow::Error) -> String {
        match e.downcast_ref::<tokio_postgres::Error>() {
            Some(e) => match e.code() {
                Some(code) => code.code().to_owned(),
                None if e.is_closed() => "closed".into(),
                None => "connection".into(),
            },
            None => "timeout".into(),
        }
    }

    fn code(e: &anyhow::Error) -> Option<String> {
        e.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.code()).map(|c| c.code().to_owned())
    }
}
