//! A client that waits for a database.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, fence};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tracing::debug;
use trine_protocol::Moment;

use crate::counters::{BusyMark, Gauge};
use crate::endpoint::{LoadMark, Shared};
use crate::{Backend, Conn, Route, Target};

/// What a held client may send beyond its startup packet before it is read no further.
const MOST_HELD: usize = 16 * 1024;
/// Between two attempts while nothing changes: from..=to, doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// A database that was reached.
pub(crate) struct Reached {
    pub(crate) backend: Backend,
    pub(crate) route: Route,
    pub(crate) target: Target,
    pub(crate) busy: BusyMark,
    pub(crate) load: LoadMark,
}

/// Why none was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreached {
    /// The client has gone.
    ClientGone,
    /// The hold limit has passed; and why there was nothing.
    Expired(String),
    /// The endpoint stops.
    Stopped,
}

/// A client, what it has said, and how long it may go on waiting.
pub(crate) struct Held<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) client: &'a mut Conn,
    /// What the client has said: its startup packet, and maybe more.
    pub(crate) said: &'a mut Vec<u8>,
    pub(crate) routes: &'a mut watch::Receiver<Route>,
    pub(crate) deadline: Moment,
    /// Attempts that came to nothing.
    pub(crate) failed: u32,
    /// What became of the last one.
    pub(crate) failure: Option<String>,
}

impl Held<'_> {
    /// Waits for a route, and dials, until there is a connection.
    pub(crate) async fn reach(&mut self) -> Result<Reached, Unreached> {
        let mut gauge = None;
        // A session that has just lost its database without a word does not hammer on it.
        let mut pause = self.failed > 0;
        loop {
            let route = self.routes.borrow_and_update().clone();
            let targets = self.shared.order(route.open_targets());
            if targets.is_empty() || pause {
                pause = false;
                gauge.get_or_insert_with(|| Gauge::up(&self.shared.counters.held));
                let wait = (!targets.is_empty()).then(|| backoff(self.failed));
                if self.wait(wait).await? == Waited::Out {
                    let why = match &self.failure {
                        Some(failure) if !targets.is_empty() => format!("{route} can't be reached: {failure}"),
                        _ => route.why_held(self.shared.kind),
                    };
                    return Err(Unreached::Expired(why));
                }
                continue;
            }
            for target in targets {
                match self.dial(&route, &target).await? {
                    Dialled::Reached(r) => return Ok(r),
                    Dialled::Outdated => break,
                    Dialled::Failed(e) => {
                        self.shared.counters.failed_dials.fetch_add(1, Relaxed);
                        debug!(endpoint = %self.shared.kind, %target, epoch = %route.epoch, error = %e, "no connection to the database");
                        self.failure = Some(e.to_string());
                    }
                }
            }
            if !self.routes.has_changed().unwrap_or(true) {
                self.failed += 1;
                pause = true;
            }
        }
    }

    async fn dial(&mut self, route: &Route, target: &Target) -> Result<Dialled, Unreached> {
        let shared = self.shared;
        // Counted before the route is looked at again: whoever pauses the endpoint and then reads the count either sees this
        // session there, or this session sees the pause.
        let busy = shared.busy.mark();
        fence(SeqCst);
        if self.routes.has_changed().unwrap_or(true) {
            return Ok(Dialled::Outdated);
        }
        let load = shared.load(target);
        let mut news = self.routes.clone();
        let dialled = tokio::select! {
            biased;
            () = shared.stop.wait() => return Err(Unreached::Stopped),
            () = poll_fn(|cx| poll_gone(self.client, self.said, cx)) => return Err(Unreached::ClientGone),
            _ = news.changed() => return Ok(Dialled::Outdated),
            dialled = tokio::time::timeout(shared.limits.dial, shared.dialer.dial(target, route.epoch)) => dialled,
        };
        Ok(match dialled {
            Ok(Ok(backend)) if backend.permit.as_ref().is_some_and(|p| !p.valid()) => {
                Dialled::Failed(io::Error::other("its lease has run out"))
            }
            Ok(Ok(backend)) => {
                Dialled::Reached(Reached { backend, route: route.clone(), target: target.clone(), busy, load })
            }
            Ok(Err(e)) => Dialled::Failed(e),
            Err(_) => Dialled::Failed(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} ms", shared.limits.dial.as_millis()),
            )),
        })
    }

    /// Waits for another route, or `most`.
    async fn wait(&mut self, most: Option<Duration>) -> Result<Waited, Unreached> {
        let left = self.shared.clock.now().until(self.deadline);
        if left.is_zero() {
            return Ok(Waited::Out);
        }
        tokio::select! {
            biased;
            () = self.shared.stop.wait() => Err(Unreached::Stopped),
            () = poll_fn(|cx| poll_gone(self.client, self.said, cx)) => Err(Unreached::ClientGone),
            changed = self.routes.changed() => changed.map(|()| Waited::Look).map_err(|_| Unreached::Stopped),
            () = tokio::time::sleep(most.map_or(left, |m| m.min(left))) => Ok(Waited::Look),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Waited {
    /// There may be news.
    Look,
    /// The hold limit has passed.
    Out,
}

enum Dialled {
    Reached(Reached),
    /// There is a newer route.
    Outdated,
    Failed(io::Error),
}

fn backoff(failed: u32) -> Duration {
    (BACKOFF.0 * 2u32.saturating_pow(failed.saturating_sub(1).min(8))).min(BACKOFF.1)
}

/// Ready once the client has gone. What it says meanwhile is kept.
fn poll_gone(client: &mut Conn, said: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<()> {
    let mut buf = [0; 1024];
    while said.len() < MOST_HELD {
        match client.poll_read_into(cx, &mut buf) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(n)) if n > 0 => said.extend(buf.get(..n).unwrap_or_default()),
            Poll::Ready(_) => return Poll::Ready(()),
        }
    }
    Poll::Pending
}
