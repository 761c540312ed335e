//! Passes bytes on between a client and a database, both ways in one task.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Sleep;

use crate::Conn;
use crate::counters::{BusyMark, Counters};
use crate::flow::{Flow, Refusal};
use crate::rest::Rest;
use crate::tracker::{Standing, Tracker};
use crate::warden::{Look, Warden};

/// What one read takes at most. Reads go into one buffer of the thread and from there on at once: a session keeps memory only
/// for what its other side has not taken yet. Measured: 8 to 64 KiB are alike for small answers, 32 is best for big ones.
pub(crate) const BUFFER: usize = 32 * 1024;

/// Reads of one direction before the other one, and the other sessions, have their turn.
const ROUNDS: usize = 16;

/// Bytes are added to the shared counters in portions, so that sessions don't fight for them.
const COUNT_PORTION: u64 = 1 << 20;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client has gone.
    Client,
    /// The database closed the connection, or it broke.
    Server,
    /// The database is not ready for connections (its first message says so).
    NotYet,
    /// The route leads elsewhere.
    RouteChanged,
    /// The lease has run out.
    PermitLost,
    /// The wait for the standbys was cancelled.
    SyncCancelled,
    /// The client had closed its side, and had all its answers, or waited too long for them.
    HalfClosed,
    /// The endpoint stops.
    Stopped,
}

enum Event {
    Look,
    End(Ended),
}

/// One session between its client and its database.
pub(crate) struct Relay<'a> {
    client: &'a mut Conn,
    backend: Conn,
    tracker: Option<Tracker>,
    counters: &'a Counters,
    busy: BusyMark,
    up: Flow,
    down: Flow,
    /// Where the session stood before the bytes that wait in `down`.
    before: Option<Standing>,
    /// Nothing more of the server's may be passed on after what waits in `down`.
    cut: bool,
    /// The client has said nothing but its opening.
    only_opening: bool,
    drain: bool,
    half_closed: Duration,
    timer: Option<(Pin<Box<Sleep>>, u64)>,
    /// Without a tracker.
    rest: Rest,
}

impl<'a> Relay<'a> {
    /// A session in which `opening` is what the client has said so far.
    pub(crate) fn new(
        client: &'a mut Conn,
        backend: Conn,
        mut opening: Vec<u8>,
        mut tracker: Option<Tracker>,
        half_closed: Duration,
        busy: BusyMark,
        counters: &'a Counters,
    ) -> Self {
        if let Some(t) = &mut tracker {
            t.note_client(&mut opening);
        }
        let tracker = tracker.filter(|t| !t.is_lost());
        Self {
            client,
            backend,
            tracker,
            counters,
            busy,
            up: Flow { rest: opening, ..Flow::default() },
            down: Flow::default(),
            before: None,
            cut: false,
            only_opening: true,
            drain: false,
            half_closed,
            timer: None,
            rest: Rest::default(),
        }
    }

    /// Passes bytes on until the session ends. What the ending says to the client is the caller's: see [`Self::standing`].
    pub(crate) async fn run<W: Warden>(&mut self, warden: &mut W) -> Ended {
        // What happened between the dial and here is news too.
        let mut event = Event::Look;
        loop {
            match event {
                Event::End(ended) => return ended,
                Event::Look => match warden.look() {
                    Look::End(ended) => return ended,
                    Look::Keep { drain } => {
                        self.drain = drain;
                        if !drain {
                            self.busy.set(true);
                        }
                    }
                },
            }
            // Asked whenever this task is woken, by whatever: it may be the alarm's own waker, used up for nothing (a change that
            // was seen before it was announced). And never put off: its share of tokio's budget is no reason to miss it.
            let mut alarm = pin!(tokio::task::unconstrained(warden.alarm()));
            event = poll_fn(|cx| {
                if alarm.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Look);
                }
                self.poll(cx, &*warden)
            })
            .await;
        }
    }

    /// Where the session stands for its client, as far as it has been sent the server's bytes. `None`: no message of our own
    /// may follow them, because they end within a message, or in a protocol that is not known.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let now = self.tracker.as_ref().filter(|_| self.settled())?.standing();
        let standing = if self.down.rest.is_empty() {
            now
        } else {
            // What was owed before is owed still: its answer is among the bytes that the client does not get.
            let before = self.before.filter(|_| self.down.untouched)?;
            Standing { in_request: before.in_request || now.in_request, ..before }
        };
        standing.between_messages.then_some(standing)
    }

    /// Is everything that the client was given out of this process? If not (TLS keeps a part that the client does not take), its
    /// connection must be dropped as it is: a proper close would send the rest, and this is after the decision.
    pub(crate) fn settled(&self) -> bool {
        !self.down.unflushed
    }

    /// Has nothing been said yet but the opening, so that it can be said again to another database?
    pub(crate) fn unbegun(&self) -> bool {
        self.only_opening && self.down.moved == 0
    }

    fn poll<W: Warden>(&mut self, cx: &mut Context<'_>, warden: &W) -> Poll<Event> {
        if warden.disturbed() {
            return Poll::Ready(Event::Look);
        }
        let mut buf = SCRATCH.take().unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice());
        let step = self.pump_up(cx, &mut buf).and_then(|()| self.pump_down(cx, &mut buf, warden));
        SCRATCH.set(Some(buf));
        self.up.count(&self.counters.bytes_in, COUNT_PORTION);
        self.down.count(&self.counters.bytes_out, COUNT_PORTION);
        if let Err(event) = step {
            return Poll::Ready(event);
        }
        if !self.drain {
            self.rest.over();
        } else if self.tracker.is_some() {
            self.busy.set(!self.parked());
        } else {
            self.rest.look(cx, self.up.is_clear() && self.down.is_clear(), self.up.moved + self.down.moved);
            self.busy.set(!self.rest.is_at_rest());
        }
        if self.up.eof { self.poll_half_closed(cx) } else { Poll::Pending }
    }

    fn forget_what_is_lost(&mut self) {
        if self.tracker.as_ref().is_some_and(Tracker::is_lost) {
            self.tracker = None;
        }
    }

    fn parked(&self) -> bool {
        let idle = self.tracker.as_ref().map_or_else(|| self.rest.holds(), Tracker::idle);
        self.drain && self.up.is_clear() && self.down.is_clear() && idle
    }

    /// Client to database.
    fn pump_up(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Result<(), Event> {
        if self.up.shut {
            return Ok(());
        }
        let mut len = 0;
        for _ in 0..ROUNDS {
            match self.up.poll_send(cx, &mut self.backend, buf.get(..len).unwrap_or_default(), || None) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Refusal::Event(event))) => return Err(event),
                Poll::Ready(Err(Refusal::Broken)) => {
                    // The database takes nothing more; its last words, maybe the reason, are still to be passed on.
                    self.up = Flow { shut: true, moved: self.up.moved, counted: self.up.counted, ..Flow::default() };
                    return Ok(());
                }
            }
            if self.up.eof {
                if Pin::new(&mut self.backend).poll_shutdown(cx).is_ready() {
                    self.up.shut = true;
                }
                return Ok(());
            }
            if self.parked() {
                return Ok(());
            }
            len = match self.client.poll_read_into(cx, buf) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => return Err(Event::End(Ended::Client)),
                Poll::Ready(Ok(n)) => n,
            };
            self.up.eof = len == 0;
            self.only_opening &= self.up.eof;
            if !self.up.eof {
                self.rest.asked();
            }
            if let (Some(t), Some(bytes)) = (&mut self.tracker, buf.get_mut(..len)) {
                t.note_client(bytes);
            }
            self.forget_what_is_lost();
        }
        if let Some(bytes) = buf.get(..len).filter(|b| !b.is_empty()) {
            self.up.rest = bytes.to_vec();
            self.up.at = 0;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Database to client.
    fn pump_down<W: Warden>(&mut self, cx: &mut Context<'_>, buf: &mut [u8], warden: &W) -> Result<(), Event> {
        let gate = || {
            if warden.disturbed() {
                Some(Event::Look)
            } else if !warden.permitted() {
                Some(Event::End(Ended::PermitLost))
            } else {
                None
            }
        };
        let mut len = 0;
        for _ in 0..ROUNDS {
            match self.down.poll_send(cx, self.client, buf.get(..len).unwrap_or_default(), gate) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Refusal::Event(event))) => return Err(event),
                Poll::Ready(Err(Refusal::Broken)) => return Err(Event::End(Ended::Client)),
            }
            if self.cut {
                return Err(Event::End(Ended::SyncCancelled));
            }
            len = match self.backend.poll_read_into(cx, buf) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_) | Ok(0)) if self.up.eof => return Err(Event::End(Ended::HalfClosed)),
                Poll::Ready(Err(_) | Ok(0)) => return Err(Event::End(Ended::Server)),
                Poll::Ready(Ok(n)) => n,
            };
            self.rest.answered();
            if let (Some(t), Some(bytes)) = (&mut self.tracker, buf.get_mut(..len)) {
                if self.down.moved == 0 && t.says_not_yet(bytes) {
                    return Err(Event::End(Ended::NotYet));
                }
                self.before = Some(t.standing());
                if let Some(most) = t.note_server(bytes) {
                    self.cut = true;
                    len = most;
                }
            }
            self.forget_what_is_lost();
        }
        if let Some(bytes) = buf.get(..len).filter(|b| !b.is_empty()) {
            self.down.rest = bytes.to_vec();
            self.down.at = 0;
            self.down.untouched = true;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The client has closed its side: it may wait for answers as long as there are any.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let (timer, moved) =
                self.timer.get_or_insert_with(|| (Box::pin(tokio::time::sleep(self.half_closed)), self.down.moved));
            ready!(timer.as_mut().poll(cx));
            if *moved == self.down.moved {
                return Poll::Ready(Event::End(Ended::HalfClosed));
            }
            self.timer = None;
        }
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        self.up.count(&self.counters.bytes_in, 1);
        self.down.count(&self.counters.bytes_out, 1);
    }
}

#[cfg(test)]
mod tests;
