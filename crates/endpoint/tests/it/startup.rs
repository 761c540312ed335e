//! The first bytes of a connection.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use trine_endpoint::{Endpoint, Kind, Limits, Route, Target, Wire};
use trine_platform::{BootClock, Network, Relays, TcpNetwork};
use trine_protocol::Epoch;

use crate::bed::{Setup, logged_in, msg, packet, startup, within};

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

#[tokio::test]
async fn encryption_is_declined_where_there_is_none() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.connect().await;
    client.send(&packet(GSS, b"")).await;
    client.expect(b"N").await;
    client.send(&packet(SSL, b"")).await;
    client.expect(b"N").await;
    client.send(&startup()).await;
    let mut server = db.begin().await;
    server.send(&logged_in()).await;
    client.expect(&logged_in()).await;
}

#[tokio::test]
async fn garbage_is_closed_and_counted() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let garbage: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 16],
        &[255; 16],
        // A TLS handshake where there is no certificate.
        &[22, 3, 1, 2, 0, 1, 0, 1, 252],
        // A startup packet of a gigabyte.
        &[0x40, 0, 0, 0, 0, 3, 0, 0],
        &packet(196_608, &[]),
        &packet(131_072, b"protocol two\0"),
        &packet(80_877_102, b"1"),
        &[packet(SSL, b""), packet(SSL, b"")].concat(),
    ];
    for (i, bytes) in garbage.iter().enumerate() {
        let mut client = bed.connect().await;
        client.send(bytes).await;
        bed.until(|c| c.bad_startups == i as u64 + 1 && c.starting == 0).await;
        if i < 8 {
            client.expect_gone().await;
        }
    }
    // One that says nothing and leaves (a health check) is no error.
    drop(bed.connect().await);
    bed.until(|c| c.accepted == 10 && c.starting == 0).await;
    let s = bed.snapshot();
    assert_eq!((s.bad_startups, s.open), (9, 0));
}

#[tokio::test]
async fn a_client_has_to_say_what_it_wants_in_time() {
    let limits = Limits { startup: Duration::from_millis(30), ..Setup::default().limits };
    let bed = Setup { limits, ..Setup::default() }.run(Route::local(Epoch(1))).await;
    let mut client = bed.connect().await;
    client.send(&startup()[..20]).await;
    client.expect_gone().await;
    // The connection closes a moment before it is counted.
    bed.until(|c| c.bad_startups == 1).await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_the_limit() {
    let limits = Limits { max_connections: 2, ..Setup::default().limits };
    let bed = Setup { limits, ..Setup::default() }.run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (a, _sa) = bed.session(&db).await;
    let _b = bed.session(&db).await;
    let text = bed.client().await.expect_fatal("53300").await;
    let want = "Mtrine: too many connections on this endpoint (limit 2; raise endpoint.max_connections)\0";
    assert!(text.contains(want), "{text}");
    assert_eq!(bed.snapshot().refused, 1);
    drop((a, _sa));
    bed.until(|c| c.open == 1).await;
    bed.session(&db).await;
}

#[tokio::test]
async fn it_runs_on_any_network() {
    let (_routes, rx) = tokio::sync::watch::channel(Route::hold(Epoch(1), "x"));
    let listener = TcpNetwork.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let on = listener.local_addr().unwrap();
    let book = Arc::<crate::bed::Phonebook>::default();
    let limits = Limits { hold: Duration::ZERO, ..Limits::default() };
    let endpoint = Endpoint::new(Kind::Reader, Wire::Postgres, limits, book, rx, Arc::new(BootClock), None);
    tokio::spawn(async move { endpoint.run(listener, &Relays::here(), Default::default()).await });
    let mut client = TcpNetwork.connect(on).await.unwrap();
    client.write_all(&startup()).await.unwrap();
    let mut got = [0; 26];
    within(client.read_exact(&mut got)).await.unwrap();
    assert!(got.ends_with(b"C57P03\0"), "{}", got.escape_ascii());
}

pub(crate) fn certificate() -> (Arc<rustls::ServerConfig>, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["n1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (Arc::new(server), roots)
}

pub(crate) fn connector(roots: rustls::RootCertStore, alpn: Option<&str>) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(client))
}

#[tokio::test]
async fn tls_is_the_endpoints_own_and_the_end_is_readable_in_it() {
    let (tls, roots) = certificate();
    let bed = Setup { tls: Some(tls), ..Setup::default() }.run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    // Asked for, without ALPN (libpq to 16), with it, and begun at once (libpq 17).
    for (ask, alpn) in [(true, None), (true, Some("postgresql")), (false, Some("postgresql"))] {
        let mut client = bed.connect().await;
        if ask {
            client.send(&packet(SSL, b"")).await;
            client.expect(b"S").await;
        }
        let name = ServerName::try_from("n1").unwrap();
        let connecting = connector(roots.clone(), alpn).connect(name, client.0);
        let mut client = within(connecting).await.unwrap();
        client.write_all(&startup()).await.unwrap();
        let mut server = db.begin().await;
        server.send(&logged_in()).await;
        let mut got = vec![0; logged_in().len()];
        within(client.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, logged_in());
        // More than any buffer on the way holds.
        let big = msg(b'd', &vec![7; 3 << 20]);
        let (sent, got) = tokio::join!(server.send(&big), async {
            let mut got = vec![0; big.len()];
            within(client.read_exact(&mut got)).await.unwrap();
            got
        });
        let () = sent;
        assert!(got == big);
        let up = big.clone();
        let (mut from_client, mut to_server) = tokio::io::split(client);
        let sending = tokio::spawn(async move {
            to_server.write_all(&up).await.unwrap();
            to_server.flush().await.unwrap();
            to_server
        });
        server.expect(&big).await;
        let _to_server = sending.await.unwrap();
        let generation = bed.routes.borrow().generation + 1;
        bed.routes.send_replace(Route::local(Epoch(1)).in_generation(generation));
        let mut rest = vec![];
        within(from_client.read_to_end(&mut rest)).await.unwrap();
        crate::bed::fatal(&rest, "57P01");
    }
    // TLS without the protocol's name could be another protocol's client.
    let client = bed.connect().await;
    let name = ServerName::try_from("n1").unwrap();
    if let Ok(mut client) = within(connector(roots, None).connect(name, client.0)).await {
        assert!(!matches!(within(client.read(&mut [0; 8])).await, Ok(n) if n > 0));
    }
    bed.until(|c| c.bad_startups == 1).await;
}
