//! Many seeds, several at a time.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fault::Plan;
use super::lab::Lab;
use super::product::Product;
use super::shrink::shortest;
use super::simulation::Outcome;

/// After so many seeds it says how far it is.
const WORD: u64 = 1000;

/// How much of a story is shown of a failure, in lines.
const SHOWN: usize = 60;

/// Which seeds.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Whose habits the databases have.
    pub product: Product,
    /// Each of them twice: the two stories must be the same.
    pub twice: bool,
    /// Go on after a failure.
    pub keep_going: bool,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// How many were run.
    pub runs: u64,
    /// How many things went wrong in them, as planned.
    pub faults: u64,
    /// How many commits were acknowledged.
    pub acknowledged: u64,
    /// How many epochs there were.
    pub epochs: u64,
    /// How long the clusters ran, by their own clocks, in milliseconds.
    pub simulated_ms: u64,
    /// The seeds that failed.
    pub failed: Vec<u64>,
    /// How long it took.
    pub took: Duration,
}

struct Board {
    next: u64,
    sum: Sum,
}

impl Campaign {
    /// Runs them, one at a time in each lab, until `stop` says to stop. Failures are printed with the shortest plan that still
    /// fails.
    ///
    /// # Errors
    /// A run could not be made.
    pub fn run(self, labs: &[Lab], stop: &AtomicBool) -> io::Result<Sum> {
        #[allow(clippy::disallowed_methods, reason = "how long the campaign itself takes")]
        let began = Instant::now();
        let board = Mutex::new(Board { next: self.from, sum: Sum::default() });
        let work = |lab| self.work(lab, &board, stop, began);
        let work = &work;
        std::thread::scope(|scope| {
            let workers: Vec<_> = labs.iter().map(|lab| scope.spawn(move || work(lab))).collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err(io::Error::other("a worker died"))))
        })?;
        let mut sum = locked(&board).sum.clone();
        sum.took = began.elapsed();
        Ok(sum)
    }

    fn work(self, lab: &Lab, board: &Mutex<Board>, stop: &AtomicBool, began: Instant) -> io::Result<()> {
        loop {
            let seed = {
                let mut board = locked(board);
                let enough = !self.keep_going && !board.sum.failed.is_empty();
                let stopped = enough || stop.load(Relaxed);
                if board.next >= self.from.saturating_add(self.seeds) || stopped {
                    return Ok(());
                }
                board.next += 1;
                board.next - 1
            };
            let plan = Plan::of(seed).with(self.product);
            let outcome = lab.run(&plan)?;
            let failure = self.failure(lab, &plan, &outcome)?;
            let mut board = locked(board);
            let sum = &mut board.sum;
            sum.runs += 1;
            sum.faults += plan.steps.len() as u64;
            sum.acknowledged += outcome.acknowledged;
            sum.epochs += outcome.epoch;
            sum.simulated_ms += outcome.simulated_ms;
            if let Some(failure) = failure {
                sum.failed.push(seed);
                println!("seed {seed} FAILS: {failure}");
            }
            if sum.runs.is_multiple_of(WORD) {
                println!("{} seeds, {:.1} a second", sum.runs, rate(sum.runs, began.elapsed()));
            }
        }
    }

    fn failure(self, lab: &Lab, plan: &Plan, outcome: &Outcome) -> io::Result<Option<String>> {
        if !outcome.failures.is_empty() {
            let fails = |plan: &Plan| lab.run(plan).is_ok_and(|o| !o.failures.is_empty());
            let short = shortest(plan, fails);
            let outcome = lab.run(&short)?;
            let lines: Vec<&str> = outcome.story.lines().collect();
            let last = lines.iter().skip(lines.len().saturating_sub(SHOWN)).fold(String::new(), |t, l| t + l + "\n");
            return Ok(Some(format!("the shortest plan that does:\n{short}{last}{outcome}")));
        }
        if !self.twice {
            return Ok(None);
        }
        let again = lab.run(plan)?;
        Ok((again.digest != outcome.digest)
            .then(|| format!("two runs differ, first in\n{}", difference(outcome, &again))))
    }
}

fn locked(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(runs: u64, took: Duration) -> f64 {
    runs as f64 / took.as_secs_f64().max(0.001)
}

/// The first lines in which two stories differ.
fn difference(one: &Outcome, two: &Outcome) -> String {
    let one = one.story.lines().map(Some).chain(std::iter::repeat(None));
    let pair = one.zip(two.story.lines().map(Some).chain([None])).find(|(a, b)| a != b);
    let line = |l: Option<&str>| l.unwrap_or("(the end)").to_owned();
    pair.map_or_else(|| "what is not kept of them".to_owned(), |(a, b)| format!("  {}\n  {}", line(a), line(b)))
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds in {:.0} s, {:.1} a second: {} hours of clusters, {} faults, {} epochs, {} commits acknowledged, {} \
             seeds failed",
            self.runs,
            self.took.as_secs_f64(),
            rate(self.runs, self.took),
            self.simulated_ms / 3_600_000,
            self.faults,
            self.epochs,
            self.acknowledged,
            self.failed.len()
        )
    }
}
