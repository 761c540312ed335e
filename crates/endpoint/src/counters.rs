//! What an endpoint has done, for the status page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

/// Counters of one endpoint. Read them with [`Counters::snapshot`].
#[derive(Debug, Default)]
pub struct Counters {
    /// Sessions now, the held ones included.
    pub(crate) open: AtomicU64,
    /// Connections in their startup phase now.
    pub(crate) starting: AtomicU64,
    /// Sessions that wait for a database now.
    pub(crate) held: AtomicU64,
    /// Connections taken in all.
    pub(crate) accepted: AtomicU64,
    /// Connections refused because of the limit.
    pub(crate) refused: AtomicU64,
    /// Connections that waited longer than the hold limit.
    pub(crate) hold_expired: AtomicU64,
    /// Connections closed because of what they sent first.
    pub(crate) bad_startups: AtomicU64,
    /// Sessions ended by a change of the route.
    pub(crate) ended_by_route: AtomicU64,
    /// Sessions ended because the lease had run out.
    pub(crate) ended_by_permit: AtomicU64,
    /// Sessions ended because a wait for the standbys was cancelled.
    pub(crate) ended_by_sync_cancel: AtomicU64,
    /// Attempts to reach a database that failed.
    pub(crate) failed_dials: AtomicU64,
    /// Cancel requests passed on.
    pub(crate) cancels: AtomicU64,
    /// Bytes from clients.
    pub(crate) bytes_in: AtomicU64,
    /// Bytes to clients.
    pub(crate) bytes_out: AtomicU64,
}

macro_rules! snapshot {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// All counters now (each by itself: they need not fit together to the last one).
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

snapshot! {
    /// Sessions now, the held ones included.
    open,
    /// Connections in their startup phase now.
    starting,
    /// Sessions that wait for a database now.
    held,
    /// Connections taken in all.
    accepted,
    /// Connections refused because of the limit.
    refused,
    /// Connections that waited longer than the hold limit.
    hold_expired,
    /// Connections closed because of what they sent first.
    bad_startups,
    /// Sessions ended by a change of the route.
    ended_by_route,
    /// Sessions ended because the lease had run out.
    ended_by_permit,
    /// Sessions ended because a wait for the standbys was cancelled.
    ended_by_sync_cancel,
    /// Attempts to reach a database that failed.
    failed_dials,
    /// Cancel requests passed on.
    cancels,
    /// Bytes from clients.
    bytes_in,
    /// Bytes to clients.
    bytes_out,
}

/// One more of something, for as long as this lives.
pub(crate) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(crate) fn up(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }

    /// One more, unless there are `limit` already.
    pub(crate) fn up_to(count: &'a AtomicU64, limit: usize) -> Option<Self> {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        count.fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1)).ok().map(|_| Self(count))
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How many sessions may still change something: all but those that a pause has stopped between two transactions.
///
/// A clone counts into the same number, so the endpoint's own sessions and those that other nodes' endpoints forwarded
/// here ([`Served`](crate::Served)) can be waited for together.
#[derive(Clone, Debug)]
pub struct Busy(Arc<watch::Sender<usize>>);

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Busy {
    /// The number, to look at or to wait on (`wait_for(|n| *n == 0)`).
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }

    pub(crate) fn mark(&self) -> BusyMark {
        self.0.send_modify(|n| *n += 1);
        BusyMark { busy: self.clone(), counted: true }
    }
}

/// One session's share of a [`Busy`].
pub(crate) struct BusyMark {
    busy: Busy,
    counted: bool,
}

impl BusyMark {
    pub(crate) fn set(&mut self, busy: bool) {
        if busy == self.counted {
            return;
        }
        self.counted = busy;
        self.busy.0.send_modify(|n| *n = if busy { *n + 1 } else { n.saturating_sub(1) });
    }
}

impl Drop for BusyMark {
    fn drop(&mut self) {
        self.set(false);
    }
}
