//! The reader endpoint.

use trine_endpoint::{Kind, Route, Target};
use trine_protocol::Epoch;

use crate::bed::{Setup, msg, node, packet};

fn reader() -> Setup {
    Setup { kind: Kind::Reader, ..Setup::default() }
}

fn route(epoch: u64, to: &[&str]) -> Route {
    Route::to(Epoch(epoch), to.iter().map(|n| node(n)).collect())
}

#[tokio::test]
async fn sessions_are_spread_over_the_standbys() {
    let bed = reader().run(route(1, &["n2", "n3"])).await;
    let (n2, n3) = (bed.database(node("n2")).await, bed.database(node("n3")).await);
    let mut sessions = vec![];
    for _ in 0..3 {
        // Whichever comes first, the next one goes to the other.
        let (a, b) = (bed.client().await, bed.client().await);
        sessions.push((a, b, n2.begin().await, n3.begin().await));
    }
}

#[tokio::test]
async fn the_next_standby_is_tried_and_a_session_ends_only_with_its_own() {
    let bed = reader().run(route(1, &["n2", "n3"])).await;
    let n3 = bed.database(node("n3")).await;
    let (mut a, _sa) = bed.session(&n3).await;
    let (mut b, mut sb) = bed.session(&n3).await;
    let n2 = bed.database(node("n2")).await;
    let (mut c, _sc) = bed.session(&n2).await;
    // A failover elsewhere: the standby still is one.
    bed.routes.send_replace(route(2, &["n3"]));
    let text = c.expect_fatal("57P01").await;
    assert!(text.contains("n2 no longer serves reads"), "{text}");
    sb.send(&msg(b'D', b"row")).await;
    b.expect(&msg(b'D', b"row")).await;
    bed.routes.send_replace(Route::to(Epoch(2), vec![]));
    a.expect_fatal("57P01").await;
    b.expect_fatal("57P01").await;
}

#[tokio::test]
async fn a_cancel_request_reaches_every_candidate() {
    let bed = reader().run(Route::to(Epoch(1), vec![Target::Local, node("n2")])).await;
    let (local, n2) = (bed.database(Target::Local).await, bed.database(node("n2")).await);
    let cancel = packet(80_877_102, &[0, 0, 0, 7, 1, 2, 3, 4]);
    let mut client = bed.connect().await;
    client.send(&cancel).await;
    for db in [local, n2] {
        let mut server = db.accept().await;
        server.expect(&cancel).await;
    }
    assert_eq!(client.rest().await, b"");
    assert_eq!(bed.snapshot().cancels, 2);
}
