//! The clock that leases are measured by.

use std::fmt;
use std::time::Duration;

use trine_protocol::Moment;

/// Time, as the agent reads it. Timers (`tokio::time`) may only decide *when to look*; what has run out is decided by
/// [`Clock::now`].
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time since this machine's boot, suspend included.
    fn now(&self) -> Moment;

    /// The wall clock, since the Unix epoch: for people's eyes only, no rule reads it.
    fn wall(&self) -> Duration;
}

/// `CLOCK_BOOTTIME`: unlike `CLOCK_MONOTONIC` it goes on while the machine is suspended, as the others' leases do.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Moment {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Moment::from_nanos(nanos(&t))
    }

    fn wall(&self) -> Duration {
        Duration::from_nanos(nanos(&rustix::time::clock_gettime(rustix::time::ClockId::Realtime)))
    }
}

fn nanos(t: &rustix::time::Timespec) -> u64 {
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}
