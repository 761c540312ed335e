//! Clocks that differ, drift and stand still.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use trine_platform::Clock;
use trine_protocol::Moment;

/// Not frozen.
const RUNS: u64 = u64::MAX;

/// One machine's clock. A clone is the same clock.
#[derive(Clone)]
pub(super) struct SimClock {
    inner: Arc<Inner>,
}

struct Inner {
    /// The simulation's own time, in nanoseconds.
    time: Arc<AtomicU64>,
    /// What this clock showed at time 0, in nanoseconds.
    offset: u64,
    /// How much faster it runs, in millionths.
    ppm: i64,
    /// Where the agent's view of it stands still.
    frozen: AtomicU64,
    /// How far the wall clock has been set wrong, in milliseconds.
    wall: AtomicI64,
}

impl SimClock {
    pub(super) fn new(time: Arc<AtomicU64>, offset: Duration, ppm: i64) -> Self {
        let offset = u64::try_from(offset.as_nanos()).unwrap_or(0);
        let inner = Inner { time, offset, ppm, frozen: AtomicU64::new(RUNS), wall: AtomicI64::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// What it shows, whoever is frozen.
    pub(super) fn read(&self) -> u64 {
        let time = self.inner.time.load(Relaxed);
        let drift = i128::from(time) * i128::from(self.inner.ppm) / 1_000_000;
        (self.inner.offset + time).saturating_add_signed(i64::try_from(drift).unwrap_or(0))
    }

    /// A process that does not run does not see the time pass.
    pub(super) fn freeze(&self, frozen: bool) {
        let at = if frozen { self.read() } else { RUNS };
        self.inner.frozen.store(at, Relaxed);
    }

    /// Somebody sets the wall clock.
    pub(super) fn set_wall(&self, by_ms: i64) {
        self.inner.wall.fetch_add(by_ms, Relaxed);
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimClock")
    }
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        match self.inner.frozen.load(Relaxed) {
            RUNS => Moment::from_nanos(self.read()),
            at => Moment::from_nanos(at),
        }
    }

    fn wall(&self) -> Duration {
        // 2026-01-01, so that what people see looks like a time.
        const BEGAN: u64 = 1_767_225_600_000;
        let passed = self.inner.time.load(Relaxed) / 1_000_000;
        Duration::from_millis((BEGAN + passed).saturating_add_signed(self.inner.wall.load(Relaxed)))
    }
}
