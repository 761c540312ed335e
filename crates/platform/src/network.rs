//! TCP, or what stands for it.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A two-way stream of bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + Any {
    /// What it is, to be asked.
    fn as_any(&self) -> &dyn Any;
    /// What it is, to be taken.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Any> Stream for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Any [`Stream`].
pub type BoxStream = Box<dyn Stream>;

/// Connects and listens.
#[async_trait]
pub trait Network: Send + Sync + fmt::Debug + 'static {
    /// Opens a connection. The caller sets the deadline.
    ///
    /// # Errors
    /// What the operating system says.
    async fn connect(&self, to: SocketAddr) -> io::Result<BoxStream>;

    /// Listens on an address.
    ///
    /// # Errors
    /// What the operating system says, such as an address in use.
    async fn listen(&self, on: SocketAddr) -> io::Result<Box<dyn Listener>>;
}

/// Takes the connections that come in.
#[async_trait]
pub trait Listener: Send + 'static {
    /// The next connection and where it comes from.
    ///
    /// # Errors
    /// What the operating system says; the listener stays usable.
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)>;

    /// Where it listens: the port, when 0 was asked for.
    ///
    /// # Errors
    /// What the operating system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The machine's own listener behind it, for whoever moves many bytes and wants no detour; else itself.
    ///
    /// # Errors
    /// Itself: there is no such listener.
    fn into_tcp(self: Box<Self>) -> Result<TcpListener, Box<dyn Listener>>;
}

/// The machine's own TCP: no delay, keepalive, and connections that die when their data is not taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNetwork;

#[async_trait]
impl Network for TcpNetwork {
    async fn connect(&self, to: SocketAddr) -> io::Result<BoxStream> {
        let s = TcpStream::connect(to).await?;
        tune(&s)?;
        Ok(Box::new(s))
    }

    async fn listen(&self, on: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(on).await?))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (s, from) = TcpListener::accept(self).await?;
        tune(&s)?;
        Ok((Box::new(s), from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }

    fn into_tcp(self: Box<Self>) -> Result<TcpListener, Box<dyn Listener>> {
        Ok(*self)
    }
}

/// No delay, and a dead peer is noticed within about 5 s even when nothing is sent (PostgreSQL's own default is 2 h).
fn tune(s: &TcpStream) -> io::Result<()> {
    s.set_nodelay(true)?;
    let sock = socket2::SockRef::from(s);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(2))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    sock.set_tcp_keepalive(&keepalive)?;
    sock.set_tcp_user_timeout(Some(Duration::from_secs(10)))
}
