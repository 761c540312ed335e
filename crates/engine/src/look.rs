//! Looking at a database without ever being held up by it.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use trine_platform::Clock;
use trine_protocol::Moment;

use crate::Inspection;
use crate::threads::Threads;

/// What an inspection takes at most.
const LIMIT: Duration = Duration::from_millis(300);
/// A look that has not come back after so long is given up, and another one tried.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The look that is under way, what the last one saw, and the connection that it asks by.
#[derive(Debug)]
pub(crate) struct Looks<S>(Mutex<State<S>>);

#[derive(Debug)]
struct State<S> {
    under_way: Option<(Moment, watch::Receiver<Option<Inspection>>)>,
    last: Option<Inspection>,
    answered: Option<Moment>,
    /// And the database process that it is to.
    asker: Option<(u32, S)>,
}

impl<S> Default for Looks<S> {
    fn default() -> Self {
        Self(Mutex::new(State { under_way: None, last: None, answered: None, asker: None }))
    }
}

impl<S> Looks<S> {
    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a look sees within the limit; `None`: it takes longer, see [`last`](Self::last).
    pub(crate) async fn within_limit(mut look: watch::Receiver<Option<Inspection>>) -> Option<Inspection> {
        match timeout(LIMIT, look.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone(),
            _ => None,
        }
    }

    /// Starts a look on the engine's threads, unless one is under way: a database that hangs must not be piled up with
    /// connections. Its owner tells the outcome to [`seen`](Self::seen).
    pub(crate) fn start<F>(
        &self,
        clock: &dyn Clock,
        threads: &Threads,
        look: impl FnOnce(watch::Sender<Option<Inspection>>) -> F,
    ) -> watch::Receiver<Option<Inspection>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let now = clock.now();
        let mut state = self.state();
        if let Some((since, under_way)) = &state.under_way
            && under_way.borrow().is_none()
            && under_way.has_changed().is_ok()
            && now.since(*since) < GIVE_UP
        {
            return under_way.clone();
        }
        let (tell, under_way) = watch::channel(None);
        state.under_way = Some((now, under_way.clone()));
        drop(state);
        threads.spawn(look(tell));
        under_way
    }

    /// What a look has seen.
    pub(crate) fn seen(&self, seen: Inspection, tell: &watch::Sender<Option<Inspection>>) {
        self.state().last = Some(seen.clone());
        tell.send_replace(Some(seen));
    }

    /// What the last look saw.
    pub(crate) fn last(&self) -> Option<Inspection> {
        self.state().last.clone()
    }

    /// The database has answered.
    pub(crate) fn answered(&self, now: Moment) {
        self.state().answered = Some(now);
    }

    /// When it last did.
    pub(crate) fn last_answer(&self) -> Option<Moment> {
        self.state().answered
    }

    /// The connection to this database process, if it is free.
    pub(crate) fn take_asker(&self, database: u32) -> Option<S> {
        self.state().asker.take().filter(|(of, _)| *of == database).map(|(_, asker)| asker)
    }

    /// The connection is free again.
    pub(crate) fn keep_asker(&self, database: u32, asker: S) {
        self.state().asker = Some((database, asker));
    }
}
