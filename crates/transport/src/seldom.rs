//! Log lines that strangers cause must not fill the disk.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

/// Lets one message through in each period, and counts the others.
#[derive(Debug)]
pub(crate) struct Seldom {
    period: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    pub(crate) const fn new(period: Duration) -> Self {
        Self { period, state: Mutex::new((None, 0)) }
    }

    /// `Some(left out since the last one)` when this message may be shown.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now.duration_since(last) < self.period) {
            state.1 += 1;
            return None;
        }
        let left_out = state.1;
        *state = (Some(now), 0);
        Some(left_out)
    }
}
