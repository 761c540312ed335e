//! The endpoint: takes connections, and leads them on.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use trine_platform::{Clock, MoveHere, Relays};

use crate::conn::Incoming;
use crate::counters::{Busy, Counters, Gauge};
use crate::session;
use crate::warden::Stop;
use crate::{Dialer, Kind, Limits, Route, Target, Wire};

/// A writer or reader endpoint of one node. A clone is the same endpoint.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

/// What an endpoint's sessions share.
pub(crate) struct Shared {
    pub(crate) kind: Kind,
    pub(crate) wire: Wire,
    pub(crate) limits: Limits,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) routes: watch::Receiver<Route>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) busy: Busy,
    pub(crate) stop: Stop,
    loads: Arc<Mutex<HashMap<Target, usize>>>,
    turn: AtomicUsize,
}

impl Endpoint {
    /// An endpoint that leads where the newest of `routes` says. With `tls`, clients that ask for it get TLS with that
    /// certificate; without, PostgreSQL's are told that there is none, and MySQL's may agree on it with the database. It ends when the sender of `routes` is dropped.
    #[must_use]
    pub fn new(
        kind: Kind,
        wire: Wire,
        limits: Limits,
        dialer: Arc<dyn Dialer>,
        routes: watch::Receiver<Route>,
        clock: Arc<dyn Clock>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        // The name by which PostgreSQL's clients ask for it when they begin with TLS at once (libpq 17).
        let tls = tls.map(|config| {
            let mut config = (*config).clone();
            config.alpn_protocols = if wire == Wire::Postgres { vec![b"postgresql".to_vec()] } else { vec![] };
            Arc::new(config)
        });
        let shared = Shared {
            kind,
            wire,
            limits,
            dialer,
            routes,
            clock,
            tls,
            counters: Arc::default(),
            busy: Busy::default(),
            stop: Stop::default(),
            loads: Arc::default(),
            turn: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The sessions that a pause ([`Route::drain`]) has not stopped yet: with no pause, all that have a database. After a
    /// pause was sent, 0 means that no transaction is open and none will begin.
    #[must_use]
    pub fn busy(&self) -> Busy {
        self.shared.busy.clone()
    }

    /// What it has done.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Takes connections until `shutdown`, for `relays` to carry; then ends the sessions, and returns when they are closed. It
    /// may run several times at once, for one listener each; when one of them stops, the endpoint does, for good.
    pub async fn run(&self, listener: impl Into<Incoming>, relays: &Relays, shutdown: CancellationToken) {
        let mut incoming = listener.into();
        let shared = &self.shared;
        let sessions = TaskTracker::new();
        let mut routes = shared.routes.clone();
        let on = incoming.local_addr().map(|a| a.to_string()).unwrap_or_default();
        info!(endpoint = %shared.kind, on, to = %*routes.borrow_and_update(), "endpoint open");
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = routes.changed() => match changed {
                    Ok(()) => {
                        let now = routes.borrow_and_update();
                        info!(endpoint = %shared.kind, epoch = %now.epoch, to = %*now, "endpoint leads");
                    }
                    Err(_) => break,
                },
                accepted = incoming.accept() => match accepted {
                    Ok((conn, from)) => self.begin(&sessions, relays, conn, from),
                    Err(e) => Self::not_accepted(shared.kind, &e).await,
                },
            }
        }
        drop(incoming);
        shared.stop.set();
        sessions.close();
        // Each session bounds its own farewell.
        let most = shared.limits.farewell + Duration::from_secs(1);
        if tokio::time::timeout(most, sessions.wait()).await.is_err() {
            warn!(endpoint = %shared.kind, sessions = sessions.len(), "sessions left when the endpoint stopped");
        }
    }

    fn begin(&self, sessions: &TaskTracker, relays: &Relays, conn: crate::Conn, from: std::net::SocketAddr) {
        let shared = self.shared.clone();
        shared.counters.accepted.fetch_add(1, Relaxed);
        let place = relays.place();
        let handle = place.handle();
        let session = async move {
            let _place = place;
            let shared = &*shared;
            // A connection that can't be moved is closed: there is no memory, or it has gone already.
            let Ok(conn) = conn.move_here() else { return };
            match Gauge::up_to(&shared.counters.starting, Limits::STARTING) {
                Some(starting) => session::serve(shared, conn, from, starting).await,
                // So many that have not said what they want are not clients.
                None => {
                    shared.counters.refused.fetch_add(1, Relaxed);
                }
            }
        };
        sessions.spawn_on(session, &handle);
    }

    async fn not_accepted(kind: Kind, error: &io::Error) {
        let gone = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
        if !gone {
            // Out of file descriptors or memory: the connection waits in the kernel; a loop at full speed helps nobody.
            warn!(endpoint = %kind, %error, "can't take a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Shared {
    /// The order in which to try `targets`: those with the fewest sessions first, equals by turns.
    pub(crate) fn order(&self, targets: &[Target]) -> Vec<Target> {
        let mut order = targets.to_vec();
        if order.len() > 1 {
            let turn = self.turn.fetch_add(1, Relaxed) % order.len();
            order.rotate_left(turn);
            let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
            order.sort_by_key(|t| loads.get(t).copied().unwrap_or(0));
        }
        order
    }

    /// One more session there, while the mark lives.
    pub(crate) fn load(&self, target: &Target) -> LoadMark {
        *self.loads.lock().unwrap_or_else(PoisonError::into_inner).entry(target.clone()).or_insert(0) += 1;
        LoadMark { loads: self.loads.clone(), target: target.clone() }
    }
}

/// One session's share of a target's load.
pub(crate) struct LoadMark {
    loads: Arc<Mutex<HashMap<Target, usize>>>,
    target: Target,
}

impl Drop for LoadMark {
    fn drop(&mut self) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = loads.get_mut(&self.target) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                loads.remove(&self.target);
            }
        }
    }
}
