//! Waiting for states, with a deadline; and the one clock that every process on this machine shares.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use trine_platform::{BootClock, Clock};

/// How often a state is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// Nanoseconds since this machine's boot: comparable between the test, its clients and every namespace.
#[must_use]
pub fn now_ns() -> u64 {
    BootClock.now().as_nanos()
}

/// Looks until `look` gives a value. An error of `look` counts as "not yet"; the last one is part of the message when
/// the deadline passes.
///
/// # Errors
/// The deadline has passed.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let clock = BootClock;
    let start = clock.now();
    loop {
        let last = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(e) => Some(e),
        };
        if clock.now().since(start) > within {
            match last {
                Some(e) => bail!("waited {within:?} in vain for: {what}; the last look failed: {e:#}"),
                None => bail!("waited {within:?} in vain for: {what}"),
            }
        }
        thread::sleep(LOOK);
    }
}

/// As [`wait_for`], for a condition.
///
/// # Errors
/// The deadline has passed.
pub fn wait_until(what: &str, within: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, within, || Ok(look()?.then_some(())))
}
