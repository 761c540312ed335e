//! Sizes that are the same for every volume, but not in tests, which look at what happens at their borders.

use std::time::Duration;

/// How large the parts are that a volume is kept in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Bytes of log in one file: small enough that making one ahead takes a blink, large enough that there are few. The
    /// same at every opening of a copy.
    pub segment: u64,
    /// About every so many bytes of log a mark is kept in memory, to find the check at a place without reading all before.
    pub mark_every: u64,
    /// After so many bytes of log the files are made durable, so that an opening does not take the whole log again. With a
    /// disk that writes 100 MB/s, less than a second's work.
    pub checkpoint_every: u64,
    /// About so many bytes of log are applied in one step: who waits for a part of it goes on in between.
    pub step: u64,
    /// So many bytes are read of the log at once, at least; more than an entry's header.
    pub read: usize,
    /// What nobody waits for is applied after this time at the latest, and a standby told after it that it may: a hundred
    /// commits together cost little more than one.
    pub later: Duration,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            segment: 16 << 20,
            mark_every: 1 << 20,
            checkpoint_every: 64 << 20,
            step: 1 << 20,
            read: 1 << 20,
            later: Duration::from_millis(20),
        }
    }
}
