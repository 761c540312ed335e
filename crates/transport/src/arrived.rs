//! A stream that a peer has opened.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, empty};
use tokio::runtime::{Handle, Id};
use tokio_rustls::server::TlsStream;
use trine_platform::{BoxStream, MoveHere};

/// A peer's stream, met on one runtime and used on another: its socket goes along to where it is first read or written. Else the
/// first runtime would be woken for each of its messages, only to wake the other.
pub(crate) struct Arrived {
    tls: TlsStream<BoxStream>,
    /// Where it was met; `None`: it has found its place.
    met: Option<Id>,
}

impl Arrived {
    /// Of a handshake that has ended on this runtime.
    pub(crate) fn new(tls: TlsStream<BoxStream>) -> Self {
        Self { tls, met: Handle::try_current().ok().map(|here| here.id()) }
    }

    fn settle(&mut self) -> io::Result<()> {
        let Some(met) = self.met.take() else { return Ok(()) };
        if Handle::try_current().is_ok_and(|here| here.id() != met) {
            let socket = self.tls.get_mut().0;
            let taken = mem::replace(socket, Box::new(empty()));
            *socket = taken.move_here()?;
        }
        Ok(())
    }
}

impl AsyncRead for Arrived {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.settle()?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Arrived {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.settle()?;
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.settle()?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.settle()?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.settle()?;
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
