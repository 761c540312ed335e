//! One scenario: a cluster, writers, faults, and at the end always the same checks.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, ChildStdin, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::checks;
use crate::cluster::{Cluster, Options, client_binary};
use crate::ledger::Report;
use crate::namespace::{self, Namespace};
use crate::wait::{wait_for, wait_until};
use crate::writer::{Progress, WriterOptions};

/// Until a writer gets through after a fault. No promise of speed: only so that a test ends.
const THROUGH_WITHIN: Duration = Duration::from_secs(40);

/// Clients that write, in a process of their own in the clients' network.
#[derive(Debug)]
pub struct Writer {
    options: WriterOptions,
    child: RefCell<Child>,
    stdin: RefCell<Option<ChildStdin>>,
    live: Arc<Mutex<Progress>>,
    reader: RefCell<Option<JoinHandle<Result<Report>>>>,
    report: RefCell<Option<Report>>,
}

impl Writer {
    /// Starts it, and waits for its first acknowledgement.
    ///
    /// # Errors
    /// It does not get through.
    pub fn start(network: &Namespace, options: WriterOptions) -> Result<Self> {
        let mut c = network.command(client_binary()?.as_os_str());
        c.arg("write").arg(serde_json::to_string(&options)?);
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = c.spawn().context("starting a writer")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("a writer without output")?;
        let live = Arc::new(Mutex::new(Progress::default()));
        let seen = Arc::clone(&live);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                if let Ok(progress) = serde_json::from_str(&line) {
                    *seen.lock().unwrap() = progress;
                } else {
                    return serde_json::from_str(&line).with_context(|| format!("a writer's report: {line}"));
                }
            }
            bail!("a writer ended without a report");
        });
        Ok(Self {
            options,
            child: RefCell::new(child),
            stdin: RefCell::new(stdin),
            live,
            reader: RefCell::new(Some(reader)),
            report: RefCell::new(None),
        })
    }

    /// What it has seen so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.live.lock().unwrap()
    }

    /// Waits until this many more inserts are acknowledged.
    ///
    /// # Errors
    /// They did not get through.
    pub fn wait_acked(&self, more: u64) -> Result<()> {
        let from = self.progress().acked;
        wait_until(&format!("{more} more acknowledged inserts"), THROUGH_WITHIN, || {
            Ok(self.progress().acked >= from + more)
        })
    }

    /// Waits until its one session has ended.
    ///
    /// # Errors
    /// It is still open.
    pub fn wait_ended(&self) -> Result<()> {
        wait_until("the session to be ended", THROUGH_WITHIN, || Ok(self.progress().ended))
    }

    /// Ends it, and gives all that it saw. Any number of times.
    ///
    /// # Errors
    /// It gives no report.
    pub fn stop(&self) -> Result<Report> {
        if let Some(report) = &*self.report.borrow() {
            return Ok(report.clone());
        }
        drop(self.stdin.borrow_mut().take());
        let reader = self.reader.borrow_mut().take().context("the writer's report was lost")?;
        wait_until("a writer to end", Duration::from_secs(30), || Ok(reader.is_finished()))?;
        let report = reader.join().map_err(|_| anyhow::anyhow!("a writer's reader panicked"))??;
        self.child.borrow_mut().wait()?;
        *self.report.borrow_mut() = Some(report.clone());
        Ok(report)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.stdin.borrow_mut().take());
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A cluster and its writers.
#[derive(Debug)]
pub struct Scenario {
    /// The cluster.
    pub cluster: Cluster,
    writers: RefCell<Vec<Rc<Writer>>>,
}

impl Scenario {
    /// A writer of four clients with each its own session, through the writer endpoint of every node.
    ///
    /// # Errors
    /// It does not get through.
    pub fn writer(&self) -> Result<Rc<Writer>> {
        self.writer_with(WriterOptions { dsn: self.cluster.writers()?, ..WriterOptions::default() })
    }

    /// A writer with other options. Its ids are its own, whatever its options say.
    ///
    /// # Errors
    /// It does not get through.
    pub fn writer_with(&self, options: WriterOptions) -> Result<Rc<Writer>> {
        self.writer_in(self.cluster.client_namespace(), options)
    }

    /// A writer in another network: on a node's own machine.
    ///
    /// # Errors
    /// It does not get through.
    pub fn writer_in(&self, network: &Namespace, mut options: WriterOptions) -> Result<Rc<Writer>> {
        options.first_id = i64::try_from(self.writers.borrow().len())? * 1_000_000_000;
        let writer = Rc::new(Writer::start(network, options)?);
        writer.wait_acked(1).context("a new writer's first insert")?;
        self.writers.borrow_mut().push(Rc::clone(&writer));
        Ok(writer)
    }

    /// The end of every scenario.
    fn finish(&self) -> Result<Vec<Report>> {
        self.cluster.wait_healthy()?;
        let writers = self.writers.borrow();
        for w in writers.iter().filter(|w| w.report.borrow().is_none() && w.options.reconnect) {
            w.wait_acked(10).context("the cluster is healthy again, and a writer does not get through")?;
        }
        let reports: Vec<Report> = writers.iter().map(|w| w.stop()).collect::<Result<_>>()?;
        checks::nothing_lost(&self.cluster, &reports)?;
        checks::copies_hold(&self.cluster, &reports)?;
        Ok(reports)
    }
}

/// Holds the other scenarios back that have the same turn.
struct Turn(#[allow(dead_code, reason = "the lock lives as long as the file")] File);

fn take_turn() -> Result<Turn> {
    let dir = crate::cluster::test_root();
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    // nextest numbers the tests that run at the same time; whoever runs them otherwise runs them one after the other.
    let number = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").unwrap_or_else(|_| "0".to_owned());
    let file = File::create(dir.join(format!("lock-{number}")))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(Turn(file))
}

/// Waits for this test's turn on this machine, and clears away what killed scenarios left behind.
///
/// # Errors
/// The test directory can't be made.
pub fn alone() -> Result<impl Sized> {
    let turn = take_turn()?;
    namespace::sweep();
    sweep_dirs();
    Ok(turn)
}

/// Directories of passed tests are removed by themselves; those that a killed run left are removed when its process is
/// gone and nobody asked to keep them. Those of *failed* tests hold a file `failed`.
fn sweep_dirs() {
    let Ok(entries) = std::fs::read_dir(crate::cluster::test_root()) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        let maker = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('-').next()?.parse().ok());
        if let Some(maker) = maker
            && !crate::process::Process::alive(maker)
        {
            crate::disks::sweep(&path);
            for node in ["n1", "n2", "n3"] {
                let _ = trine_volume::clean_stale(&path.join(node).join("data"));
            }
            if path.join("failed").exists() {
                continue;
            }
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Runs a scenario: cluster up, `body`, healthy again with no command given, the checks.
///
/// # Panics
/// Anything failed; what the cluster's logs say has been printed, and its directory is kept.
pub fn scenario(name: &str, options: &Options, body: impl FnOnce(&Scenario) -> Result<()>) {
    scenario_with(name, options, body, |_, _| Ok(()));
}

/// As [`scenario`], with a look at what the writers saw once all is over.
///
/// # Panics
/// Anything failed; what the cluster's logs say has been printed, and its directory is kept.
pub fn scenario_with(
    name: &str,
    options: &Options,
    body: impl FnOnce(&Scenario) -> Result<()>,
    after: impl FnOnce(&Scenario, &[Report]) -> Result<()>,
) {
    let _turn = alone().expect("the tests' directory");
    let cluster = match Cluster::up(name, options) {
        Ok(c) => c,
        Err(e) => panic!("{name}: {e:#}"),
    };
    let mut s = Scenario { cluster, writers: RefCell::default() };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        body(&s)?;
        let reports = s.finish()?;
        for (r, number) in reports.iter().zip(1..) {
            let text = serde_json::to_string(&r.summary()).unwrap_or_default();
            println!("{name}: writer {number}: {text}");
        }
        after(&s, &reports)
    }));
    if matches!(outcome, Ok(Ok(()))) {
        return;
    }
    s.cluster.keep_dir();
    let _ = std::fs::write(s.cluster.dir().join("failed"), name);
    eprintln!("{}", s.cluster.tell());
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(e)) => panic!("{name}: {e:#}"),
        Err(panic) => resume_unwind(panic),
    }
}

/// Waits until an event of such words exists: the JSON of one event contains them all.
///
/// # Errors
/// None came in time.
pub fn wait_event(cluster: &Cluster, words: &[&str], within: Duration) -> Result<serde_json::Value> {
    wait_for(&format!("an event with {words:?}"), within, || {
        let events = cluster.events()?;
        Ok(events.into_iter().rev().find(|e| {
            let text = e.to_string().to_lowercase();
            words.iter().all(|w| text.contains(&w.to_lowercase()))
        }))
    })
}
