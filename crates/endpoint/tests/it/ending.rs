//! How sessions end.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use trine_endpoint::{Limits, Route, Target, Wire};
use trine_protocol::Epoch;

use crate::bed::{Setup, complete, fatal, logged_in, msg, node, query, ready};

fn n2(epoch: u64) -> Route {
    Route::remote(Epoch(epoch), "n2".parse().unwrap())
}

#[tokio::test]
async fn an_idle_session_gets_57p01_when_the_primary_changes() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = bed.session(&db).await;
    bed.routes.send_replace(n2(2));
    let text = client.expect_fatal("57P01").await;
    assert!(text.contains("Mterminating connection: the primary has changed (trine failover to epoch 2)"), "{text}");
    assert!(!text.contains("A request had not been answered"), "{text}");
    server.expect_gone().await;
    bed.until(|c| c.ended_by_route == 1 && c.open == 0).await;
}

#[tokio::test]
async fn every_change_of_a_writer_ends_its_sessions_at_once() {
    let same = Route::local(Epoch(1));
    for next in [Route::hold(Epoch(1), "fenced"), Route::local(Epoch(2)), same.in_generation(1), n2(1)] {
        let bed = Setup::default().run(Route::local(Epoch(1))).await;
        let db = bed.database(Target::Local).await;
        let (mut a, _sa) = bed.session(&db).await;
        let (mut b, _sb) = bed.session(&db).await;
        bed.routes.send_replace(next);
        a.expect_fatal("57P01").await;
        b.expect_fatal("57P01").await;
    }
}

#[tokio::test]
async fn a_session_with_a_request_is_told_that_its_outcome_is_unknown() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = bed.session(&db).await;
    client.send(&query("commit")).await;
    server.expect(&query("commit")).await;
    bed.routes.send_replace(Route::hold(Epoch(1), "the lease has run out"));
    let text = client.expect_fatal("57P01").await;
    assert!(text.contains("the lease has run out") && text.contains("A request had not been answered"), "{text}");
}

#[tokio::test]
async fn in_the_middle_of_a_message_the_session_is_just_closed() {
    let row = msg(b'D', b"0123456789");
    for cut in 1..row.len() {
        let bed = Setup::default().run(Route::local(Epoch(1))).await;
        let db = bed.database(Target::Local).await;
        let (mut client, mut server) = bed.session(&db).await;
        client.send(&query("x")).await;
        server.send(&row[..cut]).await;
        client.expect(&row[..cut]).await;
        bed.routes.send_replace(n2(2));
        assert_eq!(client.rest().await, b"", "{cut}");
    }
}

#[tokio::test]
async fn nothing_is_passed_on_once_the_lease_has_run_out() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = bed.session(&db).await;
    client.send(&query("insert")).await;
    server.expect(&query("insert")).await;
    bed.book.permit.store(false, SeqCst);
    server.send(&[complete("INSERT 0 1"), ready(b'I')].concat()).await;
    let text = client.expect_fatal("57P01").await;
    assert!(text.contains("lease") && !text.contains("INSERT"), "{text}");
    // Its answer was here, and was kept back: so to the client it has none.
    assert!(text.contains("A request had not been answered"), "{text}");
    assert_eq!(bed.snapshot().ended_by_permit, 1);
}

#[tokio::test]
async fn nothing_is_passed_on_once_the_route_has_changed() {
    // One thread: the session can't run between the change and the database's answer, so both wait for it.
    for lease in [true, false] {
        let bed = Setup::default().run(Route::local(Epoch(1))).await;
        let db = bed.database(Target::Local).await;
        let (mut client, server) = bed.session(&db).await;
        bed.routes.send_replace(n2(2));
        bed.book.permit.store(lease, SeqCst);
        server.0.try_write(&[complete("INSERT 0 1"), ready(b'I')].concat()).unwrap();
        let text = client.expect_fatal("57P01").await;
        assert!(!text.contains("INSERT"), "{text}");
    }
}

#[tokio::test]
async fn a_raw_session_is_just_closed() {
    let bed = Setup { wire: Wire::Raw, ..Setup::default() }.run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.connect().await;
    client.send(b"a").await;
    let mut server = db.accept().await;
    server.send(b"b").await;
    client.expect(b"b").await;
    bed.routes.send_replace(n2(2));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_database_that_dies_ends_in_a_message_and_one_that_says_goodbye_does_not() {
    let bed = Setup::default().run(n2(1)).await;
    let db = bed.database(node("n2")).await;
    let (mut client, server) = bed.session(&db).await;
    drop(server);
    let text = client.expect_fatal("57P01").await;
    assert!(text.contains("the database on n2 went away"), "{text}");

    let (mut client, mut server) = bed.session(&db).await;
    let bye = msg(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0");
    server.send(&bye).await;
    drop(server);
    assert_eq!(client.rest().await, bye);

    let (mut client, mut server) = bed.session(&db).await;
    client.send(&msg(b'X', b"")).await;
    server.expect(&msg(b'X', b"")).await;
    drop(server);
    assert_eq!(client.rest().await, b"");

    // A refused password: the server's error stays the last word.
    let mut client = bed.client().await;
    let mut server = db.begin().await;
    let no = msg(b'E', b"SFATAL\0VFATAL\0C28P01\0Mno\0\0");
    server.send(&no).await;
    drop(server);
    assert_eq!(client.rest().await, no);
}

#[tokio::test]
async fn a_client_that_vanishes_frees_its_database_session() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (client, mut server) = bed.session(&db).await;
    // A reset, as when a process is killed over unread data.
    client.0.set_zero_linger().unwrap();
    drop(client);
    server.expect_gone().await;
    drop(server);
    let (client, mut server) = bed.session(&db).await;
    drop(client);
    server.expect_gone().await;
    drop(server);
    bed.until(|c| c.open == 0).await;
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = bed.session(&db).await;
    client.send(&query("x")).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.0).await.unwrap();
    assert_eq!(server.rest().await, query("x"));
    let answer = [complete("X"), ready(b'I')].concat();
    server.send(&answer).await;
    client.expect(&answer).await;
    drop(server);
    let rest = client.rest().await;
    if !rest.is_empty() {
        fatal(&rest, "57P01");
    }
    bed.until(|c| c.open == 0).await;
}

#[tokio::test]
async fn a_half_closed_client_does_not_wait_for_ever() {
    let limits = Limits { half_closed: Duration::from_millis(30), ..Setup::default().limits };
    let bed = Setup { limits, ..Setup::default() }.run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = bed.session(&db).await;
    client.send(&query("x")).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.0).await.unwrap();
    assert_eq!(server.rest().await, query("x"));
    assert_eq!(client.rest().await, b"");
    bed.until(|c| c.open == 0).await;
}

#[tokio::test]
async fn stopping_ends_everything() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut idle, _s) = bed.session(&db).await;
    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    let mut held = bed.client().await;
    bed.until(|c| c.held == 1).await;
    let mut starting = bed.connect().await;
    bed.until(|c| c.starting == 1).await;
    bed.shutdown.cancel();
    idle.expect_fatal("57P01").await;
    held.expect_fatal("57P03").await;
    starting.expect_gone().await;
    bed.running.await.unwrap();
    assert_eq!(bed.endpoint.counters().snapshot().open, 0);
}

#[tokio::test]
async fn an_endpoint_that_nobody_tells_the_route_any_more_stops() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.client().await;
    let mut server = db.begin().await;
    server.send(&logged_in()).await;
    client.expect(&logged_in()).await;
    drop(bed.routes);
    client.expect_fatal("57P01").await;
    bed.running.await.unwrap();
}
