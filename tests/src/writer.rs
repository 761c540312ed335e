//! Clients that write through an endpoint for as long as they are wanted, and log what they were told, whichever database it is.

mod link;
mod mariadb;
mod postgres;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

pub use link::{Answered, Link};
use mariadb::Mariadb;
use postgres::Postgres;
pub use postgres::connect;

use crate::ledger::{Ack, Ended, Report};
use crate::wait::now_ns;
use crate::{mariadb as mariadb_client, redis};

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

/// Makes the table, waiting for the endpoint as long as it takes (up to `within`).
///
/// # Errors
/// It could not be made in time; the last error.
pub async fn prepare(options: &WriterOptions, within: Duration) -> Result<()> {
    let deadline = now_ns() + u64::try_from(within.as_nanos())?;
    loop {
        let once = async {
            match Kind::of(&options.dsn) {
                Kind::Postgres => Postgres::prepare(options).await,
                Kind::Mariadb => Mariadb::prepare(options).await,
                Kind::Redis => redis::Client::prepare(options).await,
            }
        };
        match timeout(Duration::from_secs(5), once).await.unwrap_or_else(|e| Err(e.into())) {
            Ok(()) => return Ok(()),
            Err(e) if now_ns() > deadline => return Err(e.context("making the table through the endpoint")),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What a DSN leads to.
enum Kind {
    Postgres,
    Mariadb,
    Redis,
}

impl Kind {
    fn of(dsn: &str) -> Self {
        match dsn {
            dsn if mariadb_client::is_mariadb(dsn) => Self::Mariadb,
            dsn if redis::is_redis(dsn) => Self::Redis,
            _ => Self::Postgres,
        }
    }
}

/// The statement that gives the id of each row of a writer's table, and the node and the epoch that wrote it: nothing and 0 where
/// the database does not know.
#[must_use]
pub fn rows_sql(dsn: &str, table: &str) -> String {
    match Kind::of(dsn) {
        Kind::Mariadb => format!("select number, '', 0 from {table}"),
        _ => format!("select id, node, epoch from {table}"),
    }
}

/// Runs the clients until [`Live::stop`], or until the one session has ended, and gives what they saw.
pub async fn run(options: WriterOptions, live: Arc<Live>) -> Report {
    match Kind::of(&options.dsn) {
        Kind::Postgres => run_as::<Postgres>(options, live).await,
        Kind::Mariadb => run_as::<Mariadb>(options, live).await,
        Kind::Redis => run_as::<redis::Client>(options, live).await,
    }
}

async fn run_as<L: Link>(options: WriterOptions, live: Arc<Live>) -> Report {
    let report = Arc::new(Mutex::new(Report { table: options.table.clone(), start_ns: now_ns(), ..Report::default() }));
    let clients: Vec<_> = (0..options.clients)
        .map(|n| tokio::spawn(client::<L>(options.clone(), n, Arc::clone(&live), Arc::clone(&report))))
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

async fn client<L: Link>(options: WriterOptions, number: usize, live: Arc<Live>, report: Arc<Mutex<Report>>) {
    let step = i64::try_from(options.clients).unwrap_or(1);
    let mut id = options.first_id + i64::try_from(number).unwrap_or(0);
    let answer = Duration::from_millis(options.answer_timeout_ms);
    let mut session: Option<L> = None;
    let failed = |e: &anyhow::Error, what: &str| {
        let mut r = report.lock().unwrap();
        *r.errors.entry(format!("{what}: {}", L::kind(e))).or_default() += 1;
        if !options.reconnect {
            r.ended.get_or_insert(Ended { sqlstate: L::code(e), message: format!("{e:#}"), at_ns: now_ns() });
            live.ended.store(true, Ordering::Relaxed);
        }
    };
    while !live.stopped() {
        let mut open_session = match session.take() {
            Some(s) => s,
            None => match L::open(&options, number).await {
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
        match within(answer, open_session.write(id)).await {
            Ok(Answered { node, epoch, not_replicated }) => {
                let acked_ns = now_ns();
                let ack = Ack { id, sent_ns, acked_ns, node, epoch };
                let mut r = report.lock().unwrap();
                if not_replicated {
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
        if options.reads {
            let sent_ns = now_ns();
            match within(answer, open_session.read()).await {
                Ok(Answered { node, epoch, .. }) => {
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

/// No answer in time is an error like others.
async fn within<T>(time: Duration, what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(time, what).await.unwrap_or_else(|e| Err(e.into()))
}
