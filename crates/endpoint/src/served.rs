//! The other end of a forwarded session: another node's endpoint has led its client to this node's database.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::counters::{Busy, Counters};
use crate::relay::{Ended, Relay};
use crate::tracker::Tracker;
use crate::warden::{Look, Warden};
use crate::{Conn, Limits, Permit, Wire};

/// How forwarded sessions are served.
#[derive(Clone)]
pub struct Served {
    /// Unless it is [`Wire::Raw`], `drain` can tell where a transaction ends.
    pub wire: Wire,
    /// Asked before every write towards the client. `None`: a standby's session.
    pub permit: Option<Arc<dyn Permit>>,
    /// Ends the session at once; nothing more is passed on.
    pub cancel: CancellationToken,
    /// While true: sessions between two transactions are read no more, as with [`Route::drain`](crate::Route::drain). So
    /// a switchover can pause the sessions of all nodes' endpoints on the primary's node alone.
    pub drain: Option<watch::Receiver<bool>>,
    /// Counts those that may still change something; share it with [`Endpoint::busy`](crate::Endpoint::busy).
    pub busy: Busy,
    /// Counts their bytes.
    pub counters: Arc<Counters>,
    /// See [`Limits::half_closed`].
    pub half_closed: Duration,
}

impl Served {
    /// As [`relay_served`] does it.
    #[must_use]
    pub fn new(wire: Wire, permit: Option<Arc<dyn Permit>>, cancel: CancellationToken) -> Self {
        Self {
            wire,
            permit,
            cancel,
            drain: None,
            busy: Busy::default(),
            counters: Arc::default(),
            half_closed: Limits::default().half_closed,
        }
    }

    /// Passes bytes on between the forwarding node and the database until either closes, the permit is lost or it is cancelled.
    pub async fn relay(self, stream: impl Into<Conn>, backend: impl Into<Conn>) {
        let mut stream = stream.into();
        let tracker = Tracker::new(self.wire);
        let (busy, counters) = (self.busy.mark(), self.counters.clone());
        let mut relay = Relay::new(&mut stream, backend.into(), Vec::new(), tracker, self.half_closed, busy, &counters);
        let ended = relay.run(&mut ServedWarden(self)).await;
        drop(relay);
        tracing::debug!(?ended, "forwarded session over");
    }
}

/// Serves a session that another node's endpoint forwarded here: bytes both ways, while `permit` is valid and `cancel` is not
/// cancelled. What to tell the client is the other endpoint's business: this end only closes.
pub async fn relay_served(
    stream: impl Into<Conn>,
    backend: impl Into<Conn>,
    permit: Arc<dyn Permit>,
    cancel: CancellationToken,
) {
    Served::new(Wire::Raw, Some(permit), cancel).relay(stream, backend).await;
}

struct ServedWarden(Served);

impl Warden for ServedWarden {
    fn disturbed(&self) -> bool {
        self.0.cancel.is_cancelled() || self.0.drain.as_ref().is_some_and(|d| d.has_changed().unwrap_or(false))
    }

    fn permitted(&self) -> bool {
        self.0.permit.as_ref().is_none_or(|p| p.valid())
    }

    fn alarm(&self) -> impl Future<Output = ()> + Send + 'static {
        let (cancel, mut drain) = (self.0.cancel.clone(), self.0.drain.clone());
        async move {
            let drained = async {
                let changed = match &mut drain {
                    Some(d) => d.changed().await.is_ok(),
                    None => false,
                };
                if !changed {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = cancel.cancelled() => {}
                () = drained => {}
            }
        }
    }

    fn look(&mut self) -> Look {
        if self.0.cancel.is_cancelled() {
            return Look::End(Ended::Stopped);
        }
        Look::Keep { drain: self.0.drain.as_mut().is_some_and(|d| *d.borrow_and_update()) }
    }
}
