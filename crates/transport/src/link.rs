//! One connection to one peer.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;
use trine_platform::{BoxStream, Network};
use trine_protocol::NodeName;

use crate::certificate::{CertificateError, peer};
use crate::errors::ConnectError;
use crate::{ALPN_RPC, Identity};

/// While a call waits for its answer, a silent peer is asked for a sign of life this often, and given as long to answer.
const PING: Duration = Duration::from_secs(1);

/// A connection over which calls time out, and nothing at all has come in for so long, is not used again. Shorter would
/// mistake a peer that waits for its disk for one that is cut off.
const MUTE: Duration = Duration::from_millis(200);

/// An HTTP/2 connection. Dropping the last one lets calls under way finish, and then closes.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) sender: SendRequest<Full<Bytes>>,
    received: Arc<AtomicU64>,
    /// The first call that timed out since something came in: how much had come in until then, and when it began.
    mute: Arc<Mutex<Option<(u64, Instant)>>>,
}

impl Link {
    pub(crate) async fn connect(
        network: &dyn Network,
        identity: &Identity,
        node: &NodeName,
        address: SocketAddr,
    ) -> Result<Self, ConnectError> {
        let received = Arc::new(AtomicU64::new(0));
        let stream = Heard { inner: network.connect(address).await?, received: received.clone() };
        let tls = handshake(stream, identity.rpc.clone(), identity, node).await?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN_RPC) {
            return Err(ConnectError::Protocol("trine-rpc/1"));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(ConnectError::Http)?;
        let node = node.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(peer = %node, %error, "the connection to a peer ended");
            }
        });
        Ok(Self { sender, received, mute: Arc::default() })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Grows whenever anything comes in.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A call has timed out that began at `begun`, when `heard` was what had been [`Link::received`]. Is the connection to
    /// blame, rather than the service?
    pub(crate) fn is_mute(&self, heard: u64, begun: Instant) -> bool {
        if self.received() != heard {
            return false;
        }
        let mut mute = self.mute.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *mute {
            Some((until_then, since)) if until_then == heard => since,
            _ => {
                *mute = Some((heard, begun));
                begun
            }
        };
        since.elapsed() >= MUTE
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.received, &other.received)
    }
}

/// TLS as a client: the server must be `node` of this cluster.
pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ClientConfig>,
    identity: &Identity,
    node: &NodeName,
) -> Result<TlsStream<S>, ConnectError> {
    let name = ServerName::try_from(node.as_str().to_owned())
        .map_err(|_| ConnectError::Peer(CertificateError::NoNode(node.to_string())))?;
    let tls = TlsConnector::from(config).connect(name, stream).await.map_err(ConnectError::Tls)?;
    let found = peer(tls.get_ref().1.peer_certificates(), identity.cluster_id()).map_err(ConnectError::Peer)?;
    if found == *node {
        Ok(tls)
    } else {
        Err(ConnectError::Peer(CertificateError::OtherNode { found, expected: node.clone() }))
    }
}

/// Counts the reads that brought something.
struct Heard {
    inner: BoxStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.received.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
