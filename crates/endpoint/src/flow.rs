//! One direction of a session, from one read to the next.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::Conn;

/// One direction.
#[derive(Default)]
pub(crate) struct Flow {
    /// What was read and not yet written, from `at` on.
    pub(crate) rest: Vec<u8>,
    pub(crate) at: usize,
    /// Nothing of the last read has been written.
    pub(crate) untouched: bool,
    /// The target may still keep what was written in a buffer of its own.
    pub(crate) unflushed: bool,
    /// The source has closed.
    pub(crate) eof: bool,
    /// The target has been told so, or takes nothing more.
    pub(crate) shut: bool,
    pub(crate) moved: u64,
    pub(crate) counted: u64,
}

impl Flow {
    /// Nothing is on its way.
    pub(crate) fn is_clear(&self) -> bool {
        self.rest.is_empty() && !self.unflushed
    }

    /// Writes `fresh` (only when nothing is left from before), or what is left. Ready(Ok): all of it is out.
    /// `gate` is asked before every write.
    pub(crate) fn poll_send<E>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Conn,
        fresh: &[u8],
        gate: impl Fn() -> Option<E>,
    ) -> Poll<Result<(), Refusal<E>>> {
        let mut left = fresh;
        if !fresh.is_empty() {
            self.untouched = true;
            let done = self.write_all(cx, to, &mut left, &gate);
            if !left.is_empty() {
                self.rest = left.to_vec();
                self.at = 0;
            }
            ready!(done)?;
        } else if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            left = rest.get(self.at..).unwrap_or_default();
            let done = self.write_all(cx, to, &mut left, &gate);
            if !left.is_empty() {
                self.at = rest.len() - left.len();
                self.rest = rest;
            }
            ready!(done)?;
        }
        if self.unflushed {
            if let Some(event) = gate() {
                return Poll::Ready(Err(Refusal::Event(event)));
            }
            ready!(Pin::new(to).poll_flush(cx)).map_err(|_| Refusal::Broken)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn write_all<E>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Conn,
        left: &mut &[u8],
        gate: &impl Fn() -> Option<E>,
    ) -> Poll<Result<(), Refusal<E>>> {
        while !left.is_empty() {
            if let Some(event) = gate() {
                return Poll::Ready(Err(Refusal::Event(event)));
            }
            let n = ready!(Pin::new(&mut *to).poll_write(cx, left)).map_err(|_| Refusal::Broken)?;
            if n == 0 {
                return Poll::Ready(Err(Refusal::Broken));
            }
            *left = left.get(n..).unwrap_or_default();
            self.untouched = false;
            self.unflushed = to.buffers();
            self.moved += n as u64;
        }
        Poll::Ready(Ok(()))
    }

    /// Adds what has moved to a counter, if it is so much.
    pub(crate) fn count(&mut self, counter: &AtomicU64, least: u64) {
        let new = self.moved - self.counted;
        if new >= least {
            counter.fetch_add(new, Relaxed);
            self.counted = self.moved;
        }
    }
}

/// Why nothing more was written.
pub(crate) enum Refusal<E> {
    /// The gate has closed.
    Event(E),
    /// The target takes nothing more.
    Broken,
}
