//! MySQL clients whose encryption ends at the endpoint.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use trine_endpoint::{Limits, Route, Target};
use trine_protocol::Epoch;

use super::{error, n2, ok, packet, query, response, setup};
use crate::bed::{Bed, Database, Peer, Setup, node, show, within};
use crate::startup::{certificate, connector};

const SSL: u32 = 1 << 11;

/// A greeting, and the same with TLS.
fn greetings() -> (Vec<u8>, Vec<u8>) {
    let with = |flags: u8| {
        let middle = [0xff, flags, 0x2d, 2, 0, 0xff, 0xff, 0x15];
        packet(0, &[b"\x0a8.4.0\0\x01\0\0\0scramble\0", &middle[..], &[0; 10], b"more\0"].concat())
    };
    (with(0xf7), with(0xff))
}

fn request() -> Vec<u8> {
    packet(1, &[&(1u32 | 1 << 9 | 1 << 15 | SSL).to_le_bytes()[..], &[0; 28]].concat())
}

async fn greeted(bed: &Bed, db: &Database) -> (Peer, Peer) {
    let (mut client, mut server) = (bed.connect().await, db.accept().await);
    greet(&mut client, &mut server).await;
    (client, server)
}

async fn greet(client: &mut Peer, server: &mut Peer) {
    let (plain, with_tls) = greetings();
    server.send(&plain).await;
    client.expect(&with_tls).await;
}

async fn encrypted(mut client: Peer, roots: rustls::RootCertStore) -> TlsStream<TcpStream> {
    client.send(&request()).await;
    within(connector(roots, None).connect(ServerName::try_from("n1").unwrap(), client.0)).await.unwrap()
}

async fn expect(client: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    within(client.read_exact(&mut got)).await.unwrap();
    assert_eq!(show(&got), show(bytes));
}

async fn bed(limits: Limits) -> (Bed, rustls::RootCertStore) {
    let (tls, roots) = certificate();
    (Setup { tls: Some(tls), limits, ..setup() }.run(Route::local(Epoch(1))).await, roots)
}

#[tokio::test]
async fn the_database_sees_a_session_without_tls() {
    let (bed, roots) = bed(setup().limits).await;
    let db = bed.database(Target::Local).await;
    let (client, mut server) = greeted(&bed, &db).await;
    let mut client = encrypted(client, roots).await;
    // The client's packets have a number more, as it has sent one more.
    let mut said = response(SSL);
    said[3] = 2;
    client.write_all(&said).await.unwrap();
    server.expect(&response(0)).await;
    server.send(&packet(2, b"\xfeplugin\0scramble")).await;
    expect(&mut client, &packet(3, b"\xfeplugin\0scramble")).await;
    client.write_all(&packet(4, b"reply")).await.unwrap();
    server.expect(&packet(3, b"reply")).await;
    server.send(&ok(4, 2)).await;
    expect(&mut client, &ok(5, 2)).await;
    // From here on they are alike.
    for _ in 0..2 {
        client.write_all(&query("select")).await.unwrap();
        server.expect(&query("select")).await;
        server.send(&ok(1, 2)).await;
        expect(&mut client, &ok(1, 2)).await;
    }
    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    bed.busy(0).await;
    bed.routes.send_replace(n2(2));
    let mut rest = vec![];
    within(client.read_to_end(&mut rest)).await.unwrap();
    error(&rest, 1, 1053, "#08S01terminating connection");
}

#[tokio::test]
async fn a_client_may_do_without() {
    let (bed, _) = bed(setup().limits).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = greeted(&bed, &db).await;
    client.send(&response(0)).await;
    server.expect(&response(0)).await;
    server.send(&ok(2, 2)).await;
    client.expect(&ok(2, 2)).await;
    bed.routes.send_replace(n2(2));
    client.expect_error(1).await;
}

#[tokio::test]
async fn an_authentication_can_end_in_an_error() {
    let (bed, roots) = bed(setup().limits).await;
    let db = bed.database(Target::Local).await;
    let (mut greeted_only, _server) = greeted(&bed, &db).await;
    let (client, mut server) = greeted(&bed, &db).await;
    let mut client = encrypted(client, roots).await;
    let mut said = response(SSL);
    said[3] = 2;
    client.write_all(&said).await.unwrap();
    server.expect(&response(0)).await;
    bed.routes.send_replace(n2(2));
    error(&greeted_only.rest().await, 2, 1053, "terminating connection");
    let mut rest = vec![];
    within(client.read_to_end(&mut rest)).await.unwrap();
    error(&rest, 3, 1053, "#08S01terminating connection");
}

#[tokio::test]
async fn a_connection_that_has_heard_nothing_yet_is_led_on() {
    let (bed, _) = bed(setup().limits).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.connect().await;
    drop(db.accept().await);
    let mut server = db.accept().await;
    server.send(&packet(0, b"\xff\x1d\x04Server shutdown in progress")).await;
    drop(server);
    let mut server = db.accept().await;
    let other = bed.database(node("n2")).await;
    bed.routes.send_replace(n2(2));
    server.expect_gone().await;
    let mut server = other.accept().await;
    greet(&mut client, &mut server).await;
    // One that has is not: it would be greeted twice.
    drop(server);
    client.send(&response(0)).await;
    assert_eq!(client.rest().await, b"");

    let mut refused = bed.connect().await;
    let mut server = other.accept().await;
    let no = packet(0, b"\xff\x10\x04Too many connections");
    server.send(&no).await;
    assert_eq!(refused.rest().await, no);
}

#[tokio::test]
async fn stopping_ends_a_login() {
    let (bed, _) = bed(setup().limits).await;
    let db = bed.database(Target::Local).await;
    let (mut client, _silent) = (bed.connect().await, db.accept().await);
    bed.shutdown.cancel();
    // The session may still be about to connect, though the database's machine has taken it: its words are others then.
    let said = error(&client.rest().await, 0, 1053, "");
    assert!(said.contains("trine is being stopped on this node"), "{said}");
    bed.running.await.unwrap();
}

#[tokio::test]
async fn a_client_has_to_respond_in_time_and_in_its_protocol() {
    let (bed, _) = bed(Limits { startup: Duration::from_millis(100), ..setup().limits }).await;
    let db = bed.database(Target::Local).await;
    // Nothing; half a request; a request that is too long; no TLS after it.
    let mut longer = request();
    longer[0] += 1;
    for (i, said) in [&[][..], &request()[..9], &longer, &[&request()[..], &[7; 40]].concat()].iter().enumerate() {
        let (mut client, mut server) = greeted(&bed, &db).await;
        client.send(said).await;
        server.expect_gone().await;
        bed.until(|c| c.bad_startups == i as u64 + 1).await;
    }
    // One that leaves (a health check) is no error.
    drop(greeted(&bed, &db).await);
    bed.until(|c| c.open == 0).await;
    assert_eq!(bed.snapshot().bad_startups, 4);
}
