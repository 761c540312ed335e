//! What the tests stand on: an endpoint, databases that say what they are told to, and clients.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trine_endpoint::{Backend, Dialer, Endpoint, Kind, Limits, Permit, Route, Snapshot, Target, Wire};
use trine_platform::{BootClock, Relays};

/// Longer than anything here takes on a busy machine: a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(20);

/// Leads to databases by address.
#[derive(Default)]
pub(crate) struct Phonebook {
    pub(crate) at: Mutex<BTreeMap<Target, SocketAddr>>,
    pub(crate) permit: Arc<AtomicBool>,
}

#[async_trait]
impl Dialer for Phonebook {
    async fn dial(&self, target: &Target, _: trine_protocol::Epoch) -> io::Result<Backend> {
        let at = self.at.lock().unwrap().get(target).copied();
        let at = at.ok_or_else(|| io::Error::other("nobody there"))?;
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Ok(match target {
            Target::Local => Backend::permitted(stream, permit(&self.permit)),
            Target::Remote(_) => Backend::free(stream),
        })
    }
}

pub(crate) fn permit(flag: &Arc<AtomicBool>) -> Arc<dyn Permit> {
    let flag = flag.clone();
    Arc::new(move || flag.load(SeqCst))
}

/// An endpoint that runs.
pub(crate) struct Bed {
    pub(crate) endpoint: Endpoint,
    pub(crate) on: SocketAddr,
    pub(crate) routes: watch::Sender<Route>,
    pub(crate) book: Arc<Phonebook>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<()>,
}

pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) wire: Wire,
    pub(crate) limits: Limits,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits { farewell: Duration::from_millis(200), ..Limits::default() };
        Self { kind: Kind::Writer, wire: Wire::Postgres, limits, tls: None }
    }
}

impl Setup {
    pub(crate) async fn run(self, route: Route) -> Bed {
        let book = Arc::new(Phonebook::default());
        book.permit.store(true, SeqCst);
        let (routes, rx) = watch::channel(route);
        let clock = Arc::new(BootClock);
        let endpoint = Endpoint::new(self.kind, self.wire, self.limits, book.clone(), rx, clock, self.tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let on = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (e, s) = (endpoint.clone(), shutdown.clone());
        let running = tokio::spawn(async move { e.run(listener, &Relays::start(2).unwrap(), s).await });
        Bed { endpoint, on, routes, book, shutdown, running }
    }
}

impl Bed {
    /// A new database, listed as `target`.
    pub(crate) async fn database(&self, target: Target) -> Database {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.book.at.lock().unwrap().insert(target, listener.local_addr().unwrap());
        Database(listener)
    }

    pub(crate) async fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.on).await.unwrap())
    }

    /// A client that has sent its startup packet.
    pub(crate) async fn client(&self) -> Peer {
        let mut c = self.connect().await;
        c.send(&startup()).await;
        c
    }

    /// A session that is logged in and idle: its client and the database's end.
    pub(crate) async fn session(&self, database: &Database) -> (Peer, Peer) {
        let mut client = self.client().await;
        let mut server = database.begin().await;
        server.send(&logged_in()).await;
        client.expect(&logged_in()).await;
        (client, server)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.endpoint.counters().snapshot()
    }

    /// Waits until the counters are so.
    pub(crate) async fn until(&self, so: impl Fn(Snapshot) -> bool) {
        within(async {
            while !so(self.snapshot()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Waits until so many sessions are busy.
    pub(crate) async fn busy(&self, n: usize) {
        within(async { self.endpoint.busy().watch().wait_for(|b| *b == n).await.map(|_| ()).unwrap() }).await;
    }
}

/// A scripted database.
pub(crate) struct Database(TcpListener);

impl Database {
    pub(crate) async fn accept(&self) -> Peer {
        Peer::new(within(self.0.accept()).await.unwrap().0)
    }

    /// The next session, its startup packet read.
    pub(crate) async fn begin(&self) -> Peer {
        let mut p = self.accept().await;
        p.expect(&startup()).await;
        p
    }
}

/// One end of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    fn new(s: TcpStream) -> Self {
        s.set_nodelay(true).unwrap();
        Self(s)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.unwrap();
    }

    /// Reads exactly these bytes.
    pub(crate) async fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        within(self.0.read_exact(&mut got)).await.unwrap();
        assert_eq!(show(&got), show(bytes));
    }

    /// Everything up to the end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut got = vec![];
        within(self.0.read_to_end(&mut got)).await.unwrap();
        got
    }

    /// Reads up to the end: one FATAL message with this code, and nothing else. Gives its text back.
    pub(crate) async fn expect_fatal(&mut self, code: &str) -> String {
        let got = self.rest().await;
        fatal(&got, code)
    }

    /// The connection ends, in whatever way.
    pub(crate) async fn expect_gone(&mut self) {
        let mut buf = [0; 256];
        match within(self.0.read(&mut buf)).await {
            Ok(0) | Err(_) => {}
            Ok(n) => panic!("got {}", show(&buf[..n])),
        }
    }

    /// Nothing has come. (Only after something that comes later has been seen.)
    pub(crate) fn expect_nothing(&mut self) {
        let mut buf = [0; 256];
        match self.0.try_read(&mut buf) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => panic!("got {other:?}: {}", show(&buf)),
        }
    }
}

pub(crate) async fn within<F: Future>(f: F) -> F::Output {
    timeout(LONG, f).await.expect("in time")
}

pub(crate) fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// `bytes` is one FATAL message with this code.
pub(crate) fn fatal(bytes: &[u8], code: &str) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    assert!(bytes.first() == Some(&b'E'), "{text:?}");
    let len = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
    assert_eq!(len + 1, bytes.len(), "{text:?}");
    assert!(text.contains(&format!("SFATAL\0VFATAL\0C{code}\0M")), "{text:?}");
    assert!(text.ends_with("\0\0"), "{text:?}");
    text
}

pub(crate) fn msg(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut m = vec![kind];
    m.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
    m.extend(body);
    m
}

pub(crate) fn startup() -> Vec<u8> {
    packet(196_608, b"user\0app\0database\0app\0\0")
}

/// A packet without a kind.
pub(crate) fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut p = (u32::try_from(body.len()).unwrap() + 8).to_be_bytes().to_vec();
    p.extend(code.to_be_bytes());
    p.extend(body);
    p
}

pub(crate) fn logged_in() -> Vec<u8> {
    [msg(b'R', &[0; 4]), msg(b'S', b"server_version\x0015\0"), msg(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]), ready(b'I')]
        .concat()
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    msg(b'Q', format!("{sql}\0").as_bytes())
}

pub(crate) fn complete(tag: &str) -> Vec<u8> {
    msg(b'C', format!("{tag}\0").as_bytes())
}

pub(crate) fn ready(status: u8) -> Vec<u8> {
    msg(b'Z', &[status])
}

pub(crate) fn node(name: &str) -> Target {
    Target::Remote(name.parse().unwrap())
}
