//! Clients that append to a list and overwrite registers while faults happen, and note what they were told.
//!
//! The list is a table; its length and its last value are a row beside it, changed by the same statement. So the database itself says
//! at which place a value stands, and to read that row is to read how much of the list there is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{sleep, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use trine_history::list::{Append, Read};
use trine_history::register::{Action, Operation};
use trine_history::{Outcome, Span};

use super::history::{Answer, History};
use crate::checks;
use crate::cluster::Cluster;
use crate::wait::{now_ns, wait_until};
use crate::writer;

/// Clients of the list.
const APPENDERS: u32 = 4;
/// Clients of the registers.
const OVERWRITERS: u32 = 4;
/// Registers: few, so that clients meet.
const REGISTERS: u32 = 3;
/// At most one question of each client in this time.
const PACE: Duration = Duration::from_millis(30);
/// One host that does not take a session by then is left for the next.
const CONNECT: Duration = Duration::from_millis(1500);
/// No answer by then: nobody knows what became of it.
const ANSWER: Duration = Duration::from_secs(4);
/// Until writes pass again after a fault is over. No promise of speed: only so that a run ends.
const THROUGH_WITHIN: Duration = Duration::from_secs(40);

const WHO: &str = "current_setting('cluster_name'), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";

/// What all clients share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    history: Mutex<History>,
}

/// The running clients. Dropping it ends them.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Workload {
    /// Makes the tables, starts the clients, each with another node's endpoint first, and waits until writes pass.
    ///
    /// # Errors
    /// They don't.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let who = "node text not null default current_setting('cluster_name'), \
                   epoch text not null default substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
        let tables = format!(
            "create table torture_list (pos bigint primary key, value bigint not null, {who}); \
             create table torture_end (length bigint not null, last bigint); \
             insert into torture_end values (0, null); \
             create table torture_registers (key int primary key, value bigint); \
             insert into torture_registers (key) select generate_series(0, {REGISTERS} - 1)"
        );
        checks::select(cluster, &cluster.endpoints()?.writer, &tables, Duration::from_secs(20))?;
        let names: Vec<&str> = cluster.nodes().iter().map(|n| n.name.as_str()).collect();
        let mut dsns = Vec::new();
        for first in 0..names.len() {
            let order: Vec<&str> = names.iter().cycle().skip(first).take(names.len()).copied().collect();
            dsns.push(cluster.writer_at(&order)?);
        }
        let shared = Arc::new(Shared::default());
        let of_clients = Arc::clone(&shared);
        let thread = cluster.client_namespace().spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let appenders = (0..APPENDERS).map(|n| tokio::spawn(appender(client(&of_clients, &dsns, n))));
                let overwriters =
                    (0..OVERWRITERS).map(|n| tokio::spawn(overwriter(client(&of_clients, &dsns, n + APPENDERS))));
                for done in appenders.chain(overwriters).collect::<Vec<_>>() {
                    done.await.context("a client failed itself")?;
                }
                Ok(())
            })
        });
        let started = Self { shared, thread: Some(thread) };
        started.wait_acknowledged(20)?;
        Ok(started)
    }

    /// Waits until this many more writes are acknowledged.
    ///
    /// # Errors
    /// They did not get through.
    pub fn wait_acknowledged(&self, more: u64) -> Result<()> {
        let from = self.shared.acknowledged.load(Ordering::Relaxed);
        wait_until(&format!("{more} more acknowledged writes"), THROUGH_WITHIN, || {
            Ok(self.shared.acknowledged.load(Ordering::Relaxed) >= from + more)
        })
    }

    /// What they have seen so far.
    #[must_use]
    pub fn history(&self) -> History {
        self.shared.history.lock().unwrap().clone()
    }

    /// Ends the clients, and gives all that they saw.
    ///
    /// # Errors
    /// One of them failed itself.
    pub fn stop(mut self) -> Result<History> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the clients' thread")?;
        thread.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))??;
        Ok(self.history())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// The list as the primary has it now, and when that was asked.
///
/// # Errors
/// It can't be read, has a gap, or rows of one epoch that two nodes wrote.
pub fn read_list(cluster: &Cluster) -> Result<(u64, Vec<u64>)> {
    let dsn = cluster.endpoints()?.writer;
    let asked = now_ns();
    let list = cluster.client_namespace().enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (client, _) = writer::connect(&dsn, Duration::from_secs(10)).await?;
            let double = client
                .query("select epoch from torture_list group by epoch having count(distinct node) > 1", &[])
                .await?;
            anyhow::ensure!(double.is_empty(), "rows of one epoch were written by two nodes: {double:?}");
            let rows =
                timeout(Duration::from_secs(60), client.query("select pos, value from torture_list order by pos", &[]));
            let mut list = Vec::new();
            for row in rows.await.context("no answer in time")?? {
                let (pos, value): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
                anyhow::ensure!(usize::try_from(pos)? == list.len() + 1, "the list has a gap before {pos}");
                list.push(u64::try_from(value)?);
            }
            Ok(list)
        })
    });
    Ok((asked, list.context("reading the list")?))
}

/// One client: its own values, its own session.
struct One {
    shared: Arc<Shared>,
    dsn: String,
    next: u64,
    session: Option<Session>,
}

struct Session {
    client: Client,
    not_replicated: Arc<AtomicBool>,
    append: Statement,
    look: Statement,
    write: Statement,
    read: Statement,
}

fn client(shared: &Arc<Shared>, dsns: &[String], number: u32) -> One {
    let dsn = dsns[number as usize % dsns.len()].clone();
    One { shared: Arc::clone(shared), dsn, next: u64::from(number + 1) * 1_000_000_000, session: None }
}

async fn open(dsn: &str) -> Result<Session> {
    let (client, not_replicated) = writer::connect(dsn, CONNECT).await?;
    let prepare = async {
        let append = format!(
            "with grown as (update torture_end set length = length + 1, last = $1 returning length), \
             put as (insert into torture_list (pos, value) select length, $1 from grown) select {WHO}, length from grown"
        );
        let append = client.prepare(&append).await?;
        let look = client.prepare(&format!("select {WHO}, length, last from torture_end")).await?;
        let write = format!("update torture_registers set value = $2 where key = $1 returning {WHO}");
        let write = client.prepare(&write).await?;
        let read = client.prepare(&format!("select {WHO}, value from torture_registers where key = $1")).await?;
        anyhow::Ok((append, look, write, read))
    };
    let (append, look, write, read) = timeout(ANSWER, prepare).await??;
    Ok(Session { client, not_replicated, append, look, write, read })
}

/// Did the database certainly do nothing?
fn refused(e: &tokio_postgres::Error) -> bool {
    // A read-only session (a standby), a serialization failure, a deadlock.
    e.code().is_some_and(|c| matches!(c.code(), "25006" | "40001" | "40P01"))
}

impl One {
    fn value(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn note<T>(&self, what: impl FnOnce(&mut History) -> T) -> T {
        what(&mut self.shared.history.lock().unwrap())
    }

    fn failed(&self, what: &str, kind: &str) {
        self.note(|h| *h.errors.entry(format!("{what}: {kind}")).or_default() += 1);
    }

    /// A session: the one that is open, or a new one as soon as there is one. `None`: it is time to end.
    async fn session(&mut self) -> Option<Session> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if let Some(session) = self.session.take() {
                return Some(session);
            }
            match open(&self.dsn).await {
                Ok(session) => return Some(session),
                Err(e) => {
                    self.failed("connect", &kind(&e));
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
        None
    }

    /// Asks one thing. The session is kept if it was answered. `write`: an acknowledgement counts.
    async fn ask(
        &mut self,
        session: Session,
        asked: u64,
        statement: impl Fn(&Session) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
        write: Option<i64>,
    ) -> (Span, Option<Row>) {
        // `query` returns when the server is ready for the next one: the commit is over by then, not merely the row sent.
        let answer = timeout(ANSWER, session.client.query(statement(&session), parameters)).await;
        let at = now_ns();
        let what = if write.is_some() { "write" } else { "read" };
        match answer {
            Ok(Ok(rows)) => {
                let Some(row) = rows.into_iter().next() else {
                    self.failed(what, "no row");
                    return (Span::unknown(asked), None);
                };
                if session.not_replicated.swap(false, Ordering::SeqCst) {
                    self.note(|h| h.let_through.push(write.unwrap_or(-1)));
                    return (Span::unknown(asked), None);
                }
                let (node, epoch) = who(&row);
                self.note(|h| h.answers.push(Answer { asked, at, node, epoch, write: write.is_some() }));
                if write.is_some() {
                    self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                self.session = Some(session);
                (Span::answered(asked, at), Some(row))
            }
            Ok(Err(e)) => {
                let nothing_done = refused(&e);
                self.failed(what, &kind(&e.into()));
                (Span { asked, outcome: if nothing_done { Outcome::Refused } else { Outcome::Unknown } }, None)
            }
            Err(_) => {
                self.failed(what, "timeout");
                (Span::unknown(asked), None)
            }
        }
    }

    /// Leaves the rest of its time unused.
    async fn rest(&self, since: u64) {
        sleep(PACE.saturating_sub(Duration::from_nanos(now_ns().saturating_sub(since)))).await;
    }
}

fn kind(e: &anyhow::Error) -> String {
    match e.downcast_ref::<tokio_postgres::Error>() {
        Some(e) => e
            .code()
            .map_or_else(|| if e.is_closed() { "closed" } else { "connection" }.to_owned(), |c| c.code().to_owned()),
        None => "timeout".to_owned(),
    }
}

fn who(row: &Row) -> (u8, u64) {
    let node: String = row.get(0);
    let epoch: String = row.get(1);
    (node.trim_start_matches('n').parse().unwrap_or(0), u64::from_str_radix(&epoch, 16).unwrap_or(0))
}

async fn appender(mut me: One) {
    while let Some(session) = me.session().await {
        let value = me.value();
        let sql_value = i64::try_from(value).unwrap_or_default();
        // Noted before it is sent: it may be in the list before its answer is here.
        let asked = now_ns();
        let place = me.note(|h| {
            h.appends.push(Append { value, span: Span::unknown(asked) });
            h.appends.len() - 1
        });
        let (span, row) = me.ask(session, asked, |s| &s.append, &[&sql_value], Some(sql_value)).await;
        let length = row.and_then(|r| usize::try_from(r.get::<_, i64>(2)).ok());
        me.note(|h| {
            h.appends[place].span = span;
            h.reads.extend(length.map(|length| Read { length, last: Some(value), span }));
        });
        me.rest(asked).await;
        if value.is_multiple_of(3)
            && let Some(session) = me.session().await
        {
            let (span, row) = me.ask(session, now_ns(), |s| &s.look, &[], None).await;
            if let Some(row) = row {
                let length = usize::try_from(row.get::<_, i64>(2)).unwrap_or_default();
                let last = row.get::<_, Option<i64>>(3).and_then(|v| u64::try_from(v).ok());
                me.note(|h| h.reads.push(Read { length, last, span }));
            }
            me.rest(span.asked).await;
        }
    }
}

async fn overwriter(mut me: One) {
    while let Some(session) = me.session().await {
        let value = me.value();
        // Another register in each turn, and what is read is not always what was just written.
        let key = u32::try_from(value % u64::from(REGISTERS)).unwrap_or(0);
        let other = u32::try_from(value / u64::from(REGISTERS) % u64::from(REGISTERS)).unwrap_or(0);
        let (sql_key, sql_value) = (i32::try_from(key).unwrap_or(0), i64::try_from(value).unwrap_or_default());
        let asked = now_ns();
        let place = me.note(|h| {
            let operations = h.registers.entry(key).or_default();
            operations.push(Operation { action: Action::Write(value), span: Span::unknown(asked) });
            operations.len() - 1
        });
        let (span, _) = me.ask(session, asked, |s| &s.write, &[&sql_key, &sql_value], Some(sql_value)).await;
        me.note(|h| {
            if let Some(operation) = h.registers.get_mut(&key).and_then(|all| all.get_mut(place)) {
                operation.span = span;
            }
        });
        me.rest(asked).await;
        if let Some(session) = me.session().await {
            let sql_other = i32::try_from(other).unwrap_or(0);
            let (span, row) = me.ask(session, now_ns(), |s| &s.read, &[&sql_other], None).await;
            if let Some(row) = row {
                let seen = row.get::<_, Option<i64>>(2).and_then(|v| u64::try_from(v).ok());
                me.note(|h| h.registers.entry(other).or_default().push(Operation { action: Action::Read(seen), span }));
            }
            me.rest(span.asked).await;
        }
    }
}
