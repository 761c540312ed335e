//! Connections: the sockets by name, so that the relay's calls are direct, and anything else in a box.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use trine_platform::{BoxStream, Listener, MoveHere};

/// A two-way stream.
#[non_exhaustive]
pub enum Conn {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// A client that asked for TLS.
    Tls(Box<TlsStream<Replay>>),
    /// Any other.
    Boxed(BoxStream),
}

impl Conn {
    /// Does a write stay in a buffer until it is flushed?
    pub(crate) fn buffers(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Boxed(_))
    }

    pub(crate) fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(self).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl MoveHere for Conn {
    fn move_here(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(s) => Self::Tcp(s.move_here()?),
            Self::Unix(s) => Self::Unix(s.move_here()?),
            Self::Boxed(s) => Self::Boxed(s.move_here()?),
            // Made where it is used.
            Self::Tls(s) => Self::Tls(s),
        })
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Tls(_) => "Tls",
            Self::Boxed(_) => "Boxed",
        })
    }
}

impl From<TcpStream> for Conn {
    fn from(s: TcpStream) -> Self {
        Self::Tcp(s)
    }
}

impl From<UnixStream> for Conn {
    fn from(s: UnixStream) -> Self {
        Self::Unix(s)
    }
}

impl From<BoxStream> for Conn {
    /// A socket is taken out of its box.
    fn from(s: BoxStream) -> Self {
        if !(*s).as_any().is::<UnixStream>() {
            return Self::Boxed(s);
        }
        match s.into_any().downcast::<UnixStream>() {
            Ok(socket) => Self::Unix(*socket),
            Err(_) => unreachable!("it is one"),
        }
    }
}

macro_rules! each {
    ($self:ident, $s:ident => $call:expr) => {
        match $self.get_mut() {
            Conn::Tcp(s) => {
                let $s = Pin::new(s);
                $call
            }
            Conn::Unix(s) => {
                let $s = Pin::new(s);
                $call
            }
            Conn::Tls(s) => {
                let $s = Pin::new(s.as_mut());
                $call
            }
            Conn::Boxed(s) => {
                let $s = Pin::new(s);
                $call
            }
        }
    };
}

impl AsyncRead for Conn {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Conn {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_shutdown(cx))
    }
}

/// A connection with some bytes put back in front of it.
#[derive(Debug)]
pub struct Replay {
    head: Vec<u8>,
    at: usize,
    inner: Conn,
}

impl Replay {
    pub(crate) fn new(head: Vec<u8>, inner: Conn) -> Self {
        Self { head, at: 0, inner }
    }
}

impl AsyncRead for Replay {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let head = this.head.get(this.at..).unwrap_or_default();
        if head.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let (now, _) = head.split_at(head.len().min(buf.remaining()));
        buf.put_slice(now);
        this.at += now.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// The server's side of a TLS handshake.
pub(crate) async fn accept_tls(plain: Replay, config: &Arc<rustls::ServerConfig>) -> io::Result<Conn> {
    let stream = TlsAcceptor::from(config.clone()).accept(plain).await?;
    Ok(Conn::Tls(Box::new(stream)))
}

/// Where an endpoint's connections come from.
#[non_exhaustive]
pub enum Incoming {
    /// The machine's own TCP.
    Tcp(TcpListener),
    /// Whatever a [`trine_platform::Network`] made. Its `accept` must be safe to drop half-way: it is, at each change of the route.
    Boxed(Box<dyn Listener>),
}

impl Incoming {
    pub(crate) async fn accept(&mut self) -> io::Result<(Conn, SocketAddr)> {
        match self {
            Self::Tcp(l) => {
                let (s, from) = TcpListener::accept(l).await?;
                // A client that has already gone makes this fail: its session will see that by itself.
                let _ = tune_client(&s);
                Ok((Conn::Tcp(s), from))
            }
            Self::Boxed(l) => {
                let (s, from) = l.accept().await?;
                Ok((Conn::Boxed(s), from))
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(l) => TcpListener::local_addr(l),
            Self::Boxed(l) => l.local_addr(),
        }
    }
}

impl From<TcpListener> for Incoming {
    fn from(l: TcpListener) -> Self {
        Self::Tcp(l)
    }
}

impl From<Box<dyn Listener>> for Incoming {
    fn from(l: Box<dyn Listener>) -> Self {
        l.into_tcp().map_or_else(Self::Boxed, Self::Tcp)
    }
}

/// No delay; a client's machine that is gone is noticed within 25 s when nothing is sent, 20 s when it takes nothing.
/// (Between nodes it is a few seconds; clients come over networks that the cluster is not in charge of.)
///
/// # Errors
/// What the operating system says: the connection is gone already.
pub fn tune_client(s: &TcpStream) -> io::Result<()> {
    s.set_nodelay(true)?;
    let sock = socket2::SockRef::from(s);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    sock.set_tcp_keepalive(&keepalive)?;
    sock.set_tcp_user_timeout(Some(Duration::from_secs(20)))
}
