//! Calls to other nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use trine_platform::{BoxStream, Network};
use trine_protocol::NodeName;

use crate::errors::{CallError, CallRefused, ConnectError};
use crate::link::{Link, handshake};
use crate::{ALPN_STREAM, Identity, MAX_BODY, MAX_PREFACE};

/// A connect attempt that calls wait for, TLS included. On a healthy network it takes milliseconds; a lost packet of its
/// own would only be sent again after a second, when a fresh attempt is long through.
const CONNECT: Duration = Duration::from_millis(300);

/// A stream's connection and preface. A session hangs on it, so it may take longer than a lease's renewal.
const OPEN_STREAM: Duration = Duration::from_secs(2);

/// The other nodes, by name.
///
/// One connection for each carries every call, many at once. It is made when a call needs it, and a call that finds it broken
/// makes a new one. When calls time out and nothing at all came in over their connection meanwhile, for 200 ms or more, the
/// connection is retired: calls under way on it keep their own deadlines, the next call connects anew. So a cut that heals
/// costs one connect, and neither a hung handler nor a hung peer delays any other call.
///
/// A call to this node itself, when its own address is in the list, goes over the network like any other.
#[derive(Debug)]
pub struct Peers {
    identity: Arc<Identity>,
    network: Arc<dyn Network>,
    peers: RwLock<BTreeMap<NodeName, Arc<Peer>>>,
}

#[derive(Debug)]
struct Peer {
    name: NodeName,
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Down,
    /// An attempt is under way; its outcome comes here.
    Connecting(watch::Receiver<Attempt>),
    Up(Link),
}

/// `None` until it is over.
type Attempt = Option<Result<Link, Arc<ConnectError>>>;

impl Peers {
    /// Nothing is dialed until a call needs it.
    #[must_use]
    pub fn new(identity: Arc<Identity>, network: Arc<dyn Network>, addresses: BTreeMap<NodeName, SocketAddr>) -> Self {
        let peers = Self { identity, network, peers: RwLock::default() };
        peers.set_addresses(addresses);
        peers
    }

    /// Who calls.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Takes a new list. Connections to addresses that stay, stay.
    pub fn set_addresses(&self, addresses: BTreeMap<NodeName, SocketAddr>) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::take(&mut *peers);
        *peers = addresses
            .into_iter()
            .map(|(name, address)| {
                let kept = old.get(&name).filter(|p| p.address == address).cloned();
                let state = Mutex::new(State::Down);
                (name.clone(), kept.unwrap_or_else(|| Arc::new(Peer { name, address, state })))
            })
            .collect();
    }

    /// The nodes with a known address.
    #[must_use]
    pub fn names(&self) -> Vec<NodeName> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Calls `method` on `node` and waits for its answer until `deadline` from now, connecting included.
    ///
    /// # Errors
    /// [`CallError`]. A peer that can't be reached fails the call as soon as that is known: after one connect attempt, or two
    /// if the first had begun before the call.
    pub async fn call<Req, Resp>(
        &self,
        node: &NodeName,
        method: &str,
        request: &Req,
        deadline: Duration,
    ) -> Result<Resp, CallError>
    where
        Req: Serialize + ?Sized,
        Resp: DeserializeOwned,
    {
        let body = serde_json::to_vec(request).map_err(|e| bad_call(method, &e))?;
        let answer = self.call_bytes(node, method, Bytes::from(body), deadline).await?;
        serde_json::from_slice(&answer).map_err(|e| CallError::BadAnswer {
            node: node.clone(),
            method: method.to_owned(),
            source: e.into(),
        })
    }

    /// As [`Peers::call`], with bodies that are JSON already.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_bytes(
        &self,
        node: &NodeName,
        method: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let until = Instant::now() + deadline;
        let peer = self.peer(node)?;
        let mut request = Request::post(format!("https://{node}/{method}"))
            .body(Full::new(body))
            .map_err(|e| bad_call(method, &e))?;
        // Twice: a connection that closed just now gives the request back, unsent.
        for last in [false, true] {
            let mut link = self.link(&peer, until).await?;
            let (heard, begun) = (link.received(), Instant::now());
            let sent = link.sender.try_send_request(request);
            let exchange = async {
                let response = sent.await.map_err(|mut e| (e.take_message(), e.into_error()))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
                Ok((status, body.map(http_body_util::Collected::to_bytes)))
            };
            let broken = |source| CallError::Broken { node: node.clone(), method: method.to_owned(), source };
            match timeout_at(until, exchange).await {
                Ok(Ok((StatusCode::OK, Ok(body)))) => return Ok(body),
                Ok(Ok((_, Ok(body)))) => return Err(refused(node, method, &body)),
                Ok(Ok((_, Err(e)))) => return Err(broken(e)),
                Ok(Err((Some(unsent), _))) if !last => {
                    peer.retire(&link);
                    request = unsent;
                }
                Ok(Err((_, e))) => return Err(broken(e.into())),
                Err(_) => {
                    if link.is_mute(heard, begun) {
                        peer.retire(&link);
                    }
                    let (node, method) = (node.clone(), method.to_owned());
                    return Err(CallError::TimedOut { node, method, after: deadline });
                }
            }
        }
        Err(bad_call(method, &"no connection stayed open long enough to send it"))
    }

    /// Opens a stream of bytes to `node`, which reads `preface` first. It has a connection of its own.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] and [`CallError::BadCall`]. That the other side took the preface is not known yet: a
    /// service that wants the caller to know says so in the stream.
    pub async fn open_stream<P: Serialize + ?Sized>(
        &self,
        node: &NodeName,
        preface: &P,
    ) -> Result<BoxStream, CallError> {
        let peer = self.peer(node)?;
        let mut line = serde_json::to_vec(preface).map_err(|e| bad_call("stream", &e))?;
        line.push(b'\n');
        if line.len() > MAX_PREFACE {
            return Err(bad_call("stream", &"its preface is too long"));
        }
        let open = async {
            let stream = self.network.connect(peer.address).await?;
            let mut tls = handshake(stream, self.identity.stream.clone(), &self.identity, node).await?;
            if tls.get_ref().1.alpn_protocol() != Some(ALPN_STREAM) {
                return Err(ConnectError::Protocol("trine-stream/1"));
            }
            tls.write_all(&line).await.map_err(ConnectError::Preface)?;
            tls.flush().await.map_err(ConnectError::Preface)?;
            Ok(Box::new(tls) as BoxStream)
        };
        let opened = timeout(OPEN_STREAM, open).await.unwrap_or(Err(ConnectError::Deadline(OPEN_STREAM)));
        opened.map_err(|e| peer.unreachable(Arc::new(e)))
    }

    fn peer(&self, node: &NodeName) -> Result<Arc<Peer>, CallError> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(node).cloned().ok_or_else(|| CallError::UnknownPeer(node.clone()))
    }

    /// The peer's connection, made now if need be. Waits for one attempt that begins after the call; one that had begun
    /// before may be doomed by a cut that has healed since, so its failure is not yet the answer.
    async fn link(&self, peer: &Arc<Peer>, until: Instant) -> Result<Link, CallError> {
        let mut waited = false;
        loop {
            let (mut attempt, begun_now) = match peer.current(self) {
                Current::Up(link) => return Ok(link),
                Current::Attempt(attempt, begun_now) => (attempt, begun_now),
            };
            let outcome = match timeout_at(until, attempt.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => outcome.clone(),
                Ok(Err(_)) => Some(Err(Arc::new(ConnectError::Stopping))),
                Err(_) => Some(Err(Arc::new(ConnectError::Deadline(CONNECT)))),
            };
            match outcome {
                Some(Ok(link)) => return Ok(link),
                Some(Err(e)) if begun_now || waited || Instant::now() >= until => return Err(peer.unreachable(e)),
                _ => waited = true,
            }
        }
    }
}

enum Current {
    Up(Link),
    /// With: was it begun just now?
    Attempt(watch::Receiver<Attempt>, bool),
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(self: &Arc<Self>, peers: &Peers) -> Current {
        let mut state = self.state();
        match &*state {
            State::Up(link) if !link.is_closed() => return Current::Up(link.clone()),
            // A sender that is gone without an outcome was a task that died with its runtime.
            State::Connecting(attempt) if attempt.has_changed().is_ok() => {
                return Current::Attempt(attempt.clone(), false);
            }
            _ => {}
        }
        let (report, attempt) = watch::channel(None);
        *state = State::Connecting(attempt.clone());
        drop(state);
        let (peer, identity, network) = (self.clone(), peers.identity.clone(), peers.network.clone());
        // A task of its own: the attempt goes on for the others when the call that began it gives up.
        tokio::spawn(async move {
            let connect = Link::connect(&*network, &identity, &peer.name, peer.address);
            let outcome = timeout(CONNECT, connect).await.unwrap_or(Err(ConnectError::Deadline(CONNECT)));
            let outcome = outcome.map_err(Arc::new);
            *peer.state() = match &outcome {
                Ok(link) => State::Up(link.clone()),
                Err(_) => State::Down,
            };
            report.send_replace(Some(outcome));
        });
        Current::Attempt(attempt, true)
    }

    /// No new calls over this connection; it closes when the last one under way is over.
    fn retire(&self, link: &Link) {
        let mut state = self.state();
        if matches!(&*state, State::Up(current) if current.is_same(link)) {
            *state = State::Down;
        }
    }

    fn unreachable(&self, source: Arc<ConnectError>) -> CallError {
        CallError::Unreachable { node: self.name.clone(), address: self.address, source }
    }
}

fn bad_call(method: &str, reason: &dyn std::fmt::Display) -> CallError {
    CallError::BadCall { method: method.to_owned(), reason: reason.to_string() }
}

fn refused(node: &NodeName, method: &str, body: &[u8]) -> CallError {
    let (node, method) = (node.clone(), method.to_owned());
    match serde_json::from_slice::<CallRefused>(body) {
        Ok(refusal) => CallError::Refused { node, method, refusal },
        Err(e) => CallError::BadAnswer { node, method, source: e.into() },
    }
}
