//! Clients that append to a list and overwrite registers while faults happen, and note what they were told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{sleep, timeout};
use trine_history::list::{Append, Read};
use trine_history::register::{Action, Operation};
use trine_history::{Outcome, Span};

use super::engine::Engine;
use super::history::{Answer, History};
use super::session::{Failure, Question, Reply, Session};
use crate::cluster::Cluster;
use crate::wait::{now_ns, wait_until};

/// Clients of the list.
const APPENDERS: u32 = 4;
/// Clients of the registers.
const OVERWRITERS: u32 = 4;
/// Registers: few, so that clients meet.
const REGISTERS: u32 = 3;
/// At most one question of each client in this time.
const PACE: Duration = Duration::from_millis(30);
/// A session that is not open by then is given up. One address that does not take it by a third of that is left for the next.
const CONNECT: Duration = Duration::from_millis(4500);
/// No answer by then: nobody knows what became of it.
const ANSWER: Duration = Duration::from_secs(4);
/// Until writes pass again after a fault is over. No promise of speed: only so that a run ends.
const THROUGH_WITHIN: Duration = Duration::from_secs(40);
/// After so many values of a client the database's files are put in order.
const TIDY_EVERY: u64 = 150;

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
    /// Makes what the database needs, starts the clients, each with another node's endpoint first, and waits until writes pass.
    ///
    /// # Errors
    /// They don't.
    pub fn start(cluster: &Cluster, engine: Engine) -> Result<Self> {
        engine.prepare(cluster, REGISTERS)?;
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
                let client = |n: u32| One::new(&of_clients, engine, &dsns, n);
                let appenders = (0..APPENDERS).map(|n| tokio::spawn(appender(client(n))));
                let overwriters = (0..OVERWRITERS).map(|n| tokio::spawn(overwriter(client(n + APPENDERS))));
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
/// It can't be read, or is not as a list is.
pub fn read_list(cluster: &Cluster, engine: Engine) -> Result<(u64, Vec<u64>)> {
    cluster.as_client(async move |dsn| Ok((now_ns(), engine.list(&dsn).await?))).context("reading the list")
}

/// One client: its own values, its own session.
struct One {
    shared: Arc<Shared>,
    engine: Engine,
    dsn: String,
    next: u64,
    session: Option<Box<dyn Session>>,
}

impl One {
    fn new(shared: &Arc<Shared>, engine: Engine, dsns: &[String], number: u32) -> Self {
        let dsn = dsns[number as usize % dsns.len()].clone();
        Self { shared: Arc::clone(shared), engine, dsn, next: u64::from(number + 1) * 1_000_000_000, session: None }
    }

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
    async fn session(&mut self) -> Option<Box<dyn Session>> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if let Some(session) = self.session.take() {
                return Some(session);
            }
            match timeout(CONNECT, self.engine.open(&self.dsn, CONNECT / 3)).await {
                Ok(Ok(session)) => return Some(session),
                Ok(Err(failure)) => self.failed("connect", &failure.kind),
                Err(_) => self.failed("connect", "timeout"),
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Asks one thing. The session is kept if it was answered.
    async fn ask(&mut self, mut session: Box<dyn Session>, asked: u64, question: Question) -> (Span, Option<Reply>) {
        let answer = timeout(ANSWER, session.ask(question)).await.unwrap_or_else(|_| Err(Failure::unknown("timeout")));
        let at = now_ns();
        let write = question.value();
        match answer {
            Ok(reply) if reply.let_through => {
                self.note(|h| h.let_through.push(write.map_or(-1, |v| i64::try_from(v).unwrap_or(-1))));
                (Span::unknown(asked), None)
            }
            Ok(reply) => {
                self.note(|h| h.answers.push(Answer { asked, at, by: reply.by, write: write.is_some() }));
                if write.is_some() {
                    self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                self.session = Some(session);
                (Span::answered(asked, at), Some(reply))
            }
            Err(failure) => {
                self.failed(if write.is_some() { "write" } else { "read" }, &failure.kind);
                if failure.impossible {
                    self.note(|h| h.impossible.push(format!("{question:?} at {at}: {}", failure.kind)));
                }
                let outcome = if failure.refused { Outcome::Refused } else { Outcome::Unknown };
                (Span { asked, outcome }, None)
            }
        }
    }

    /// Leaves the rest of its time unused.
    async fn rest(&self, since: u64) {
        sleep(PACE.saturating_sub(Duration::from_nanos(now_ns().saturating_sub(since)))).await;
    }
}

async fn appender(mut me: One) {
    while let Some(session) = me.session().await {
        let value = me.value();
        // Noted before it is sent: it may be in the list before its answer is here.
        let asked = now_ns();
        let place = me.note(|h| {
            h.appends.push(Append { value, span: Span::unknown(asked) });
            h.appends.len() - 1
        });
        let (span, reply) = me.ask(session, asked, Question::Append(value)).await;
        me.note(|h| {
            h.appends[place].span = span;
            h.reads.extend(reply.map(|r| Read { length: r.length, last: Some(value), span }));
        });
        me.rest(asked).await;
        if value.is_multiple_of(3)
            && let Some(session) = me.session().await
        {
            let (span, reply) = me.ask(session, now_ns(), Question::Look).await;
            me.note(|h| h.reads.extend(reply.map(|r| Read { length: r.length, last: r.value, span })));
            me.rest(span.asked).await;
        }
        if value.is_multiple_of(TIDY_EVERY)
            && let Some(session) = &mut me.session
            && timeout(ANSWER, session.tidy()).await.is_err()
        {
            // Its answer may come yet, and must not be taken for another's.
            me.session = None;
        }
    }
}

async fn overwriter(mut me: One) {
    while let Some(session) = me.session().await {
        let value = me.value();
        // Another register in each turn, and what is read is not always what was just written.
        let key = u32::try_from(value % u64::from(REGISTERS)).unwrap_or(0);
        let other = u32::try_from(value / u64::from(REGISTERS) % u64::from(REGISTERS)).unwrap_or(0);
        let asked = now_ns();
        let place = me.note(|h| {
            let operations = h.registers.entry(key).or_default();
            operations.push(Operation { action: Action::Write(value), span: Span::unknown(asked) });
            operations.len() - 1
        });
        let (span, _) = me.ask(session, asked, Question::Write { key, value }).await;
        me.note(|h| {
            if let Some(operation) = h.registers.get_mut(&key).and_then(|all| all.get_mut(place)) {
                operation.span = span;
            }
        });
        me.rest(asked).await;
        // Until it is answered: then after each failure a read comes before the next write, and sees what that would cover up.
        while let Some(session) = me.session().await {
            let (span, reply) = me.ask(session, now_ns(), Question::Read(other)).await;
            me.rest(span.asked).await;
            if let Some(reply) = reply {
                let read = Operation { action: Action::Read(reply.value), span };
                me.note(|h| h.registers.entry(other).or_default().push(read));
                break;
            }
        }
    }
}
