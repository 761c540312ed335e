//! Clients that push numbered values to one list of Redis, and remember at which place of the list each was acknowledged.
//!
//! The place makes the check exact: what was acknowledged must be there at the end, at that very place. So nothing before
//! it has been lost, nothing was done twice, and nothing came in between later.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{sleep, timeout};

use crate::dsn;
use crate::namespace::Namespace;
use crate::redis::{Answer, Session};
use crate::wait::{now_ns, wait_until};

/// The list.
const LIST: &str = "ledger";
/// Until a value gets through after a fault. No promise of speed: only so that a test ends.
const THROUGH_WITHIN: Duration = Duration::from_secs(40);

/// What the clients were told.
#[derive(Debug, Default)]
struct Told {
    /// By the place in the list, from 0.
    acked: BTreeMap<u64, u64>,
    /// Sent, and not answered.
    unknown: BTreeSet<u64>,
    /// What Redis, or who stood between, answered instead of a number.
    refused: BTreeMap<String, u64>,
    /// How often a connection broke, was not made, or gave no answer in time.
    broken: BTreeMap<String, u64>,
    /// A place that was given to two values.
    twice: Vec<(u64, u64, u64)>,
    last_ns: u64,
    longest_gap_ns: u64,
}

/// How the clients write.
#[derive(Clone, Debug)]
pub struct Pushing {
    /// One URI for each endpoint, with commas between.
    pub dsn: String,
    /// How many at once.
    pub clients: usize,
    /// A client's rest after each answer.
    pub pace: Duration,
    /// A value that is not answered in this time is given up.
    pub answer_within: Duration,
}

impl Pushing {
    /// Four clients, through these endpoints.
    #[must_use]
    pub fn to(dsn: String) -> Self {
        Self { dsn, clients: 4, pace: Duration::from_millis(5), answer_within: Duration::from_secs(5) }
    }
}

/// Clients in a network, until they are stopped.
#[derive(Debug)]
pub struct Pushes {
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

/// Numbers that no two clients of a cluster share.
#[derive(Clone, Debug, Default)]
pub struct Numbers(Arc<AtomicU64>);

impl Pushes {
    /// Starts them, and waits for the first acknowledgement.
    ///
    /// # Errors
    /// They don't get through.
    pub fn start(network: &Namespace, how: Pushing, numbers: &Numbers) -> Result<Self> {
        let (told, stop) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let (seen, until, numbers) = (Arc::clone(&told), Arc::clone(&stop), numbers.clone());
        let thread = network.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let clients = (0..how.clients).map(|n| client(&how, n, &numbers, &seen, &until));
                futures::future::join_all(clients).await;
            });
            Ok(())
        });
        let pushes = Self { told, stop, thread: Mutex::new(Some(thread)) };
        pushes.wait_acked(1).context("a new client's first value")?;
        Ok(pushes)
    }

    /// How many were acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.told.lock().unwrap().acked.len()
    }

    /// The highest place of the list that was acknowledged so far.
    #[must_use]
    pub fn furthest(&self) -> u64 {
        self.told.lock().unwrap().acked.keys().next_back().copied().unwrap_or(0)
    }

    /// Waits until this many more are acknowledged.
    ///
    /// # Errors
    /// They did not get through.
    pub fn wait_acked(&self, more: usize) -> Result<()> {
        let from = self.acked();
        wait_until(&format!("{more} more acknowledged values"), THROUGH_WITHIN, || Ok(self.acked() >= from + more))
            .with_context(|| format!("so far: {}", self.say()))
    }

    /// Ends them, after the answer that they wait for. Any number of times.
    ///
    /// # Errors
    /// They don't end.
    pub fn stop(&self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.lock().unwrap().take() else { return Ok(()) };
        wait_until("the clients to end", Duration::from_secs(30), || Ok(thread.is_finished()))?;
        thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
    }

    /// They write no more.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Answers that were errors, with how often each came.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, u64> {
        self.told.lock().unwrap().refused.clone()
    }

    /// In a line, for a person.
    #[must_use]
    pub fn say(&self) -> String {
        let t = self.told.lock().unwrap();
        let gap = Duration::from_nanos(t.longest_gap_ns);
        let (acked, unknown) = (t.acked.len(), t.unknown.len());
        format!(
            "{acked} acknowledged, {unknown} unanswered, the longest pause {gap:.1?}, {:?} {:?}",
            t.broken, t.refused
        )
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The number and something after it, so that the values are of many lengths.
fn value(number: u64) -> String {
    format!("{number}:{}", "x".repeat(usize::try_from(number * 37 % 1500).unwrap_or(0)))
}

async fn client(how: &Pushing, nth: usize, numbers: &Numbers, told: &Mutex<Told>, stop: &AtomicBool) {
    let dsn = dsn::beginning_with(&how.dsn, nth);
    let mut session = None;
    while !stop.load(Ordering::Relaxed) {
        let mut open: Session = match session.take() {
            Some(open) => open,
            None => match Session::connect(&dsn, Duration::from_secs(2)).await {
                Ok(open) => open,
                Err(e) => {
                    failed(&mut told.lock().unwrap(), "connect", &e);
                    sleep(Duration::from_millis(5)).await;
                    continue;
                }
            },
        };
        let number = numbers.0.fetch_add(1, Ordering::Relaxed);
        let text = value(number);
        let answer =
            timeout(how.answer_within, open.ask(&["RPUSH", LIST, &text])).await.unwrap_or_else(|e| Err(e.into()));
        if told.lock().unwrap().take(number, answer) {
            session = Some(open);
            sleep(how.pace).await;
        }
    }
}

impl Told {
    /// Takes down what came of a value. True: it was acknowledged.
    fn take(&mut self, number: u64, answer: Result<Answer>) -> bool {
        match answer {
            Ok(Answer::Number(length)) if length > 0 => {
                let now = now_ns();
                if self.last_ns > 0 {
                    self.longest_gap_ns = self.longest_gap_ns.max(now - self.last_ns);
                }
                self.last_ns = now;
                let place = u64::try_from(length).unwrap_or(0) - 1;
                if let Some(other) = self.acked.insert(place, number) {
                    self.twice.push((place, other, number));
                }
                return true;
            }
            Ok(other) => *self.refused.entry(format!("{other:?}")).or_default() += 1,
            Err(e) => failed(self, "push", &e),
        }
        self.unknown.insert(number);
        false
    }
}

fn failed(told: &mut Told, what: &str, e: &anyhow::Error) {
    let late = e.is::<tokio::time::error::Elapsed>();
    if late || e.is::<io::Error>() || e.to_string() == "closed" {
        let why = if late { "no answer" } else { "closed" };
        *told.broken.entry(format!("{what}: {why}")).or_default() += 1;
    } else {
        *told.refused.entry(format!("{what}: {e}")).or_default() += 1;
    }
}

/// Every acknowledged value is at its place of the list, and what nobody acknowledged is there at most once.
///
/// # Errors
/// What is lost, moved, doubled or strange.
pub fn nothing_lost(network: &Namespace, dsn: &str, all: &[&Pushes]) -> Result<()> {
    let dsn = dsn.to_owned();
    let list = network.block_on(async move || {
        let mut session = Session::connect(&dsn, Duration::from_secs(5)).await?;
        timeout(Duration::from_secs(20), session.ask(&["LRANGE", LIST, "0", "-1"])).await?
    })?;
    let Answer::List(list) = list else { bail!("LRANGE answered {list:?}") };
    let mut there = Vec::with_capacity(list.len());
    for item in &list {
        let Answer::Text(Some(text)) = item else { bail!("an item of the list: {item:?}") };
        let text = std::str::from_utf8(text)?;
        let number: u64 = text.split(':').next().unwrap_or_default().parse().context("an item's number")?;
        ensure!(text == value(number), "value {number} is damaged: {} bytes", text.len());
        there.push(number);
    }
    let mut once = BTreeSet::new();
    for number in &there {
        ensure!(once.insert(*number), "value {number} is there twice");
    }
    let mut places = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for pushes in all {
        let t = pushes.told.lock().unwrap();
        ensure!(t.twice.is_empty(), "two values were acknowledged at one place of the list: {:?}", t.twice);
        for (place, number) in &t.acked {
            if let Some(other) = places.insert(*place, *number) {
                bail!("values {other} and {number} were both acknowledged as the list's item {place}");
            }
        }
        unknown.extend(t.unknown.iter().copied());
    }
    let lost: Vec<_> = places
        .iter()
        .filter(|(place, number)| there.get(usize::try_from(**place).unwrap_or(0)) != Some(number))
        .collect();
    ensure!(
        lost.is_empty(),
        "LOST: {} of {} acknowledged values are not at their place of the list of {}, the first: {:?}",
        lost.len(),
        places.len(),
        there.len(),
        lost.iter().take(10).collect::<Vec<_>>()
    );
    let known: BTreeSet<u64> = places.values().copied().chain(unknown).collect();
    let strange: Vec<_> = once.difference(&known).collect();
    ensure!(strange.is_empty(), "nobody has sent the values {strange:?}");
    Ok(())
}
