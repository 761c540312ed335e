//! One run: the plan is done step by step, clients write and read all the while, and what they were told is checked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::engine::Engine;
use super::faults::{self, Harm, Victim};
use super::kind::Kind;
use super::orders;
use super::plan::{Plan, Step};
use super::record::{Record, Struck, seconds};
use super::workload::{Workload, read_list};
use crate::cluster::Cluster;
use crate::wait::now_ns;

/// The history is checked whenever so many faults have been done, and at the end.
const CHECK_EVERY: usize = 25;

/// What ends a run: whichever comes first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// So many faults.
    pub faults: Option<usize>,
    /// So much time.
    pub time: Option<Duration>,
}

/// Does the plan of this seed on the cluster. All that was found wrong is in the record; `say` gets a line for each step.
pub fn run(cluster: &Cluster, engine: Engine, seed: u64, limits: Limits, mut say: impl FnMut(&str)) -> Record {
    let mut record = Record { engine, seed, machine: machine(engine), began: now(), ..Record::default() };
    if let Err(e) = go(cluster, limits, &mut record, &mut say) {
        record.wrong.push(format!("{e:#}"));
    }
    record
}

fn go(cluster: &Cluster, limits: Limits, record: &mut Record, say: &mut dyn FnMut(&str)) -> Result<()> {
    let start = now_ns();
    let workload = Workload::start(cluster, record.engine)?;
    let mut hurried = false;
    let mut checked = 0;
    for (step, number) in Plan::new(record.seed, record.engine).zip(1..) {
        let out_of_time = limits.time.is_some_and(|t| Duration::from_nanos(now_ns() - start) >= t);
        if out_of_time || limits.faults.is_some_and(|n| record.faults >= n) {
            break;
        }
        let mut struck = Struck { number, hurried, ..Struck::default() };
        let outcome = one(cluster, &workload, &step, start, &mut struck);
        let again = if outcome.is_ok() { "writes again" } else { "NOT BACK" };
        say(&format!(
            "{number:>4} {:>6.0} s  {} for {:.1} s; {}; {}",
            struck.at_s,
            struck.did.join("; "),
            struck.lasted_s,
            struck.repaired_s.map_or_else(|| again.to_owned(), |s| format!("healthy {s:.1} s later")),
            if struck.epochs.0 == struck.epochs.1 { "same epoch" } else { "new epoch" },
        ));
        record.faults += struck.kinds.len();
        hurried = !step.until_healthy;
        record.steps.push(struck);
        if let Err(e) = outcome {
            record.wrong.push(format!("step {number} ({step:?}): {e:#}"));
            break;
        }
        if record.faults >= checked + CHECK_EVERY {
            checked = record.faults;
            let (asked, list) = read_list(cluster, record.engine)?;
            let faults = workload.history().until(asked).faults(&list);
            if !faults.is_empty() {
                record.wrong.extend(faults.into_iter().map(|f| format!("after step {number}: {f}")));
                break;
            }
            say(&format!("          {} values in the list, all as it should be", list.len()));
        }
    }
    // Also when something is wrong already: what was lost is worth knowing.
    if let Err(e) = cluster.wait_healthy() {
        record.wrong.push(format!("{e:#}"));
    }
    let history = workload.stop()?;
    record.seconds = seconds(now_ns() - start);
    let counts = history.counts();
    (record.writes, record.reads, record.unknown) = (counts.writes, counts.reads, counts.unknown);
    record.errors = history.errors.clone();
    record.measure(&history.acknowledged_at());
    let (_, list) = read_list(cluster, record.engine)?;
    record.wrong.extend(history.faults(&list));
    Ok(())
}

/// One step: strike, hold, heal, wait until the cluster is back.
fn one(cluster: &Cluster, workload: &Workload, step: &Step, start: u64, struck: &mut Struck) -> Result<()> {
    let status = cluster.wait_status("a primary that takes writes", Duration::from_secs(30), |s| {
        s.primary.is_some() && s.health != "unavailable"
    })?;
    let victim = Victim::of(step, &status)?;
    let began = now_ns();
    (struck.on, struck.at_s, struck.epochs) = (Some(step.on), seconds(began - start), (status.epoch, status.epoch));
    struck.window_ns = (began, began);
    let ended = strike_and_heal(cluster, step, &victim, struck)?;
    let healed = struck.window_ns.1;
    struck.lasted_s = seconds(healed - began);
    if !ended.is_empty() {
        let ended = format!("the agent of {} ended by itself, and was started again", ended.join(" and "));
        // Without room for its log consensus stops, and the agent with it: a service manager starts it again.
        anyhow::ensure!(struck.kinds.contains(&Kind::DiskFull), ended);
        struck.did.push(ended);
    }
    if step.until_healthy {
        struck.epochs.1 = cluster.wait_healthy()?.epoch;
        struck.repaired_s = Some(seconds(now_ns() - healed));
    }
    workload.wait_acknowledged(20).context("writes do not get through again")?;
    if !step.until_healthy {
        struck.epochs.1 = cluster.status().map_or(status.epoch, |s| s.epoch);
    }
    struck.window_ns.1 = now_ns();
    thread::sleep(Duration::from_millis(step.rest_ms));
    Ok(())
}

/// The agents that were gone though nobody had killed them.
fn strike_and_heal(cluster: &Cluster, step: &Step, victim: &Victim, struck: &mut Struck) -> Result<Vec<String>> {
    let over = AtomicBool::new(false);
    let mut harm = Harm::default();
    thread::scope(|scope| {
        let (mut orders, mut disks) = (Vec::new(), Vec::new());
        for fault in &step.faults {
            if fault.kind.is_order() {
                orders.push(scope.spawn(move || orders::give(cluster, *fault, victim)));
                struck.kinds.push(fault.kind);
                continue;
            }
            match faults::strike(cluster, *fault, victim, &mut harm) {
                Ok(what) => {
                    struck.did.push(what);
                    struck.kinds.push(fault.kind);
                }
                // The one before has already ended what this one is for: it does not count.
                Err(e) => struck.did.push(format!("{} was not possible: {e:#}", fault.kind.words())),
            }
            if fault.kind == Kind::DiskSlow {
                disks.push(scope.spawn(|| faults::slow_disk(cluster, &victim.node, &over)));
            }
        }
        thread::sleep(Duration::from_millis(step.hold_ms));
        over.store(true, Ordering::Relaxed);
        disks.into_iter().for_each(|d| drop(d.join()));
        let mut told = Vec::new();
        // A rolling restart stops agents itself: nobody else may start them.
        if step.faults.iter().any(|f| f.kind == Kind::RollingRestart) {
            told.extend(orders.drain(..).map(|o| o.join()));
        }
        let ended = faults::heal(cluster, &harm);
        struck.window_ns.1 = now_ns();
        told.extend(orders.into_iter().map(|o| o.join()));
        for order in told {
            struck.did.push(order.map_err(|_| anyhow::anyhow!("an order panicked"))??);
        }
        ended
    })
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// The machine and the versions, in a line.
fn machine(engine: Engine) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let mut describe = std::process::Command::new("git");
    let commit = crate::namespace::run(describe.args(["describe", "--always", "--dirty"])).unwrap_or_default();
    let build = if cfg!(debug_assertions) { "development build" } else { "release build" };
    format!(
        "{cores} × {}, Linux {}, {}, commit {}, {build}",
        cpu.trim_start_matches(['\t', ' ', ':']),
        kernel.trim(),
        engine.version(),
        commit.trim(),
    )
}
