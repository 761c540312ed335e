//! Clients that write into a table of the drill's own, and what they were told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::session::{Hosts, Session, SessionError, StatementError};
use crate::failure::{Done, Failure, chain};

const CLIENTS: i64 = 4;
/// At most one row of each client in this time.
const PACE: Duration = Duration::from_millis(20);
/// No answer by then: nobody knows what became of the row.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the endpoint may take to lead somewhere, for what is done before and after.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was written.
#[derive(Debug, Default)]
struct Told {
    /// Acknowledged rows, and when; in no particular order.
    acknowledged: Vec<(i64, Instant)>,
    /// Rows that were sent and not acknowledged.
    unknown: usize,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verified {
    /// Acknowledged rows.
    pub(crate) acknowledged: usize,
    /// Those of them that are not there.
    pub(crate) lost: usize,
    /// Rows of which no client knows what became.
    pub(crate) unknown: usize,
}

/// The running clients.
pub(crate) struct Ledger {
    hosts: Hosts,
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Ledger {
    /// Makes the table, and starts the clients.
    ///
    /// # Errors
    /// No session, no right to make a table, or another drill's is there.
    pub(crate) async fn open(hosts: Hosts) -> Done<Self> {
        let mut client = session(&hosts).await?;
        match timeout(ANSWER, client.make()).await {
            Ok(Ok(())) => {}
            Ok(Err(StatementError::There)) => {
                let (place, remove) = hosts.place();
                return Err(Failure::not_safe(format!("the {place} is there already: another drill is under way"))
                    .hint(format!("if not, one was killed: {remove}")));
            }
            Ok(Err(e)) => return Err(Failure::because("can't make the drill's table", &e)),
            Err(_) => return Err(Failure::failed("can't make the drill's table: no answer in time")),
        }
        let (told, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let tasks = (0..CLIENTS).map(|n| {
            // Each with another address first.
            let hosts = hosts.beginning_with(usize::try_from(n).unwrap_or(0));
            tokio::spawn(write(hosts, n, Arc::clone(&told), Arc::clone(&stop)))
        });
        let tasks = tasks.collect();
        Ok(Self { hosts, told, stop, tasks })
    }

    /// All that the drill writes is in it, and how a person removes it.
    pub(crate) const fn place(&self) -> (&'static str, &'static str) {
        self.hosts.place()
    }

    /// How many clients there are.
    pub(crate) fn clients(&self) -> usize {
        self.tasks.len()
    }

    /// They get through, before anything is done to the cluster.
    pub(crate) fn must_be_writing(&self, within: Duration) -> Done {
        if self.told(|t| t.acknowledged.is_empty()) {
            let text = format!("no row was acknowledged within {} s, so nothing was done", within.as_secs());
            return Err(Failure::failed(text).hint("does the writer endpoint lead to the primary from here?"));
        }
        Ok(())
    }

    /// The longest time without an acknowledged row that ended after `since`, or has not ended.
    pub(crate) fn longest_pause(&self, since: Instant) -> Duration {
        let mut at: Vec<Instant> = self.told(|t| t.acknowledged.iter().map(|(_, at)| *at).collect());
        at.sort_unstable();
        at.push(Instant::now());
        longest_pause(&at, since)
    }

    /// Waits until a row that was acknowledged after `since` is there: the cluster may be whole before its clients are back.
    pub(crate) async fn wait_written(&self, since: Instant) -> Done {
        let give_up = Instant::now() + PATIENCE;
        while !self.told(|t| t.acknowledged.iter().any(|(_, at)| *at > since)) {
            if Instant::now() >= give_up {
                return Err(Failure::failed(format!("no row was acknowledged for {} s", PATIENCE.as_secs())));
            }
            sleep(PACE).await;
        }
        Ok(())
    }

    /// Ends the clients, and looks for every acknowledged row.
    pub(crate) async fn verify(&self) -> Done<Verified> {
        self.stop.store(true, Ordering::Relaxed);
        let give_up = Instant::now() + ANSWER * 2;
        while self.tasks.iter().any(|t| !t.is_finished()) && Instant::now() < give_up {
            sleep(PACE).await;
        }
        let mut client = session(&self.hosts).await?;
        let there = timeout(PATIENCE, client.ids()).await;
        let there: BTreeSet<i64> = there
            .map_err(|_| Failure::failed("no answer in time"))?
            .map_err(|e| Failure::because("can't read the drill's table", &e))?;
        Ok(self.told(|t| Verified {
            acknowledged: t.acknowledged.len(),
            lost: t.acknowledged.iter().filter(|(id, _)| !there.contains(id)).count(),
            unknown: t.unknown,
        }))
    }

    /// Removes what the drill has made.
    pub(crate) async fn clear(&self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut client = session(&self.hosts).await?;
        let dropped = timeout(PATIENCE, client.clear()).await;
        dropped.map_err(|_| Failure::failed("no answer in time"))?.map_err(|e| Failure::because("dropping it", &e))
    }

    fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The longest time between two neighbours of which the later is after `since`. `at` is in order.
fn longest_pause(at: &[Instant], since: Instant) -> Duration {
    let pairs = at.iter().zip(at.iter().skip(1)).filter(|(_, b)| **b >= since);
    pairs.map(|(a, b)| b.duration_since(*a)).max().unwrap_or_default()
}

/// A session, as soon as there is one.
async fn session(hosts: &Hosts) -> Done<Session> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match hosts.open().await {
            Ok(client) => return Ok(client),
            Err(e @ SessionError::Refused(_)) if Instant::now() >= give_up => return Err(Failure::failed(chain(&e))),
            Err(SessionError::Refused(_)) => sleep(Duration::from_millis(100)).await,
            Err(e) => return Err(Failure::wrong_use(chain(&e))),
        }
    }
}

/// One client: a row, its answer, the next row; a new session whenever one is lost.
async fn write(hosts: Hosts, number: i64, told: Arc<Mutex<Told>>, stop: Arc<AtomicBool>) {
    let mut id = number;
    let mut open: Option<Session> = None;
    let note = |what: &dyn Fn(&mut Told)| what(&mut told.lock().unwrap_or_else(PoisonError::into_inner));
    while !stop.load(Ordering::Relaxed) {
        let Some(mut client) = open.take() else {
            open = hosts.open().await.ok();
            if open.is_none() {
                sleep(Duration::from_millis(10)).await;
            }
            continue;
        };
        let sent = Instant::now();
        match timeout(ANSWER, client.insert(id)).await {
            Ok(Ok(())) => {
                note(&|t| t.acknowledged.push((id, Instant::now())));
                open = Some(client);
                sleep(PACE.saturating_sub(sent.elapsed())).await;
            }
            // Refused, cut off, or no answer: it may be there or not, and is not asked for again.
            _ => note(&|t| t.unknown += 1),
        }
        id += CLIENTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_when_it_ends_after_the_fault() {
        let start = Instant::now();
        let at: Vec<Instant> = [0, 500, 520, 900, 910].map(|ms| start + Duration::from_millis(ms)).to_vec();
        let since = |ms| start + Duration::from_millis(ms);
        assert_eq!(longest_pause(&at, since(0)), Duration::from_millis(500));
        assert_eq!(longest_pause(&at, since(600)), Duration::from_millis(380));
        assert_eq!(longest_pause(&at, since(2000)), Duration::ZERO);
    }
}
