//! Connections while there is no primary.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use trine_endpoint::{Limits, Route, Target, Wire};
use trine_protocol::Epoch;

use crate::bed::{Setup, complete, logged_in, msg, node, query, ready};

#[tokio::test]
async fn a_connection_is_held_and_then_served() {
    let bed = Setup::default().run(Route::hold(Epoch(1), "no primary yet")).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.client().await;
    bed.until(|c| c.held == 1).await;
    // What it says meanwhile is not lost.
    client.send(&query("select 1")).await;
    bed.routes.send_replace(Route::local(Epoch(2)));
    let mut server = db.begin().await;
    server.expect(&query("select 1")).await;
    server.send(&logged_in()).await;
    client.expect(&logged_in()).await;
    let answer = [complete("SELECT 1"), ready(b'I')].concat();
    server.send(&answer).await;
    client.expect(&answer).await;
    let s = bed.snapshot();
    assert_eq!((s.held, s.open), (0, 1));
}

#[tokio::test]
async fn the_hold_limit_ends_in_a_clear_error() {
    let limits = Limits { hold: Duration::from_millis(50), ..Setup::default().limits };
    let bed = Setup { limits, ..Setup::default() }.run(Route::hold(Epoch(4), "2 of 3 voters can't be reached")).await;
    let text = bed.client().await.expect_fatal("57P03").await;
    assert!(text.contains("2 of 3 voters can't be reached") && text.contains("writer endpoint"), "{text}");
    assert_eq!(bed.snapshot().hold_expired, 1);

    // A primary that can't be reached is named, with what happened.
    bed.routes.send_replace(Route::remote(Epoch(4), "n2".parse().unwrap()));
    let text = bed.client().await.expect_fatal("57P03").await;
    assert!(text.contains("n2 can't be reached: nobody there"), "{text}");
}

#[tokio::test]
async fn a_raw_client_is_held_too() {
    let bed = Setup { wire: Wire::Raw, ..Setup::default() }.run(Route::hold(Epoch(1), "x")).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.connect().await;
    client.send(b"hello").await;
    bed.until(|c| c.held == 1).await;
    bed.routes.send_replace(Route::local(Epoch(1)));
    let mut server = db.accept().await;
    server.expect(b"hello").await;
    server.send(b"you").await;
    client.expect(b"you").await;
}

#[tokio::test]
async fn a_client_that_leaves_while_held_is_noticed() {
    let bed = Setup::default().run(Route::hold(Epoch(1), "x")).await;
    let client = bed.client().await;
    bed.until(|c| c.held == 1).await;
    drop(client);
    bed.until(|c| c.held == 0 && c.open == 0).await;
}

#[tokio::test]
async fn a_failed_dial_is_tried_again_on_the_newest_route() {
    let bed = Setup::default().run(Route::remote(Epoch(1), "n2".parse().unwrap())).await;
    let mut client = bed.client().await;
    bed.until(|c| c.failed_dials > 1).await;
    let db = bed.database(node("n3")).await;
    bed.routes.send_replace(Route::remote(Epoch(2), "n3".parse().unwrap()));
    let mut server = db.begin().await;
    server.send(&logged_in()).await;
    client.expect(&logged_in()).await;
}

#[tokio::test]
async fn a_connection_that_has_heard_nothing_yet_is_led_on() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let mut client = bed.client().await;
    // The database closes without a word: as one does whose primary has just been fenced.
    drop(db.begin().await);
    // The database is not ready: its answer is not the client's business either.
    let mut server = db.begin().await;
    server.send(&msg(b'E', b"SFATAL\0VFATAL\0C57P03\0Mthe database system is shutting down\0\0")).await;
    drop(server);
    // The route changes before the first word.
    let mut server = db.begin().await;
    let other = bed.database(node("n2")).await;
    bed.routes.send_replace(Route::remote(Epoch(2), "n2".parse().unwrap()));
    server.expect_gone().await;
    let mut server = other.begin().await;
    server.send(&logged_in()).await;
    client.expect(&logged_in()).await;
}

#[tokio::test]
async fn a_local_primary_without_a_lease_is_not_used() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    bed.book.permit.store(false, SeqCst);
    let mut client = bed.client().await;
    bed.until(|c| c.failed_dials > 1).await;
    drop(db);
    let db = bed.database(Target::Local).await;
    bed.book.permit.store(true, SeqCst);
    let mut server = db.begin().await;
    server.send(&logged_in()).await;
    client.expect(&logged_in()).await;
}
