//! Server and client against each other, and against what does not play by the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trine_api::{
    Accepted, Client, ClientError, Control, EventView, Findings, Refused, RefusedCode, Request, Server, ServerConfig,
    Status, Uris, api_url,
};
use trine_platform::{Network, TcpNetwork};
use trine_transport::Authority;

const TOKEN: &str = "the-token-of-these-tests";
const SOON: Duration = Duration::from_secs(10);

struct Fake {
    leader: Option<&'static str>,
    events: watch::Sender<u64>,
}

#[async_trait]
impl Control for Fake {
    async fn status(&self) -> Result<Status, Refused> {
        Ok(serde_json::from_value(serde_json::json!({
            "cluster": "demo", "engine": "postgres", "epoch": 1, "primary": "n1", "health": "healthy", "paused": null,
            "sync": {"standbys": [], "acks": 0}, "endpoints": {"writer": [], "reader": [], "api": []}, "nodes": [],
            "leader": self.leader,
        }))
        .unwrap())
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<EventView>, Refused> {
        let event = |number| EventView {
            number,
            time: "2026-01-01T00:00:00Z".into(),
            kind: "failover".into(),
            epoch: 1,
            node: None,
            text: "x".into(),
            evidence: serde_json::Value::Null,
        };
        Ok((after + 1..=*self.events.borrow()).take(limit).map(event).collect())
    }

    async fn new_events(&self, after: u64) {
        let _ = self.events.subscribe().wait_for(|last| *last > after).await;
    }

    async fn uris(&self) -> Result<Uris, Refused> {
        Ok(Uris::of(vec!["w".into()], vec!["r".into()]))
    }

    async fn examine(&self) -> Result<Findings, Refused> {
        if self.leader.is_none() { Err(Refused::failed("no database runs")) } else { Ok(Findings::default()) }
    }

    async fn request(&self, request: Request) -> Result<Accepted, Refused> {
        match request {
            Request::Resume => Ok(Accepted { request: Some(7), ..Accepted::default() }),
            Request::Pause { .. } => Err(Refused::failed("no leader")),
            Request::Rebuild { .. } if self.leader.is_none() => Err(Refused::unknown("perhaps")),
            Request::Rebuild { .. } => Ok(Accepted { request: Some(9), ..Accepted::default() }),
            Request::Switchover { .. } if self.leader.is_none() => Err(Refused::no_majority("nobody answers")),
            Request::Switchover { .. } => Ok(Accepted { request: Some(8), ..Accepted::default() }),
            _ => Err(Refused::not_safe("that could lose a commit")),
        }
    }
}

/// A server, until the guard is dropped.
struct Running {
    at: SocketAddr,
    events: watch::Sender<u64>,
    _stop: tokio_util::sync::DropGuard,
}

async fn serve(leader: Option<&'static str>, tls: Option<Arc<rustls::ServerConfig>>) -> Running {
    let listener = TcpNetwork.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (stop, events) = (CancellationToken::new(), watch::channel(2).0);
    let control = Arc::new(Fake { leader, events: events.clone() });
    let server = Server::new(control, ServerConfig { token: TOKEN.into(), tls });
    tokio::spawn(server.run(listener, stop.clone()));
    Running { at, events, _stop: stop.drop_guard() }
}

fn client(urls: &[String], token: Option<&str>) -> Client {
    Client::new(urls, token.map(str::to_owned), None).unwrap()
}

/// Sends text as it is, and returns the head of what comes back.
async fn raw(at: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(text.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn code_of(e: &ClientError) -> Option<RefusedCode> {
    match e {
        ClientError::Refused(r) => Some(r.code),
        _ => None,
    }
}

#[tokio::test]
async fn reading_is_open_on_the_machine_and_changes_need_the_token() {
    let server = serve(Some("n1"), None).await;
    let url = [api_url(server.at)];
    let open = client(&url, None);
    assert_eq!(open.status().await.unwrap().cluster, "demo");
    assert_eq!(open.events(0, false).await.unwrap().len(), 2);
    assert_eq!(code_of(&open.uris().await.unwrap_err()), Some(RefusedCode::Unauthorized));
    assert_eq!(code_of(&open.request(&Request::Resume).await.unwrap_err()), Some(RefusedCode::Unauthorized));
    for wrong in ["", "the-token-of-these-test", "the-token-of-these-testX", "the-token-of-these-tests2"] {
        let e = client(&url, Some(wrong)).request(&Request::Resume).await.unwrap_err();
        assert_eq!(code_of(&e), Some(RefusedCode::Unauthorized), "{wrong}");
        assert!(e.to_string().contains("token"), "{e}");
    }
    let known = client(&url, Some(TOKEN));
    assert_eq!(known.uris().await.unwrap().writer, "w");
    assert_eq!(known.request(&Request::Resume).await.unwrap().request, Some(7));
    let refused = known.request(&Request::Failover { to: None }).await.unwrap_err();
    assert_eq!(code_of(&refused), Some(RefusedCode::Unsafe));
    assert_eq!(refused.to_string(), "that could lose a commit");
}

#[tokio::test]
async fn a_page_under_another_name_reads_nothing() {
    let server = serve(Some("n1"), None).await;
    let ask = async |host: &str| {
        raw(server.at, &format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    };
    assert!(ask("127.0.0.1:6400").await.starts_with("HTTP/1.1 200"));
    assert!(ask("localhost:6400").await.starts_with("HTTP/1.1 200"));
    assert!(ask("[::1]").await.starts_with("HTTP/1.1 200"));
    assert!(ask("evil.example").await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_harms_nobody() {
    let server = serve(Some("n1"), None).await;
    let head = format!("Host: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let post = |body: &str| format!("POST /v1/request HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let unknown = raw(server.at, &post(r#"{"do":"explode"}"#)).await;
    assert!(unknown.starts_with("HTTP/1.1 400") && unknown.contains("wrong_use"), "{unknown}");
    let large = raw(server.at, &post(&"x".repeat(100_000))).await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    assert!(raw(server.at, "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.contains(" 404 "));
    assert!(raw(server.at, "GET /v1/request HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.contains(" 405 "));
    let query = format!("GET /v1/events?after=x HTTP/1.1\r\n{head}\r\n");
    assert!(raw(server.at, &query).await.contains(" 400 "));
    for garbage in ["\0\0\0\0\0\0\0\x08", "\u{16}\u{3}\u{1}", "SSH-2.0-x\r\n", &"A".repeat(200_000)] {
        raw(server.at, garbage).await;
    }
    // Half a request keeps nobody else waiting.
    let mut half = TcpStream::connect(server.at).await.unwrap();
    half.write_all(b"GET /v1/sta").await.unwrap();
    assert!(client(&[api_url(server.at)], None).status().await.is_ok());
}

#[tokio::test]
async fn events_are_waited_for() {
    let server = serve(Some("n1"), None).await;
    let client = client(&[api_url(server.at)], None);
    let waiting = tokio::spawn(async move { client.events(2, true).await });
    // Whether it waits already or not: it must see the third.
    server.events.send_replace(3);
    let events = timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(events.iter().map(|e| e.number).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn another_node_answers_for_one_that_is_gone_or_frozen() {
    let alone = serve(None, None).await;
    let server = serve(Some("n1"), None).await;
    // It takes connections, as the kernel does for a stopped process, and never says a word.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        closed.local_addr().unwrap()
    };
    let urls = [gone, frozen.local_addr().unwrap(), alone.at, server.at].map(api_url);
    let all = client(&urls, Some(TOKEN));
    let status = timeout(Duration::from_secs(3), all.status()).await.unwrap().unwrap();
    assert!(status.leader.is_some(), "a node that is cut off was believed");
    assert!(client(&urls[2..3], None).status().await.unwrap().leader.is_none());
    let nobody = client(&urls[..1], None).status().await.unwrap_err();
    assert!(nobody.to_string().contains(&urls[0]), "{nobody}");
    // One that can't reach the others sends the request on to the next.
    let e = client(&urls[2..], Some(TOKEN)).request(&Request::Pause { reason: "x".into() }).await.unwrap_err();
    assert_eq!(e.to_string(), "no leader");
    let switchover = Request::Switchover { to: None };
    assert_eq!(client(&urls[2..], Some(TOKEN)).request(&switchover).await.unwrap().request, Some(8));
    // What may have been taken is not asked for a second time.
    let rebuild = Request::Rebuild { node: "n3".parse().unwrap() };
    let e = client(&urls[2..], Some(TOKEN)).request(&rebuild).await.unwrap_err();
    assert_eq!(code_of(&e), Some(RefusedCode::Unknown));
    let e = client(&urls[2..3], Some(TOKEN)).request(&switchover).await.unwrap_err();
    assert_eq!(code_of(&e), Some(RefusedCode::NoMajority));
    let first = client(&urls[..1], Some(TOKEN)).request(&Request::Resume).await.unwrap_err();
    assert!(matches!(first, ClientError::NoAnswer { .. }), "{first}");
}

#[tokio::test]
async fn https_is_checked_against_the_clusters_ca() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = Authority::create("c1").unwrap();
    let other = Authority::create("c2").unwrap();
    let (cert, key) = authority.issue(&"n1".parse().unwrap(), &["127.0.0.1".parse().unwrap()]).unwrap();
    for (name, text) in [("ca", authority.to_pem().0), ("other", other.to_pem().0), ("cert", cert), ("key", key)] {
        fs::write(path(name), text).unwrap();
    }
    assert!(
        trine_api::tls_unless_loopback("127.0.0.1".parse().unwrap(), &path("cert"), &path("key")).unwrap().is_none()
    );
    let tls = trine_api::tls_unless_loopback("10.0.0.1".parse().unwrap(), &path("cert"), &path("key")).unwrap();
    let server = serve(Some("n1"), tls).await;
    let url = [format!("https://{}", server.at)];
    let client = Client::new(&url, Some(TOKEN.into()), Some(&path("ca"))).unwrap();
    assert_eq!(client.status().await.unwrap().cluster, "demo");
    let wrong = Client::new(&url, Some(TOKEN.into()), Some(&path("other"))).unwrap().status().await;
    assert!(matches!(wrong, Err(ClientError::NoAnswer { .. })), "{wrong:?}");
    assert!(matches!(Client::new(&url, None, None), Err(ClientError::NoCa { .. })));
    // Plain HTTP on the port of HTTPS is no answer either, and harms nobody.
    raw(server.at, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(client.status().await.is_ok());
}

#[test]
fn addresses_are_checked() {
    for wrong in
        ["", "10.0.0.1:6400", "ftp://10.0.0.1", "http://", "http://10.0.0.1/x", "http://u@10.0.0.1", "http://a b"]
    {
        assert!(Client::new(&[wrong.to_owned()], None, None).is_err(), "{wrong}");
    }
    assert!(Client::new(&[], None, None).is_err());
    let client = Client::new(&["http://[::1]:6400/".to_owned()], None, None).unwrap();
    assert_eq!(client.urls().collect::<Vec<_>>(), ["http://[::1]:6400"]);
}
