//! The client: asks the first node that answers.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use trine_platform::{BoxStream, Network};

use crate::{Accepted, EventView, Events, Findings, Refused, RefusedCode, Request, Status, Uris};

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Longer than the server's own, so that its explanation arrives.
const ANSWER_DEADLINE: Duration = Duration::from_secs(25);
/// For what is answered from memory.
const QUICK_DEADLINE: Duration = Duration::from_secs(3);
/// Without an answer by then, the next server is asked as well.
const NEXT_AFTER: Duration = Duration::from_millis(300);
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Talks to a cluster: to whichever of its nodes answers.
#[derive(Clone)]
pub struct Client {
    servers: Vec<Server>,
    token: Option<String>,
    tls: Option<Arc<rustls::ClientConfig>>,
    network: Option<Arc<dyn Network>>,
}

#[derive(Clone)]
struct Server {
    url: String,
    authority: String,
    host: String,
    port: u16,
    tls: bool,
}

/// A client's call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A URL is none.
    #[error("{url:?} is no API address: use http://ADDRESS:PORT or https://ADDRESS:PORT")]
    BadUrl {
        /// As given.
        url: String,
    },
    /// There is no address to ask.
    #[error("no API address is given")]
    NoUrl,
    /// HTTPS needs the cluster's CA.
    #[error("{url} needs the cluster's CA certificate")]
    NoCa {
        /// The address.
        url: String,
    },
    /// The CA's certificate can't be used.
    #[error("the CA certificate can't be used")]
    Ca(#[source] io::Error),
    /// No node answered.
    #[error("no node answers: {}", tried.join("; "))]
    NoAnswer {
        /// Each address and what came of it.
        tried: Vec<String>,
    },
    /// A change was sent and no answer came: it may have been taken.
    #[error("no answer from {url} ({reason}); whether it took the request is not known")]
    Unknown {
        /// The address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The answer is not what this version expects.
    #[error("{url} answers what this version does not understand: {reason}")]
    Answer {
        /// The address.
        url: String,
        /// What is odd.
        reason: String,
    },
    /// The cluster said no.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What became of asking one server.
enum Asked {
    /// It was never sent.
    Unreached(String),
    /// It was sent, no answer came.
    Lost(String),
    /// It answered.
    Answered(StatusCode, Bytes),
}

impl Client {
    /// A client of these API addresses. `ca` is needed for HTTPS, `token` for everything that needs one.
    ///
    /// # Errors
    /// [`ClientError`]: an address is none, or the CA is missing or unusable.
    pub fn new(urls: &[String], token: Option<String>, ca: Option<&Path>) -> Result<Self, ClientError> {
        let servers = urls.iter().map(|url| Server::parse(url)).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(ClientError::NoUrl);
        }
        let tls = match (ca, servers.iter().find(|s| s.tls)) {
            (Some(ca), Some(_)) => Some(crate::tls::client(ca).map_err(ClientError::Ca)?),
            (None, Some(server)) => return Err(ClientError::NoCa { url: server.url.clone() }),
            _ => None,
        };
        Ok(Self { servers, token, tls, network: None })
    }

    /// The same over another network, which knows addresses and no names.
    #[must_use]
    pub fn over(mut self, network: Arc<dyn Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// The addresses.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|s| s.url.as_str())
    }

    /// A client of one address, with the same token and CA.
    ///
    /// # Errors
    /// [`ClientError`]: it is no address, or needs a CA that there is not.
    pub fn at(&self, url: &str) -> Result<Self, ClientError> {
        let server = Server::parse(url)?;
        if server.tls && self.tls.is_none() {
            return Err(ClientError::NoCa { url: server.url });
        }
        Ok(Self {
            servers: vec![server],
            token: self.token.clone(),
            tls: self.tls.clone(),
            network: self.network.clone(),
        })
    }

    /// The cluster's state, by preference from a node that is in touch with the others.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get_any("/v1/status", QUICK_DEADLINE, |s: &Status| s.leader.is_some()).await
    }

    /// Events after a number, oldest first; with `wait`, waits a while for one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, after: u64, wait: bool) -> Result<Vec<EventView>, ClientError> {
        let path = format!("/v1/events?after={after}&wait={}", u8::from(wait));
        let deadline = if wait { ANSWER_DEADLINE } else { QUICK_DEADLINE };
        Ok(self.get_any(&path, deadline, |_: &Events| true).await?.events)
    }

    /// Ready-made addresses for the database's clients.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn uris(&self) -> Result<Uris, ClientError> {
        self.get_any("/v1/endpoints", QUICK_DEADLINE, |_| true).await
    }

    /// What the nodes find when they look at their databases. One node after the other is asked to have them all look: two at
    /// once would ask each database twice.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn examine(&self) -> Result<Findings, ClientError> {
        let mut tried = Vec::new();
        let mut refused = None;
        for server in &self.servers {
            match self.get(server, "/v1/doctor", ANSWER_DEADLINE).await {
                Err(ClientError::NoAnswer { tried: one }) => tried.extend(one),
                // Another node may reach more of them, or be of a newer version, which knows what it is asked.
                Err(ClientError::Refused(r)) if r.code != RefusedCode::Unauthorized => refused = Some(r),
                done => return done,
            }
        }
        Err(refused.map_or(ClientError::NoAnswer { tried }, ClientError::Refused))
    }

    /// Asks for a change. Returns once it is taken, not once it is done.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Unknown`] it may have been taken.
    pub async fn request(&self, request: &Request) -> Result<Accepted, ClientError> {
        let body = Bytes::from(
            serde_json::to_vec(request)
                .map_err(|e| ClientError::Answer { url: String::new(), reason: e.to_string() })?,
        );
        let mut tried = Vec::new();
        let mut refused = None;
        for server in &self.servers {
            match self.ask(server, Method::POST, "/v1/request", body.clone(), ANSWER_DEADLINE).await {
                Asked::Unreached(reason) => tried.push(format!("{}: {reason}", server.url)),
                Asked::Lost(reason) => return Err(ClientError::Unknown { url: server.url.clone(), reason }),
                Asked::Answered(status, bytes) => match read(server, status, &bytes) {
                    // This node can't reach the others, perhaps another one can. What may have been taken is not asked for
                    // again: it could happen twice.
                    Err(ClientError::Refused(r)) if status == StatusCode::SERVICE_UNAVAILABLE => refused = Some(r),
                    done => return done,
                },
            }
        }
        Err(refused.map_or(ClientError::NoAnswer { tried }, ClientError::Refused))
    }

    /// The first good answer. The next server is asked when one fails, and also when it takes long: a frozen agent takes
    /// connections and says nothing. Without a good answer, any answer.
    async fn get_any<T>(&self, path: &str, deadline: Duration, good: fn(&T) -> bool) -> Result<T, ClientError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let mut waiting = self.servers.iter();
        let mut asked = JoinSet::new();
        let mut tried = Vec::new();
        let mut second_best = None;
        loop {
            let next = waiting.next();
            if let Some(server) = next {
                let (client, server, path) = (self.clone(), server.clone(), path.to_owned());
                asked.spawn(async move { client.get::<T>(&server, &path, deadline).await });
            }
            let patience = if waiting.len() > 0 { NEXT_AFTER } else { deadline + CONNECT_DEADLINE };
            let answer = match timeout(patience, asked.join_next()).await {
                Ok(Some(Ok(answer))) => answer,
                Ok(None) if next.is_none() => return second_best.ok_or(ClientError::NoAnswer { tried }),
                _ => continue,
            };
            match answer {
                Ok(answer) if good(&answer) => return Ok(answer),
                Ok(answer) => second_best = second_best.or(Some(answer)),
                Err(ClientError::NoAnswer { tried: one }) => tried.extend(one),
                Err(ClientError::Refused(r)) if matches!(r.code, RefusedCode::Failed | RefusedCode::Unknown) => {
                    tried.push(r.message);
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn get<T: DeserializeOwned>(
        &self,
        server: &Server,
        path: &str,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        match self.ask(server, Method::GET, path, Bytes::new(), deadline).await {
            Asked::Unreached(reason) | Asked::Lost(reason) => {
                Err(ClientError::NoAnswer { tried: vec![format!("{}: {reason}", server.url)] })
            }
            Asked::Answered(status, body) => read(server, status, &body),
        }
    }

    async fn ask(&self, server: &Server, method: Method, path: &str, body: Bytes, deadline: Duration) -> Asked {
        let stream = match timeout(CONNECT_DEADLINE, self.connect(server)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Asked::Unreached(plain(&e)),
            Err(_) => return Asked::Unreached("it does not answer".to_owned()),
        };
        match timeout(deadline, self.exchange(stream, server, method, path, body)).await {
            Ok(Ok((status, body))) => Asked::Answered(status, body),
            Ok(Err(reason)) => Asked::Lost(reason),
            Err(_) => Asked::Lost(format!("no answer within {} s", deadline.as_secs())),
        }
    }

    async fn connect(&self, server: &Server) -> io::Result<BoxStream> {
        let tcp: BoxStream = match &self.network {
            Some(network) => {
                let address = server.host.parse().map_err(io::Error::other)?;
                network.connect(SocketAddr::new(address, server.port)).await?
            }
            None => {
                let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
                tcp.set_nodelay(true)?;
                Box::new(tcp)
            }
        };
        let Some(tls) = self.tls.as_ref().filter(|_| server.tls) else { return Ok(tcp) };
        let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?))
    }

    async fn exchange(
        &self,
        stream: BoxStream,
        server: &Server,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("it does not speak HTTP: {e}"))?;
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &server.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| format!("the connection broke: {e}"))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            Ok((status, body.map_err(|e| format!("the answer broke off: {e}"))?.to_bytes()))
        };
        // The connection must be driven while the exchange waits; its own end is no news.
        tokio::pin!(exchange, connection);
        tokio::select! {
            done = &mut exchange => done,
            _ = &mut connection => exchange.await,
        }
    }
}

impl Server {
    fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(bad());
        }
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(6400),
            tls,
        })
    }
}

fn read<T: DeserializeOwned>(server: &Server, status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
    let odd = |reason: String| ClientError::Answer { url: server.url.clone(), reason };
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|e| odd(e.to_string()));
    }
    match serde_json::from_slice::<Refused>(body) {
        Ok(refusal) => Err(ClientError::Refused(refusal)),
        Err(_) => Err(odd(format!("HTTP status {status}"))),
    }
}

/// The operating system's words.
fn plain(e: &io::Error) -> String {
    trine_platform::plain(&e.to_string()).to_lowercase()
}

/// An API address of a node: HTTP on loopback, HTTPS elsewhere.
#[must_use]
pub fn api_url(at: SocketAddr) -> String {
    format!("{}://{at}", if at.ip().is_loopback() { "http" } else { "https" })
}

/// For tests and logs: never the token.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.urls()).finish()
    }
}
