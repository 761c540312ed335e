//! The server of one node.
//!
//! Reading is open to the machine itself, everything else needs the token. What comes in is limited in size, in time and
//! in number, so garbage and slow clients cost a connection of their own and nothing more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Extension, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};
use trine_platform::{BoxStream, Listener};

use crate::{Control, Events, Refused, RefusedCode, Request};

/// A request is a few hundred bytes.
const LARGEST_BODY: usize = 64 * 1024;
/// How long a client may take to send its request's head, and how long an idle connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long an answer may take to be made. A request waits for consensus, which elects a leader in well under that.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// How long `wait=1` waits for an event before it answers with none.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// More clients than any console, monitor and command line together.
const MOST_CONNECTIONS: usize = 256;
/// Events in one answer.
const PAGE: usize = 500;

/// The API's settings.
pub struct ServerConfig {
    /// Who has it may change the cluster.
    pub token: String,
    /// HTTPS with these settings; `None`: HTTP, which is for loopback addresses only.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// The API of one node.
pub struct Server {
    router: Router,
    tls: Option<TlsAcceptor>,
}

struct Shared {
    control: Arc<dyn Control>,
    token: String,
}

impl Server {
    /// An API that asks `control`.
    #[must_use]
    pub fn new(control: Arc<dyn Control>, config: ServerConfig) -> Self {
        let shared = Arc::new(Shared { control, token: config.token });
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/v1/status", get(status))
            .route("/v1/events", get(events))
            .route("/v1/endpoints", get(endpoints))
            .route("/v1/doctor", get(doctor))
            .route("/v1/request", post(request))
            .fallback(async || {
                refused(&Refused::wrong_use("there is nothing here: see /v1/status"), StatusCode::NOT_FOUND)
            })
            .method_not_allowed_fallback(async || {
                refused(&Refused::wrong_use("this address does not take that method"), StatusCode::METHOD_NOT_ALLOWED)
            })
            .layer(DefaultBodyLimit::max(LARGEST_BODY))
            .with_state(shared);
        Self { router, tls: config.tls.map(TlsAcceptor::from) }
    }

    /// Serves until `shutdown`, then ends every connection.
    pub async fn run(self, mut listener: Box<dyn Listener>, shutdown: CancellationToken) {
        let server = Arc::new(self);
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                        debug!(%from, "too many API connections, one more is closed");
                        continue;
                    };
                    let (server, shutdown) = (Arc::clone(&server), shutdown.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = shutdown.cancelled() => {}
                            done = server.connection(stream, from) => if let Err(reason) = done {
                                debug!(%from, %reason, "an API connection ended early");
                            }
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: the listener stays usable, so try again a little later.
                    warn!(%error, "the API can't take a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
        info!("the API has ended");
    }

    async fn connection(&self, stream: BoxStream, from: SocketAddr) -> Result<(), String> {
        let stream: BoxStream = match &self.tls {
            None => stream,
            Some(tls) => {
                let handshake = timeout(HANDSHAKE_DEADLINE, tls.accept(stream));
                let stream = handshake.await.map_err(|_| "TLS handshake timed out".to_owned())?;
                Box::new(stream.map_err(|e| e.to_string())?)
            }
        };
        let service = TowerToHyperService::new(self.router.clone().layer(Extension(Caller(from.ip()))));
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(32 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(|e| e.to_string())
    }
}

/// Where a request comes from.
#[derive(Clone, Copy)]
struct Caller(IpAddr);

impl Shared {
    /// Has the caller shown the token?
    fn has_token(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let shown = shown.strip_prefix(b"Bearer ").unwrap_or_default();
        same(shown, self.token.as_bytes())
    }

    /// What a caller without the token gets to hear; `None`: it has shown it.
    fn need_token(&self, headers: &HeaderMap) -> Option<Response> {
        if self.has_token(headers) {
            return None;
        }
        let message = if headers.contains_key(header::AUTHORIZATION) {
            "the token is wrong: use the api_token of a node's secrets.toml"
        } else {
            "this needs the token: send the header 'Authorization: Bearer TOKEN' with the api_token of a node's secrets.toml"
        };
        let refusal = Refused { code: RefusedCode::Unauthorized, message: message.to_owned() };
        let mut response = refused(&refusal, StatusCode::UNAUTHORIZED);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(response)
    }

    /// Reading is open on the machine itself. A page in a browser on the same machine must not read it under a name that
    /// leads to loopback, so the host must be an address or `localhost`.
    fn may_read(&self, caller: Caller, headers: &HeaderMap) -> Option<Response> {
        if caller.0.to_canonical().is_loopback() && host_is_plain(headers) {
            return None;
        }
        self.need_token(headers)
    }
}

fn host_is_plain(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let bare = |h: &str| h == "localhost" || h.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    host.parse::<SocketAddr>().is_ok() || bare(host) || host.rsplit_once(':').is_some_and(|(name, _)| bare(name))
}

/// Compares in a time that does not tell how much of it is right.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0_u8, |d, (x, y)| std::hint::black_box(d | (x ^ y)));
    differ == 0 && a.len() == b.len()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: u8,
    limit: Option<usize>,
}

/// Says that the agent runs; nothing about the cluster.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn status(State(s): State<Arc<Shared>>, Extension(caller): Extension<Caller>, headers: HeaderMap) -> Response {
    if let Some(response) = s.may_read(caller, &headers) {
        return response;
    }
    answer(s.control.status()).await
}

async fn events(
    State(s): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Response {
    if let Some(response) = s.may_read(caller, &headers) {
        return response;
    }
    let query = match query {
        Ok(Query(query)) => query,
        Err(e) => return refused(&Refused::wrong_use(e.body_text()), StatusCode::BAD_REQUEST),
    };
    if query.wait != 0 {
        // Having waited in vain is no error: the answer is an empty page.
        let _ = timeout(LONGEST_WAIT, s.control.new_events(query.after)).await;
    }
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE);
    answer(async { Ok(Events { events: s.control.events(query.after, limit).await? }) }).await
}

async fn endpoints(State(s): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Some(response) = s.need_token(&headers) {
        return response;
    }
    answer(s.control.uris()).await
}

async fn doctor(State(s): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if let Some(response) = s.need_token(&headers) {
        return response;
    }
    answer(s.control.examine()).await
}

async fn request(State(s): State<Arc<Shared>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    if let Some(response) = s.need_token(&headers) {
        return response;
    }
    let body = match body {
        Ok(body) => body,
        Err(e) => return refused(&Refused::wrong_use(e.body_text()), e.status()),
    };
    match serde_json::from_slice::<Request>(&body) {
        Ok(request) => {
            info!(?request, "a request by the API");
            answer(s.control.request(request)).await
        }
        Err(e) => refused(&Refused::wrong_use(format!("this is no request: {e}")), StatusCode::BAD_REQUEST),
    }
}

async fn answer<T: Serialize>(work: impl Future<Output = Result<T, Refused>>) -> Response {
    match timeout(ANSWER_DEADLINE, work).await {
        Ok(Ok(value)) => json(&value, StatusCode::OK),
        Ok(Err(refusal)) => {
            let status = match refusal.code {
                RefusedCode::Failed | RefusedCode::NoMajority => StatusCode::SERVICE_UNAVAILABLE,
                RefusedCode::Unknown => StatusCode::GATEWAY_TIMEOUT,
                RefusedCode::WrongUse => StatusCode::BAD_REQUEST,
                RefusedCode::Unsafe => StatusCode::CONFLICT,
                RefusedCode::Unauthorized => StatusCode::UNAUTHORIZED,
            };
            refused(&refusal, status)
        }
        Err(_) => {
            let message = format!("no answer within {} s; `trine status` tells more", ANSWER_DEADLINE.as_secs());
            refused(&Refused::unknown(message), StatusCode::GATEWAY_TIMEOUT)
        }
    }
}

fn refused(refusal: &Refused, status: StatusCode) -> Response {
    json(refusal, status)
}

fn json<T: Serialize>(value: &T, status: StatusCode) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (status, headers, Body::from(body)).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

/// Serves HTTP on a loopback address and HTTPS elsewhere.
///
/// # Errors
/// The node's certificate or key can't be used.
pub fn tls_unless_loopback(
    listen: IpAddr,
    node_cert: &std::path::Path,
    node_key: &std::path::Path,
) -> io::Result<Option<Arc<rustls::ServerConfig>>> {
    if listen.is_loopback() {
        return Ok(None);
    }
    crate::tls::server(node_cert, node_key).map(Some)
}
