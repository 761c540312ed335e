//! The port that other nodes call.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use trine_platform::{BoxStream, Listener, MoveHere, Relays};
use trine_protocol::NodeName;

use crate::arrived::Arrived;
use crate::certificate::{CertificateError, peer};
use crate::seldom::Seldom;
use crate::{ALPN_RPC, ALPN_STREAM, CallRefused, Identity, MAX_BODY, MAX_PREFACE, Service};

/// How long a stranger has to become a peer: the TLS handshake, and a stream's preface.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// So many handshakes may be under way at once. One more ends the oldest: a peer's own takes milliseconds, so those that
/// are old belong to somebody else.
const HALF_OPEN: usize = 256;

/// So many calls may be under way at once on one connection; a peer that has more open waits.
const CALLS_AT_ONCE: u32 = 256;

/// Serves the peer port.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Takes connections until `shutdown`; then ends every connection, call and stream, and returns when they are gone. Calls
    /// are answered where this runs, streams go to `relays`.
    pub async fn run(
        mut listener: Box<dyn Listener>,
        identity: Arc<Identity>,
        service: Arc<dyn Service>,
        relays: Relays,
        shutdown: CancellationToken,
    ) {
        let tasks = Tasks { tracker: TaskTracker::new(), stop: shutdown.clone() };
        let shared = Arc::new(Shared {
            identity,
            service,
            relays,
            refused: Seldom::new(Duration::from_secs(10)),
            tasks: tasks.clone(),
        });
        let mut half_open: VecDeque<oneshot::Sender<()>> = VecDeque::new();
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "can't take a connection on the peer port");
                    // Out of file descriptors, most likely: trying again at once would only burn the processor.
                    let _ = shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_millis(100))).await;
                    continue;
                }
            };
            half_open.retain(|h| !h.is_closed());
            if half_open.len() >= HALF_OPEN
                && let Some(oldest) = half_open.pop_front()
            {
                let _ = oldest.send(());
            }
            let (evict, evicted) = oneshot::channel();
            half_open.push_back(evict);
            let shared = shared.clone();
            tasks.spawn(async move { shared.connection(stream, from, evicted).await });
        }
        tasks.tracker.close();
        tasks.tracker.wait().await;
    }
}

/// Spawns what must end when the server does.
#[derive(Clone, Debug)]
struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, f: F) {
        self.spawn_on(f, &Handle::current());
    }

    fn spawn_on<F: Future<Output = ()> + Send + 'static>(&self, f: F, on: &Handle) {
        let stop = self.stop.clone();
        self.tracker.spawn_on(async move { stop.run_until_cancelled_owned(f).await }, on);
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, f: F) {
        self.spawn(f);
    }
}

/// What every connection needs.
struct Shared {
    identity: Arc<Identity>,
    service: Arc<dyn Service>,
    relays: Relays,
    refused: Seldom,
    tasks: Tasks,
}

/// Why a connection never became a peer's.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("its certificate is refused: {0}")]
    Certificate(CertificateError),
    #[error("it did not finish its handshake within {HANDSHAKE:?}")]
    TooSlow,
    #[error("too many connections were in their handshake")]
    Evicted,
    #[error("it speaks none of this port's protocols")]
    Protocol,
    #[error("its stream's preface can't be read: {0}")]
    Preface(String),
}

/// A connection that has said what it wants, and not yet who it is.
type Hello = StartHandshake<BoxStream>;

/// A connection whose other end is known.
type Tls = TlsStream<BoxStream>;

async fn greet(stream: BoxStream) -> Result<Hello, Stranger> {
    LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(Stranger::Tls)
}

/// A step of a handshake, unless it is too late for it, or others need the room.
async fn in_time<T>(
    until: Instant,
    evicted: &mut oneshot::Receiver<()>,
    step: impl Future<Output = Result<T, Stranger>>,
) -> Result<T, Stranger> {
    tokio::select! {
        done = timeout_at(until, step) => done.unwrap_or(Err(Stranger::TooSlow)),
        _ = evicted => Err(Stranger::Evicted),
    }
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: BoxStream, from: SocketAddr, mut evicted: oneshot::Receiver<()>) {
        let until = Instant::now() + HANDSHAKE;
        let hello = match in_time(until, &mut evicted, greet(stream)).await {
            Ok(hello) => hello,
            Err(reason) => return self.refuse(from, &reason),
        };
        // What the caller has come for is in its first message: a stream's bytes, its handshake's too, are carried elsewhere.
        if hello.client_hello().alpn().is_some_and(|mut offered| offered.any(|p| p == ALPN_STREAM)) {
            let place = self.relays.place();
            let (handle, tasks) = (place.handle(), self.tasks.clone());
            let stream = async move {
                let _place = place;
                match in_time(until, &mut evicted, self.meet_stream(hello)).await {
                    Ok((node, preface, tls)) => {
                        drop(evicted);
                        self.service.stream(node, preface, Box::new(Arrived::new(tls))).await;
                    }
                    Err(reason) => self.refuse(from, &reason),
                }
            };
            tasks.spawn_on(stream, &handle);
            return;
        }
        match in_time(until, &mut evicted, self.meet(hello, ALPN_RPC)).await {
            Ok((node, tls)) => {
                drop(evicted);
                self.serve(node, tls).await;
            }
            Err(reason) => self.refuse(from, &reason),
        }
    }

    fn refuse(&self, from: SocketAddr, reason: &Stranger) {
        match self.refused.pass() {
            Some(left_out) => warn!(%from, %reason, left_out, "refused a connection on the peer port"),
            None => debug!(%from, %reason, "refused a connection on the peer port"),
        }
    }

    async fn meet(&self, hello: Hello, protocol: &[u8]) -> Result<(NodeName, Tls), Stranger> {
        let tls = hello.into_stream(self.identity.server.clone()).await.map_err(Stranger::Tls)?;
        let (_, session) = tls.get_ref();
        let node = peer(session.peer_certificates(), self.identity.cluster_id()).map_err(Stranger::Certificate)?;
        if session.alpn_protocol() == Some(protocol) { Ok((node, tls)) } else { Err(Stranger::Protocol) }
    }

    async fn meet_stream(&self, mut hello: Hello) -> Result<(NodeName, serde_json::Value, Tls), Stranger> {
        hello.io = hello.io.move_here().map_err(Stranger::Tls)?;
        let (node, mut tls) = self.meet(hello, ALPN_STREAM).await?;
        let preface = read_preface(&mut tls).await?;
        Ok((node, preface, tls))
    }

    async fn serve(self: Arc<Self>, node: NodeName, tls: Tls) {
        let from = Arc::new(node);
        let caller = from.clone();
        let service = self.service.clone();
        let handler = service_fn(move |request| {
            let (service, from) = (service.clone(), from.clone());
            async move { Ok::<_, Infallible>(respond(&*service, &from, request).await) }
        });
        let served = hyper::server::conn::http2::Builder::new(self.tasks.clone())
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(CALLS_AT_ONCE)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .serve_connection(TokioIo::new(tls), handler)
            .await;
        if let Err(error) = served {
            // A peer that stops or loses its network: its own silence is what others act on.
            debug!(peer = %caller, %error, "a peer's connection ended");
        }
    }
}

/// Reads up to the line feed and not a byte further: what follows belongs to the stream. The bytes come one by one out of
/// the TLS session's own buffer.
async fn read_preface(tls: &mut Tls) -> Result<serde_json::Value, Stranger> {
    let mut line = Vec::with_capacity(256);
    loop {
        match tls.read_u8().await.map_err(|e| Stranger::Preface(e.to_string()))? {
            b'\n' => break,
            _ if line.len() + 1 >= MAX_PREFACE => {
                return Err(Stranger::Preface(format!("longer than {MAX_PREFACE} bytes")));
            }
            byte => line.push(byte),
        }
    }
    serde_json::from_slice(&line).map_err(|e| Stranger::Preface(e.to_string()))
}

async fn respond(service: &dyn Service, from: &NodeName, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let method = head.uri.path().trim_start_matches('/');
    let outcome = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => service.call(from, method, body.to_bytes()).await,
        Err(e) => Err(CallRefused::BadRequest(format!("its body could not be read: {e}"))),
    };
    match outcome {
        Ok(body) => Response::new(Full::new(body)),
        Err(refusal) => {
            debug!(%from, method, %refusal, "refused a call");
            let body = serde_json::to_vec(&refusal).unwrap_or_default();
            let mut response = Response::new(Full::new(Bytes::from(body)));
            // One status for every refusal: the body says which.
            *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            response
        }
    }
}
