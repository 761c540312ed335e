//! Clients that write through an endpoint for as long as they are wanted, and log what they were told.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_postgres::config::Host;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};

use crate::ledger::{Ack, Ended, Report};
use crate::wait::now_ns;

/// What is written, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriterOptions {
    /// Where: a URI, with one or more hosts.
    pub dsn: String,
    /// The table; it is made when it is missing.
    pub table: String,
    /// How many at once.
    pub clients: usize,
    /// The first id. Writers on one table each need a range of their own.
    pub first_id: i64,
    /// At most one insert of each client in this time, in milliseconds.
    pub pace_ms: u64,
    /// A connection attempt to one host is given up after this time.
    pub connect_timeout_ms: u64,
    /// An insert without an answer is given up (and counted as unknown) after this time.
    pub answer_timeout_ms: u64,
    /// `statement_timeout` of the sessions: 0 for none.
    pub statement_timeout_ms: u64,
    /// After every insert, also read (a read is an answer of the primary too).
    pub reads: bool,
    /// Reconnect for ever. Otherwise one session, until it ends.
    pub reconnect: bool,
    /// `synchronous_commit` of the sessions, when it is not to be the server's own.
    pub synchronous_commit: Option<String>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            dsn: String::new(),
            table: "ledger".into(),
            clients: 4,
            first_id: 0,
            pace_ms: 10,
            connect_timeout_ms: 2000,
            answer_timeout_ms: 5000,
            statement_timeout_ms: 0,
            reads: false,
            reconnect: true,
            synchronous_commit: None,
        }
    }
}

/// What a running writer has seen so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Acknowledged inserts.
    pub acked: u64,
    /// Inserts that were sent and not answered, or not with OK.
    #[serde(default)]
    pub unknown: u64,
    /// The id after the highest that was sent.
    pub sent: i64,
    /// When the last answer came, in nanoseconds since boot; 0 before the first.
    pub last_ack_ns: u64,
    /// Its one session has ended.
    pub ended: bool,
}

/// The counters behind [`Progress`], and the flag that ends the clients.
#[derive(Debug, Default)]
pub struct Live {
    acked: AtomicU64,
    unknown: AtomicU64,
    sent: AtomicI64,
    last_ack_ns: AtomicU64,
    ended: AtomicBool,
    stop: AtomicBool,
}

impl Live {
    /// What was seen so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            acked: self.acked.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            last_ack_ns: self.last_ack_ns.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
        }
    }

    /// Ends the clients after the request that they are in.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn sends(&self, id: i64) {
        self.sent.fetch_max(id + 1, Ordering::Relaxed);
    }

    pub(crate) fn acknowledged(&self, at_ns: u64) {
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.last_ack_ns.store(at_ns, Ordering::Relaxed);
    }

    pub(crate) fn unanswered(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }
}

/// The table that every writer uses. Node and epoch are filled in by the primary itself, so each row says who wrote it.
fn table_sql(table: &str) -> String {
    format!(
        "create table if not exists {table} (id bigint primary key, client int not null, \
         at timestamptz not null default clock_timestamp(), node text not null default current_setting('cluster_name'), \
         epoch text not null default substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))"
    )
}

/// A session, and whether it has been told that a commit was not replicated.
struct Session {
    client: Client,
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

/// Makes the table, waiting for the endpoint as long as it takes (up to `within`).
///
/// # Errors
/// It could not be made in time; the last error.
pub async fn prepare(options: &WriterOptions, within: Duration) -> Result<()> {
    let deadline = now_ns() + u64::try_from(within.as_nanos())?;
    loop {
        let attempt = async {
            let (client, _) = connect(&options.dsn, Duration::from_secs(5)).await?;
            timeout(Duration::from_secs(5), client.batch_execute(&table_sql(&options.table))).await??;
            anyhow::Ok(())
        };
        match attempt.await {
            Ok(()) => return Ok(()),
            Err(e) if now_ns() > deadline => return Err(e.context("making the table through the endpoint")),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn open(options: &WriterOptions) -> Result<Session> {
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
        let read = "select current_setting('cluster_name'), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
        let read = if options.reads { Some(client.prepare(read).await?) } else { None };
        anyhow::Ok((insert, read))
    };
    let (insert, read) = timeout(Duration::from_millis(options.answer_timeout_ms), prepare).await??;
    Ok(Session { client, insert, read, not_replicated })
}

fn epoch_of(timeline: &str) -> u64 {
    u64::from_str_radix(timeline, 16).unwrap_or(0)
}

/// The name that an error is counted under.
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

/// One statement that gives (node, epoch).
async fn ask(
    session: &Session,
    statement: &Statement,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    within: Duration,
) -> Result<(String, u64)> {
    // `query` returns when the server is ready for the next one: the commit is over by then, not merely the row sent.
    let rows = timeout(within, session.client.query(statement, parameters)).await??;
    let row = rows.first().context("no row came back")?;
    Ok((row.try_get(0)?, epoch_of(row.try_get(1)?)))
}

/// Runs the clients until [`Live::stop`], or until the one session has ended, and gives what they saw.
pub async fn run(options: WriterOptions, live: Arc<Live>) -> Report {
    let report = Arc::new(Mutex::new(Report { table: options.table.clone(), start_ns: now_ns(), ..Report::default() }));
    let clients: Vec<_> = (0..options.clients)
        .map(|n| tokio::spawn(client(options.clone(), n, Arc::clone(&live), Arc::clone(&report))))
        .collect();
    for c in clients {
        if let Err(e) = c.await {
            let mut r = report.lock().unwrap();
            *r.errors.entry(format!("the client itself failed: {e}")).or_default() += 1;
        }
    }
    let mut report = std::mem::take(&mut *report.lock().unwrap());
    report.end_ns = now_ns();
    report
}

async fn client(options: WriterOptions, number: usize, live: Arc<Live>, report: Arc<Mutex<Report>>) {
    let step = i64::try_from(options.clients).unwrap_or(1);
    let client_number = i32::try_from(number).unwrap_or(0);
    let mut id = options.first_id + i64::from(client_number);
    let answer = Duration::from_millis(options.answer_timeout_ms);
    let mut session: Option<Session> = None;
    let failed = |e: &anyhow::Error, what: &str| {
        let mut r = report.lock().unwrap();
        *r.errors.entry(format!("{what}: {}", kind(e))).or_default() += 1;
        if !options.reconnect {
            let sqlstate =
                e.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.code()).map(|c| c.code().to_owned());
            r.ended.get_or_insert(Ended { sqlstate, message: format!("{e:#}"), at_ns: now_ns() });
            live.ended.store(true, Ordering::Relaxed);
        }
    };
    while !live.stopped() {
        let open_session = match session.take() {
            Some(s) => s,
            None => match open(&options).await {
                Ok(s) => s,
                Err(e) => {
                    failed(&e, "connect");
                    if !options.reconnect {
                        return;
                    }
                    sleep(Duration::from_millis(5)).await;
                    continue;
                }
            },
        };
        let sent_ns = now_ns();
        live.sends(id);
        match ask(&open_session, &open_session.insert, &[&id, &client_number], answer).await {
            Ok((node, epoch)) => {
                let acked_ns = now_ns();
                let ack = Ack { id, sent_ns, acked_ns, node, epoch };
                let mut r = report.lock().unwrap();
                if open_session.not_replicated.swap(false, Ordering::SeqCst) {
                    r.let_through.push(id);
                } else {
                    r.acks.push(ack);
                    live.acknowledged(acked_ns);
                }
            }
            Err(e) => {
                report.lock().unwrap().unknown.push(id);
                live.unanswered();
                failed(&e, "insert");
                id += step;
                if !options.reconnect {
                    return;
                }
                continue;
            }
        }
        id += step;
        if let Some(read) = &open_session.read {
            let sent_ns = now_ns();
            match ask(&open_session, read, &[], answer).await {
                Ok((node, epoch)) => {
                    report.lock().unwrap().reads.push(Ack { id: -1, sent_ns, acked_ns: now_ns(), node, epoch });
                }
                Err(e) => {
                    failed(&e, "read");
                    if !options.reconnect {
                        return;
                    }
                    continue;
                }
            }
        }
        session = Some(open_session);
        let rest = Duration::from_millis(options.pace_ms).saturating_sub(Duration::from_nanos(now_ns() - sent_ns));
        if !rest.is_zero() {
            sleep(rest).await;
        }
    }
}
