//! Who says whether a session may go on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::relay::Ended;
use crate::{Kind, Permit, Route, Target};

/// Watches over one session.
pub(crate) trait Warden {
    /// Is there news that [`Self::look`] has to see before anything more is passed on? Cheap: asked all the time.
    fn disturbed(&self) -> bool;

    /// Is the lease valid? Asked before every write to the client.
    fn permitted(&self) -> bool;

    /// Ready once [`Self::disturbed`] is true.
    fn alarm(&self) -> impl Future<Output = ()> + Send + 'static;

    /// Takes in the news.
    fn look(&mut self) -> Look;
}

/// What the news mean for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It goes on; with `drain`, until it is between two transactions.
    Keep {
        /// [`Route::drain`].
        drain: bool,
    },
    /// It is over.
    End(Ended),
}

/// Tells everything in an endpoint to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Stop {
    pub(crate) fn set(&self) {
        self.flag.store(true, SeqCst);
        self.token.cancel();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(SeqCst)
    }

    pub(crate) async fn wait(&self) {
        self.token.cancelled().await;
    }
}

/// Over a session of an endpoint: the route, and for a local primary its lease.
pub(crate) struct RouteWarden {
    pub(crate) kind: Kind,
    /// The session's own receiver: what it has not seen yet is news.
    pub(crate) routes: watch::Receiver<Route>,
    /// The route that the session began under.
    pub(crate) began: Route,
    pub(crate) target: Target,
    pub(crate) permit: Option<Arc<dyn Permit>>,
    pub(crate) stop: Stop,
}

impl Warden for RouteWarden {
    fn disturbed(&self) -> bool {
        // An error: there is nobody left to say where to lead.
        self.routes.has_changed().unwrap_or(true) || self.stop.is_set()
    }

    fn permitted(&self) -> bool {
        self.permit.as_ref().is_none_or(|p| p.valid())
    }

    fn alarm(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mut routes, stop) = (self.routes.clone(), self.stop.clone());
        async move {
            tokio::select! {
                _ = routes.changed() => {}
                () = stop.wait() => {}
            }
        }
    }

    fn look(&mut self) -> Look {
        if self.stop.is_set() || self.routes.has_changed().is_err() {
            return Look::End(Ended::Stopped);
        }
        let now = self.routes.borrow_and_update();
        if now.keeps(self.kind, &self.began, &self.target) {
            Look::Keep { drain: now.drain }
        } else {
            Look::End(Ended::RouteChanged)
        }
    }
}
