//! Nodes that call each other over real TCP on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trine_platform::{BoxStream, Network, Relays, TcpNetwork};
use trine_protocol::NodeName;
use trine_transport::{ALPN_RPC, Authority, CallError, CallRefused, Identity, Peers, Server, Service, answer, parse};

const LONG: Duration = Duration::from_secs(10);

fn name(n: &str) -> NodeName {
    n.parse().unwrap()
}

fn identity(ca: &Authority, node: &str) -> Arc<Identity> {
    let (cert, key) = ca.issue(&name(node), &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).unwrap();
    Arc::new(Identity::load(&ca.to_pem().0, &cert, &key, ca.cluster_id()).unwrap())
}

/// Answers `add`, `who` and `big`; hangs on `hang`.
struct Example {
    /// Streams to `elsewhere` are used on this runtime: the test's own.
    elsewhere: Handle,
    hung: Notify,
    dropped: Arc<Notify>,
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Service for Example {
    async fn call(&self, from: &NodeName, method: &str, body: Bytes) -> Result<Bytes, CallRefused> {
        match method {
            "add" => answer(&parse::<Vec<i64>>(&body)?.iter().sum::<i64>()),
            "test/who" => answer(from),
            "big" => answer(&"x".repeat(parse::<usize>(&body)?)),
            "len" => answer(&parse::<String>(&body)?.len()),
            "hang" => {
                let _dropped = NotifyOnDrop(self.dropped.clone());
                self.hung.notify_one();
                std::future::pending().await
            }
            other => Err(CallRefused::UnknownMethod(other.to_owned())),
        }
    }

    async fn stream(&self, from: NodeName, preface: serde_json::Value, stream: BoxStream) {
        let greeting = format!("{from} {}\n", preface["to"].as_str().unwrap_or("?"));
        match preface["to"].as_str() {
            Some("elsewhere") => drop(self.elsewhere.spawn(echo(greeting, stream))),
            _ => echo(greeting, stream).await,
        }
    }
}

async fn echo(greeting: String, mut stream: BoxStream) {
    stream.write_all(greeting.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let (mut r, mut w) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut r, &mut w).await;
    let _ = w.shutdown().await;
}

struct Running {
    address: SocketAddr,
    service: Arc<Example>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(identity: Arc<Identity>, on: SocketAddr) -> Self {
        let listener = TcpNetwork.listen(on).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Arc::new(Example { elsewhere: Handle::current(), hung: Notify::new(), dropped: Arc::default() });
        let stop = CancellationToken::new();
        let task =
            tokio::spawn(Server::run(listener, identity, service.clone(), Relays::start(1).unwrap(), stop.clone()));
        Self { address, service, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn on(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], 0))
}

fn peers(identity: Arc<Identity>, list: &[(&str, SocketAddr)]) -> Arc<Peers> {
    let addresses: BTreeMap<_, _> = list.iter().map(|(n, a)| (name(n), *a)).collect();
    Arc::new(Peers::new(identity, Arc::new(TcpNetwork), addresses))
}

#[tokio::test]
async fn two_nodes_call_each_other() {
    let ca = Authority::create("c1").unwrap();
    let (n1, n2) = (identity(&ca, "n1"), identity(&ca, "n2"));
    let one = Running::start(n1.clone(), on(1)).await;
    let two = Running::start(n2.clone(), on(2)).await;
    let from_one = peers(n1, &[("n1", one.address), ("n2", two.address)]);
    let from_two = peers(n2, &[("n1", one.address)]);

    let sum: i64 = from_one.call(&name("n2"), "add", &[1, 2, 39], LONG).await.unwrap();
    assert_eq!(sum, 42);
    let who: NodeName = from_two.call(&name("n1"), "test/who", &(), LONG).await.unwrap();
    assert_eq!(who, name("n2"));
    let itself: NodeName = from_one.call(&name("n1"), "test/who", &(), LONG).await.unwrap();
    assert_eq!(itself, name("n1"));
    let big: String = from_one.call(&name("n2"), "big", &(10 << 20), LONG).await.unwrap();
    assert_eq!(big.len(), 10 << 20);
    let len: usize = from_one.call(&name("n2"), "len", &big, LONG).await.unwrap();
    assert_eq!(len, 10 << 20);

    let refused = from_one.call::<_, ()>(&name("n2"), "nothing", &(), LONG).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&CallRefused::UnknownMethod("nothing".to_owned())), "{refused}");
    let refused = from_one.call::<_, ()>(&name("n2"), "add", &"text", LONG).await.unwrap_err();
    assert!(matches!(refused.refusal(), Some(CallRefused::BadRequest(_))), "{refused}");
    let unread = from_one.call::<_, String>(&name("n2"), "add", &[1], LONG).await.unwrap_err();
    assert!(matches!(unread, CallError::BadAnswer { .. }), "{unread}");
    let unknown = from_one.call::<_, ()>(&name("n9"), "add", &(), LONG).await.unwrap_err();
    assert!(matches!(unknown, CallError::UnknownPeer(_)), "{unknown}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn many_calls_at_once_share_a_connection() {
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    let peers = peers(identity(&ca, "n2"), &[("n1", server.address)]);
    let calls = (0..500_i64).map(|i| {
        let peers = peers.clone();
        async move {
            let sum: i64 = peers.call(&name("n1"), "add", &[i, 1], LONG).await.unwrap();
            assert_eq!(sum, i + 1);
        }
    });
    futures::future::join_all(calls).await;
    server.stop().await;
}

/// Writes `bytes` and reads until the server ends the connection.
async fn poke(address: SocketAddr, bytes: &[u8]) -> usize {
    let mut s = TcpStream::connect(address).await.unwrap();
    let _ = s.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = s.read_to_end(&mut answer).await;
    answer.len()
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    poke(server.address, b"GET / HTTP/1.1\r\n\r\n").await;
    poke(server.address, &[0; 4096]).await;
    poke(server.address, &[0x16, 3, 1, 0xff, 0xff]).await;
    // More connections that say nothing than the port keeps half-open: the oldest go, a real peer gets in.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let peers = peers(identity(&ca, "n2"), &[("n1", server.address)]);
    let sum: i64 = peers.call(&name("n1"), "add", &[1, 1], LONG).await.unwrap();
    assert_eq!(sum, 2);
    let mut first = silent.swap_remove(0);
    assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 0, "the oldest was ended");
    // And the handshake's deadline ends those that stayed.
    let mut last = silent.pop().unwrap();
    assert_eq!(last.read(&mut [0; 8]).await.unwrap(), 0);
    server.stop().await;
}

/// TLS with whatever client certificate, then one attempt to use the connection.
async fn use_port(address: SocketAddr, ca_pem: &str, certificate: Option<(&str, &str)>) -> std::io::Result<usize> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![ALPN_RPC.to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect(ServerName::try_from("n1").unwrap(), tcp).await?;
    tls.read(&mut [0; 1]).await
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_cluster_is_refused() {
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    let ca_pem = ca.to_pem().0;
    let none = use_port(server.address, &ca_pem, None).await.unwrap_err();
    assert!(none.to_string().contains("CertificateRequired"), "{none}");
    let other = Authority::create("c2").unwrap();
    let (cert, key) = other.issue(&name("n2"), &[]).unwrap();
    let wrong = use_port(server.address, &ca_pem, Some((&cert, &key))).await.unwrap_err();
    assert!(wrong.to_string().contains("alert"), "{wrong}");
    // One that is in order is let in: the server speaks first (its HTTP/2 settings).
    let (cert, key) = ca.issue(&name("n2"), &[]).unwrap();
    assert_eq!(use_port(server.address, &ca_pem, Some((&cert, &key))).await.unwrap(), 1);
    server.stop().await;
}

#[tokio::test]
async fn nodes_of_other_clusters_and_other_names_are_refused() {
    let ca = Authority::create("c1").unwrap();
    let other = Authority::create("c2").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;

    let stranger = peers(identity(&other, "n2"), &[("n1", server.address)]);
    let e = stranger.call::<_, ()>(&name("n1"), "test/who", &(), LONG).await.unwrap_err();
    assert!(matches!(e, CallError::Unreachable { .. }), "{e}");

    // The right cluster, but another node answers at this address.
    let misled = peers(identity(&ca, "n3"), &[("n2", server.address)]);
    let e = misled.call::<_, ()>(&name("n2"), "test/who", &(), LONG).await.unwrap_err();
    assert!(e.never_sent(), "{e}");
    assert!(matches!(misled.open_stream(&name("n2"), &json!({})).await, Err(CallError::Unreachable { .. })));

    // An authority with the same key that has changed its cluster's id: the id in the certificates still tells them apart.
    let (cert, key) = ca.issue(&name("n2"), &[]).unwrap();
    let e = Identity::load(&ca.to_pem().0, &cert, &key, "c9").unwrap_err();
    let why = std::error::Error::source(&e).unwrap().to_string();
    assert!(why.contains("c1") && why.contains("c9"), "{e}: {why}");
    server.stop().await;
}

#[tokio::test]
async fn a_hung_handler_blocks_nobody_and_ends_with_its_caller() {
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    let peers = peers(identity(&ca, "n2"), &[("n1", server.address)]);
    let waiting = {
        let peers = peers.clone();
        tokio::spawn(async move { peers.call::<_, ()>(&name("n1"), "hang", &(), LONG).await })
    };
    server.service.hung.notified().await;
    for _ in 0..20 {
        let short = Duration::from_millis(500);
        let _: i64 = peers.call(&name("n1"), "add", &[1], short).await.unwrap();
    }
    let e = peers.call::<_, ()>(&name("n1"), "hang", &(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(e, CallError::TimedOut { .. }), "{e}");
    server.service.dropped.notified().await;
    // A timed-out call has not hurt the one that still waits, nor those that follow.
    let _: i64 = peers.call(&name("n1"), "add", &[1], LONG).await.unwrap();
    assert!(!waiting.is_finished());
    waiting.abort();
    server.service.dropped.notified().await;
    server.stop().await;
}

#[tokio::test]
async fn a_restarted_server_is_called_again_at_once() {
    let ca = Authority::create("c1").unwrap();
    let n1 = identity(&ca, "n1");
    let server = Running::start(n1.clone(), on(1)).await;
    let address = server.address;
    let peers = peers(identity(&ca, "n2"), &[("n1", address)]);
    let _: i64 = peers.call(&name("n1"), "add", &[1], LONG).await.unwrap();
    server.stop().await;
    // While nobody listens the call fails long before its deadline.
    let n1_name = name("n1");
    let e = tokio::time::timeout(Duration::from_secs(3), peers.call::<_, i64>(&n1_name, "add", &[1], LONG));
    let e = e.await.expect("fails fast").unwrap_err();
    assert!(matches!(e, CallError::Unreachable { .. } | CallError::Broken { .. }), "{e}");
    let server = Running::start(n1, address).await;
    let _: i64 = peers.call(&name("n1"), "add", &[1], LONG).await.unwrap();
    server.stop().await;
}

/// Forwards connections, and can swallow everything without closing anything, as a dropped route does.
struct Cable {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<bool>,
}

impl Cable {
    async fn to(server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(on(1)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let is_cut = is_cut.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let (cr, cw) = client.into_split();
                    let (sr, sw) = server.into_split();
                    tokio::join!(pump(cr, sw, is_cut.clone()), pump(sr, cw, is_cut));
                });
            }
        });
        Self { address, cut }
    }
}

/// What is read while the cable is cut is lost, and so is what the connection carries after that.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_cut: tokio::sync::watch::Receiver<bool>,
) {
    let (mut buf, mut dead) = ([0; 4096], false);
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        dead |= *is_cut.borrow();
        if !dead && to.write_all(&buf[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn after_a_silent_cut_the_next_call_succeeds() {
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    let healthy = Running::start(identity(&ca, "n3"), on(3)).await;
    let cable = Cable::to(server.address).await;
    let peers = peers(identity(&ca, "n2"), &[("n1", cable.address), ("n3", healthy.address)]);
    let _: i64 = peers.call(&name("n1"), "add", &[1], LONG).await.unwrap();

    cable.cut.send_replace(true);
    let short = Duration::from_millis(70);
    for _ in 0..3 {
        let e = peers.call::<_, i64>(&name("n1"), "add", &[1], short).await.unwrap_err();
        assert!(matches!(e, CallError::TimedOut { .. }), "{e}");
    }
    let (n1, n3) = (name("n1"), name("n3"));
    let (cut_off, other) = tokio::join!(
        peers.call::<_, i64>(&n1, "add", &[1], LONG),
        peers.call::<_, i64>(&n3, "add", &[1], Duration::from_secs(1)),
    );
    let e = cut_off.unwrap_err();
    assert!(matches!(e, CallError::Unreachable { .. }), "the connect attempt has its own deadline: {e}");
    assert_eq!(other.unwrap(), 1, "another peer is not delayed");

    // Begins an attempt that is doomed, which a call after the cut joins: it must not be its answer.
    let doomed = {
        let peers = peers.clone();
        tokio::spawn(async move { peers.call::<_, i64>(&name("n1"), "add", &[1], LONG).await })
    };
    tokio::task::yield_now().await;
    cable.cut.send_replace(false);
    assert_eq!(peers.call::<_, i64>(&name("n1"), "add", &[1], Duration::from_secs(2)).await.unwrap(), 1);
    let _ = doomed.await.unwrap();
    server.stop().await;
    healthy.stop().await;
}

#[tokio::test]
async fn a_stream_carries_bytes_after_its_preface() {
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    let peers = peers(identity(&ca, "n2"), &[("n1", server.address)]);
    let mut stream = peers.open_stream(&name("n1"), &json!({"to": "database"})).await.unwrap();
    let mut greeting = [0; 12];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"n2 database\n");
    let data: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let (mut r, mut w) = tokio::io::split(stream);
    let mut back = vec![0; data.len()];
    let (sent, read) = tokio::join!(w.write_all(&data), r.read_exact(&mut back));
    sent.unwrap();
    read.unwrap();
    assert_eq!(back, data);
    w.shutdown().await.unwrap();
    assert_eq!(r.read(&mut [0; 1]).await.unwrap(), 0, "the end of the stream comes through");

    let long = peers.open_stream(&name("n1"), &"x".repeat(10_000)).await;
    assert!(matches!(long, Err(CallError::BadCall { .. })));
    // A stream still open does not keep the server from stopping.
    let _open = peers.open_stream(&name("n1"), &json!({})).await.unwrap();
    server.stop().await;
}

/// Else each of its messages would wake the runtime that has met it, only to wake the one that uses it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_belongs_to_the_runtime_that_uses_it() {
    let relays = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks.filter(|t| std::fs::read_to_string(t.path().join("comm")).is_ok_and(|name| name == "relay\n")).count()
    };
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    let peers = peers(identity(&ca, "n2"), &[("n1", server.address)]);
    let mut stream = peers.open_stream(&name("n1"), &json!({"to": "elsewhere"})).await.unwrap();
    stream.read_exact(&mut [0; 13]).await.unwrap();
    assert_eq!(relays(), 1);
    server.stop().await;
    while relays() > 0 {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"still there").await.unwrap();
    stream.read_exact(&mut [0; 11]).await.unwrap();
}

/// Prints the cost of a call; asserts nothing about it.
#[tokio::test]
async fn cost_of_a_call() {
    let ca = Authority::create("c1").unwrap();
    let server = Running::start(identity(&ca, "n1"), on(1)).await;
    let peers = peers(identity(&ca, "n2"), &[("n1", server.address)]);
    let _: i64 = peers.call(&name("n1"), "add", &[1], LONG).await.unwrap();
    let begun = tokio::time::Instant::now();
    for _ in 0..1000 {
        let _: i64 = peers.call(&name("n1"), "add", &[1], LONG).await.unwrap();
    }
    println!("one call: {:?}", begun.elapsed() / 1000);
    server.stop().await;
}
