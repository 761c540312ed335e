//! The pause of a switchover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trine_endpoint::{Conn, Route, Served, Target, Wire, relay_served};
use trine_platform::BoxStream;
use trine_protocol::Epoch;

use crate::bed::{Setup, complete, logged_in, permit, query, ready, startup, within};
use crate::mysql::{self, greeting, response};

#[tokio::test]
async fn sessions_stop_between_transactions_and_go_on_after() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut idle, mut idle_db) = bed.session(&db).await;
    let (mut busy, mut busy_db) = bed.session(&db).await;
    busy.send(&query("begin")).await;
    busy_db.expect(&query("begin")).await;
    busy_db.send(&ready(b'T')).await;
    busy.expect(&ready(b'T')).await;
    bed.busy(2).await;

    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    bed.busy(1).await;
    idle.send(&query("late")).await;
    let mut new = bed.client().await;
    bed.until(|c| c.held == 1).await;
    // The running transaction goes on to its end, and no further.
    busy.send(&query("commit")).await;
    busy_db.expect(&query("commit")).await;
    let done = [complete("COMMIT"), ready(b'I')].concat();
    busy_db.send(&done).await;
    busy.expect(&done).await;
    bed.busy(0).await;
    busy.send(&query("late too")).await;

    // Another note of the same pause changes nothing.
    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    idle_db.expect_nothing();
    busy_db.expect_nothing();

    bed.routes.send_replace(Route::local(Epoch(1)));
    idle_db.expect(&query("late")).await;
    busy_db.expect(&query("late too")).await;
    let mut new_db = db.begin().await;
    new_db.send(&logged_in()).await;
    new.expect(&logged_in()).await;
    bed.busy(3).await;
}

#[tokio::test]
async fn a_paused_session_ends_with_the_switchover_before_it_is_read() {
    let bed = Setup::default().run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut client, mut server) = bed.session(&db).await;
    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    bed.busy(0).await;
    client.send(&query("insert")).await;
    bed.routes.send_replace(Route::remote(Epoch(2), "n2".parse().unwrap()));
    let text = client.expect_fatal("57P01").await;
    // It was never sent on, so its outcome is known: nothing.
    assert!(!text.contains("A request had not been answered"), "{text}");
    server.expect_gone().await;
}

/// Where one transaction ends is not known there, so a session is at rest when its client has had an answer, and says nothing.
#[tokio::test]
async fn sessions_of_a_protocol_that_is_not_known_come_to_rest() {
    let bed = Setup { wire: Wire::Raw, ..Setup::default() }.run(Route::local(Epoch(1))).await;
    let db = bed.database(Target::Local).await;
    let (mut idle, mut idle_db) = (bed.connect().await, db.accept().await);
    let (mut asks, mut asks_db) = (bed.connect().await, db.accept().await);
    let (mut never, mut never_db) = (bed.connect().await, db.accept().await);
    idle.send(b"ask").await;
    idle_db.expect(b"ask").await;
    idle_db.send(b"answer").await;
    idle.expect(b"answer").await;
    asks.send(b"slow").await;
    asks_db.expect(b"slow").await;
    bed.busy(3).await;
    bed.routes.send_replace(Route::local(Epoch(1)).draining(true));
    // One that never rests: its client says the next thing as soon as it has an answer.
    let talking = tokio::spawn(async move {
        let mut words = 0;
        loop {
            never.send(b"word").await;
            words += 1;
            tokio::select! {
                () = never_db.expect(b"word") => {}
                () = tokio::time::sleep(std::time::Duration::from_secs(10)) => return (never, never_db, words),
            }
            never_db.send(b"back").await;
            never.expect(b"back").await;
        }
    });
    // The one that has no answer yet is waited for, and that alone.
    bed.busy(1).await;
    asks_db.send(b"at last").await;
    asks.expect(b"at last").await;
    bed.busy(0).await;
    idle.send(b"late").await;
    idle_db.expect_nothing();
    bed.routes.send_replace(Route::local(Epoch(1)));
    idle_db.expect(b"late").await;
    bed.busy(3).await;
    talking.abort();
}

#[tokio::test]
async fn a_forwarded_session_obeys_permit_and_cancel() {
    for by_cancel in [true, false] {
        let (mut near, far) = duplex(1024);
        let (backend, mut db) = duplex(1024);
        let lease = Arc::new(AtomicBool::new(true));
        let cancel = CancellationToken::new();
        let (far, backend): (BoxStream, BoxStream) = (Box::new(far), Box::new(backend));
        let task = tokio::spawn(relay_served(far, backend, permit(&lease), cancel.clone()));
        near.write_all(b"ask").await.unwrap();
        let mut got = [0; 3];
        within(db.read_exact(&mut got)).await.unwrap();
        db.write_all(b"yes").await.unwrap();
        within(near.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"yes");
        if by_cancel {
            cancel.cancel();
        } else {
            lease.store(false, SeqCst);
        }
        db.write_all(b"no!").await.unwrap();
        let mut rest = vec![];
        within(near.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"");
        within(task).await.unwrap();
    }
}

#[tokio::test]
async fn a_forwarded_session_of_mysqls_can_be_paused_too() {
    let (mut near, far) = duplex(1024);
    let (backend, mut db) = duplex(1024);
    let (drain, drained) = watch::channel(false);
    let mut served = Served::new(Wire::MySql, None, CancellationToken::new());
    served.drain = Some(drained);
    let mut busy = served.busy.watch();
    let (far, backend): (BoxStream, BoxStream) = (Box::new(far), Box::new(backend));
    tokio::spawn(served.relay(Conn::from(far), Conn::from(backend)));
    // Logged in, and a transaction begun.
    let exchange = [(greeting(), response(0)), (mysql::ok(2, 2), mysql::query("begin")), (mysql::ok(1, 3), vec![])];
    for (down, up) in exchange {
        let mut got = vec![0; down.len()];
        db.write_all(&down).await.unwrap();
        within(near.read_exact(&mut got)).await.unwrap();
        let mut got = vec![0; up.len()];
        near.write_all(&up).await.unwrap();
        within(db.read_exact(&mut got)).await.unwrap();
    }
    drain.send_replace(true);
    near.write_all(&mysql::query("commit")).await.unwrap();
    let mut got = vec![0; mysql::query("commit").len()];
    within(db.read_exact(&mut got)).await.unwrap();
    assert_eq!(*busy.borrow(), 1);
    db.write_all(&mysql::ok(1, 2)).await.unwrap();
    within(busy.wait_for(|n| *n == 0)).await.unwrap();
}

#[tokio::test]
async fn a_forwarded_session_can_be_paused_on_the_primarys_node() {
    let (mut near, far) = duplex(1024);
    let (backend, mut db) = duplex(1024);
    let (drain, drained) = watch::channel(false);
    let mut served = Served::new(Wire::Postgres, None, CancellationToken::new());
    served.drain = Some(drained);
    let mut busy = served.busy.watch();
    let (far, backend): (BoxStream, BoxStream) = (Box::new(far), Box::new(backend));
    tokio::spawn(served.relay(Conn::from(far), Conn::from(backend)));
    near.write_all(&startup()).await.unwrap();
    let mut got = vec![0; startup().len()];
    within(db.read_exact(&mut got)).await.unwrap();
    db.write_all(&logged_in()).await.unwrap();
    let mut got = vec![0; logged_in().len()];
    within(near.read_exact(&mut got)).await.unwrap();
    assert_eq!(*busy.borrow(), 1);
    drain.send_replace(true);
    within(busy.wait_for(|n| *n == 0)).await.unwrap();
    near.write_all(&query("late")).await.unwrap();
    drain.send_replace(false);
    let mut got = vec![0; query("late").len()];
    within(db.read_exact(&mut got)).await.unwrap();
    assert_eq!(*busy.borrow(), 1);
}
