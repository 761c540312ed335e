//! MySQL's protocol, between scripted clients and databases.

pub(crate) mod byhand;
mod tls;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use trine_endpoint::{Limits, Route, Target, Wire};
use trine_protocol::Epoch;

use crate::bed::{Bed, Database, Peer, Setup, node, show};

fn setup() -> Setup {
    Setup { wire: Wire::MySql, ..Setup::default() }
}

fn n2(epoch: u64) -> Route {
    Route::remote(Epoch(epoch), "n2".parse().unwrap())
}

pub(crate) fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[a, b, c, sequence], body].concat()
}

/// All capabilities but MariaDB's.
pub(crate) fn greeting() -> Vec<u8> {
    packet(
        0,
        &[b"\x0a8.4.0\0", &[1, 0, 0, 0][..], b"scramble\0\xff\xff\x2d\x02\0\xff\xff\x15", &[0; 10], b"more\0"].concat(),
    )
}

pub(crate) fn response(more: u32) -> Vec<u8> {
    packet(1, &[&(1u32 | 1 << 9 | 1 << 15 | more).to_le_bytes()[..], &[0; 28], b"app\0"].concat())
}

pub(crate) fn ok(sequence: u8, status: u8) -> Vec<u8> {
    packet(sequence, &[0, 0, 0, status, 0, 0, 0])
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    packet(0, format!("\x03{sql}").as_bytes())
}

/// `bytes` is one ERR packet with this number and code; gives its text back.
fn error(bytes: &[u8], sequence: u8, code: u16, state: &str) -> String {
    let body = &bytes[4..];
    assert_eq!(
        bytes[..4],
        [&u32::try_from(body.len()).unwrap().to_le_bytes()[..3], &[sequence]].concat(),
        "{}",
        show(bytes)
    );
    let head = [&[0xff], &code.to_le_bytes()[..], state.as_bytes()].concat();
    assert!(body.starts_with(&head), "{}", show(bytes));
    String::from_utf8(body[head.len()..].to_vec()).unwrap()
}

impl Peer {
    async fn expect_error(&mut self, sequence: u8) -> String {
        error(&self.rest().await, sequence, 1053, "#08S01")
    }
}

/// A session that is logged in and idle: its client and the database's end.
pub(crate) async fn session(bed: &Bed, database: &Database) -> (Peer, Peer) {
    let (mut client, mut server) = (bed.connect().await, database.accept().await);
    server.send(&greeting()).await;
    client.expect(&greeting()).await;
    client.send(&response(0)).await;
    server.expect(&response(0)).await;
    server.send(&ok(2, 2)).await;
    client.expect(&ok(2, 2)).await;
    (client, server)
}

/// Asks, and has an answer.
async fn ask(client: &mut Peer, server: &mut Peer, sql: &str, status: u8) {
    client.send(&query(sql)).await;
    server.expect(&query(sql)).await;
    server.send(&ok(1, status)).await;
    client.expect(&ok(1, status)).await;
}

#[tokio::test]
async fn sessions_stop_between_transactions_and_go_on_after() {
    let bed = setup().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut idle, mut idle_db) = session(&bed, &db).await;
    let (mut busy, mut busy_db) = session(&bed, &db).await;
    ask(&mut busy, &mut busy_db, "begin", 3).await;
    bed.busy(2).await;
    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    bed.busy(1).await;
    idle.send(&query("late")).await;
    ask(&mut busy, &mut busy_db, "insert", 3).await;
    ask(&mut busy, &mut busy_db, "commit", 2).await;
    bed.busy(0).await;
    busy.send(&query("late too")).await;
    idle_db.expect_nothing();
    busy_db.expect_nothing();
    bed.routes.send_replace(Route::local(Epoch(1)));
    idle_db.expect(&query("late")).await;
    busy_db.expect(&query("late too")).await;
    bed.busy(2).await;
}

#[tokio::test]
async fn an_idle_session_gets_its_end_as_the_next_answer() {
    let bed = setup().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = session(&bed, &db).await;
    ask(&mut client, &mut server, "insert", 2).await;
    bed.routes.send_replace(n2(2));
    let text = client.expect_error(1).await;
    assert!(text.starts_with("terminating connection: the primary has changed (trine failover to epoch 2)."), "{text}");
    assert!(!text.contains("A request had not been answered"), "{text}");
    server.expect_gone().await;
}

#[tokio::test]
async fn a_session_with_a_request_is_told_that_its_outcome_is_unknown() {
    let rows = [packet(1, &[1]), packet(2, b"\x03def"), packet(3, &[0xfe, 0, 0, 2, 0]), packet(4, b"\x01x")].concat();
    for (answer, sequence) in [(&rows[..0], 1), (&rows[..], 5)] {
        let bed = setup().run(Route::local(Epoch(1))).await;
        let db = bed.database(Target::Local).await;
        let (mut client, mut server) = session(&bed, &db).await;
        client.send(&query("select")).await;
        server.expect(&query("select")).await;
        server.send(answer).await;
        client.expect(answer).await;
        bed.routes.send_replace(Route::hold(Epoch(1), "the lease has run out"));
        let text = client.expect_error(sequence).await;
        assert!(text.contains("the lease has run out") && text.contains("A request had not been answered"), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_is_kept_back_leaves_its_place_to_the_error() {
    let bed = setup().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = session(&bed, &db).await;
    client.send(&query("insert")).await;
    server.expect(&query("insert")).await;
    bed.book.permit.store(false, SeqCst);
    server.send(&[packet(1, &[0, 1, 0, 10, 0, 0, 0]), ok(2, 2)].concat()).await;
    let text = client.expect_error(1).await;
    assert!(text.contains("lease") && text.contains("A request had not been answered"), "{text}");
}

#[tokio::test]
async fn in_the_middle_of_a_packet_the_session_is_just_closed() {
    for cut in 1..ok(1, 2).len() {
        let bed = setup().run(Route::local(Epoch(1))).await;
        let db = bed.database(Target::Local).await;
        let (mut client, mut server) = session(&bed, &db).await;
        client.send(&query("x")).await;
        server.expect(&query("x")).await;
        server.send(&ok(1, 2)[..cut]).await;
        client.expect(&ok(1, 2)[..cut]).await;
        bed.routes.send_replace(n2(2));
        assert_eq!(client.rest().await, b"", "{cut}");
    }
}

#[tokio::test]
async fn a_database_that_dies_ends_in_an_error_and_one_that_refuses_does_not() {
    let bed = setup().run(n2(1)).await;
    let db = bed.database(node("n2")).await;
    let (mut client, server) = session(&bed, &db).await;
    drop(server);
    let text = client.expect_error(1).await;
    assert!(text.contains("the database on n2 went away"), "{text}");

    let (mut client, mut server) = session(&bed, &db).await;
    client.send(&packet(0, &[1])).await;
    server.expect(&packet(0, &[1])).await;
    drop(server);
    assert_eq!(client.rest().await, b"");

    // Of all reasons not to greet only one is kept from the client.
    for no in [packet(0, b"\xff\x10\x04Too many connections"), packet(0, b"\xff\x6a\x04Host is not allowed")] {
        let mut client = bed.connect().await;
        let mut server = db.accept().await;
        server.send(&no).await;
        drop(server);
        assert_eq!(client.rest().await, no);
    }
}

#[tokio::test]
async fn an_authentication_can_end_in_an_error() {
    let bed = setup().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut greeted, mut greeted_db) = (bed.connect().await, db.accept().await);
    greeted_db.send(&greeting()).await;
    greeted.expect(&greeting()).await;
    let (mut known, mut known_db) = (bed.connect().await, db.accept().await);
    known_db.send(&greeting()).await;
    known.expect(&greeting()).await;
    known.send(&response(0)).await;
    known_db.expect(&response(0)).await;
    bed.routes.send_replace(n2(2));
    assert!(error(&greeted.rest().await, 2, 1053, "terminating").contains("epoch 2"));
    known.expect_error(2).await;
}

#[tokio::test]
async fn a_connection_that_has_heard_nothing_yet_is_led_on() {
    let bed = setup().run(Route::hold(Epoch(1), "no primary yet")).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.connect().await;
    bed.until(|c| c.held == 1).await;
    bed.routes.send_replace(Route::local(Epoch(1)));
    // The database closes without a word; then it says that it is shutting down.
    drop(db.accept().await);
    let mut server = db.accept().await;
    server.send(&packet(0, b"\xff\x1d\x04Server shutdown in progress")).await;
    drop(server);
    // The route changes before the first word.
    let mut server = db.accept().await;
    let other = bed.database(node("n2")).await;
    bed.routes.send_replace(n2(2));
    server.expect_gone().await;
    let mut server = other.accept().await;
    server.send(&greeting()).await;
    client.expect(&greeting()).await;
}

#[tokio::test]
async fn a_client_without_a_database_gets_an_error_in_place_of_the_greeting() {
    let limits = Limits { hold: Duration::from_millis(50), max_connections: 1, ..Setup::default().limits };
    let bed = Setup { limits, ..setup() }.run(Route::hold(Epoch(4), "2 of 3 voters can't be reached")).await;
    let text = error(&bed.connect().await.rest().await, 0, 1053, "trine: ");
    assert!(text.contains("2 of 3 voters can't be reached") && text.contains("writer endpoint"), "{text}");

    bed.until(|c| c.open == 0).await;
    bed.routes.send_replace(Route::local(Epoch(4)));
    let db = bed.database(Target::Local).await;
    let (_client, _server) = session(&bed, &db).await;
    let text = error(&bed.connect().await.rest().await, 0, 1040, "trine: too many connections");
    assert!(text.contains("limit 1"), "{text}");
}

/// Encrypted or compressed packets can't be followed; so the session is passed on as it is, and closed.
#[tokio::test]
async fn what_is_hidden_is_passed_on() {
    for flag in [1 << 11, 1 << 5] {
        let bed = setup().run(Route::local(Epoch(1))).await;
        let db = bed.database(Target::Local).await;
        let (mut client, mut server) = (bed.connect().await, db.accept().await);
        server.send(&greeting()).await;
        client.expect(&greeting()).await;
        client.send(&response(flag)).await;
        server.expect(&response(flag)).await;
        server.send(&ok(2, 2)).await;
        client.expect(&ok(2, 2)).await;
        client.send(b"\x16\x03\x01 and so on").await;
        server.expect(b"\x16\x03\x01 and so on").await;
        server.send(b"\x16\x03\x03 and so on").await;
        client.expect(b"\x16\x03\x03 and so on").await;
        bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
        bed.busy(0).await;
        client.send(b"late").await;
        server.expect_nothing();
        bed.routes.send_replace(n2(2));
        assert_eq!(client.rest().await, b"");
    }
}
