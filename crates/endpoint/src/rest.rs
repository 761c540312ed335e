//! When does a session come to rest whose protocol is not known? It is never certain, and nothing rests on it: a session that
//! is ended too early has lost its connection, as it would have at the end of the pause.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// A session whose last bytes were the database's, so long ago, waits for its client. Parts of one answer are closer together,
/// unless the database computes between them.
const QUIET: Duration = Duration::from_millis(100);

/// So long sessions come to rest by themselves: a transaction may be open. Then a client that has had an answer is read no
/// more.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of a session that is to come to rest.
#[derive(Default)]
pub(crate) struct Rest {
    /// The client has said something that the database has not answered yet.
    asked: bool,
    /// Since the pause began.
    patience: Option<Pin<Box<Sleep>>>,
    impatient: bool,
    /// When to look whether it is quiet, and how much had been passed on when that was set.
    quiet: Option<(Pin<Box<Sleep>>, u64)>,
    at_rest: bool,
}

impl Rest {
    /// The client has said something.
    pub(crate) fn asked(&mut self) {
        self.asked = true;
    }

    /// The database has.
    pub(crate) fn answered(&mut self) {
        self.asked = false;
    }

    /// The pause is over, or there is none.
    pub(crate) fn over(&mut self) {
        *self = Self { asked: self.asked, ..Self::default() };
    }

    /// Whether the client is to be read no more.
    pub(crate) fn holds(&self) -> bool {
        self.at_rest || (self.impatient && !self.asked)
    }

    /// Whether it waits for its client.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_rest
    }

    /// Looks again. `clear`: nothing is on its way in either direction; `moved`: how much was passed on so far.
    pub(crate) fn look(&mut self, cx: &mut Context<'_>, clear: bool, moved: u64) {
        if !self.impatient {
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
            self.impatient = patience.as_mut().poll(cx).is_ready();
        }
        while !self.at_rest && clear && !self.asked {
            let (timer, then) = self.quiet.get_or_insert_with(|| (Box::pin(sleep(QUIET)), moved));
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.at_rest = *then == moved;
            self.quiet = None;
        }
    }
}
