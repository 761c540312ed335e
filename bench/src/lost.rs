//! How long Redis on a replicated volume takes no writes when its primary's node is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::timeout;
use trine_tests::redis::Session;
use trine_tests::{now_ns, wait_until};

use crate::volume::Local;

/// A node is lost once so many writes were acknowledged since the last time, and the pause is over with as many more.
const WRITES: u64 = 500;

const PATIENCE: Duration = Duration::from_secs(60);

/// What the writers were told.
#[derive(Default)]
struct Told {
    acknowledged: AtomicU64,
    last_ns: AtomicU64,
    longest_ns: AtomicU64,
    stop: AtomicBool,
}

impl Told {
    fn acknowledged(&self) {
        let now = now_ns();
        let pause = now.saturating_sub(self.last_ns.swap(now, Ordering::Relaxed));
        self.longest_ns.fetch_max(pause, Ordering::Relaxed);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    fn wait_for(&self, more: u64) -> Result<()> {
        let upto = self.acknowledged.load(Ordering::Relaxed) + more;
        wait_until("writes to be acknowledged", PATIENCE, || Ok(self.acknowledged.load(Ordering::Relaxed) >= upto))
    }
}

/// Seconds between two acknowledgements, for each of `rounds` primaries whose node was killed: agent, guard and database.
pub(crate) fn node_lost(local: &Local, rounds: usize) -> Result<Vec<f64>> {
    let told = Told::default();
    let uris = local.run(&["endpoints", "--json"])?;
    let uris: serde_json::Value = serde_json::from_str(&uris)?;
    let uris: Vec<&str> = uris["writers"].as_array().into_iter().flatten().filter_map(|u| u.as_str()).collect();
    let dsn = uris.join(",");
    ensure!(!dsn.is_empty(), "no endpoints");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut pauses = Vec::new();
    std::thread::scope(|scope| {
        let (told, dsn) = (&told, dsn.as_str());
        let writing = scope.spawn(move || {
            // As many writers as in the other measurements of faults.
            runtime.block_on(async {
                tokio::join!(write(dsn, 0, told), write(dsn, 1, told), write(dsn, 2, told), write(dsn, 3, told))
            });
        });
        let measured = (0..rounds).try_for_each(|_| {
            local.wait_healthy()?;
            told.wait_for(WRITES)?;
            let (primary, _, _) = local.primary()?;
            told.longest_ns.store(0, Ordering::Relaxed);
            local.run(&["local", "kill-node", &primary])?;
            told.wait_for(WRITES)?;
            pauses.push(told.longest_ns.load(Ordering::Relaxed) as f64 / 1e9);
            local.run(&["local", "start-node", &primary]).map(drop)
        });
        told.stop.store(true, Ordering::Relaxed);
        writing.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?;
        measured
    })?;
    Ok(pauses)
}

async fn write(dsn: &str, number: u64, told: &Told) {
    let key = format!("bench-{number}");
    while !told.stop.load(Ordering::Relaxed) {
        let Ok(mut session) = Session::connect(dsn, Duration::from_secs(1)).await else { continue };
        while !told.stop.load(Ordering::Relaxed) {
            let asked = timeout(Duration::from_secs(5), session.ask(&["INCR", &key])).await;
            match asked.context("no answer").and_then(|answer| answer) {
                Ok(_) => told.acknowledged(),
                Err(_) => break,
            }
        }
    }
}
