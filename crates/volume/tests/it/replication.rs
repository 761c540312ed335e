use std::time::Duration;

use trine_protocol::{Epoch, SyncSetting};
use trine_volume::link::{FollowError, Refusal};
use trine_volume::{Store, VolumeError};

use crate::node::{Node, any};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_on_another_node() {
    let (a, b, c) = (Node::new("a"), Node::new("b"), Node::new("c"));
    a.volume.lead(Epoch(2)).unwrap();
    a.volume.set_sync(&any(1, &[&b, &c]));
    let (ab, ac) = (b.follow(&a, Epoch(2)), c.follow(&a, Epoch(2)));
    let file = a.make("file").unwrap();
    for i in 0..50_u8 {
        a.write(file, u64::from(i) * 8192, &[i; 8192]).unwrap();
        a.sync().await.unwrap();
    }
    a.sync().await.unwrap();
    let end = a.volume.log_end();
    b.until(|p| p.applied == end.lsn).await;
    c.until(|p| p.applied == end.lsn).await;
    a.until(|p| p.applied == end.lsn).await;
    assert_eq!(a.objects(), b.objects());
    assert_eq!(a.objects(), c.objects());
    assert_eq!(a.read(file, 8192), vec![0; 8192]);
    assert_eq!(b.volume.log_end(), end);

    // The primary is lost: what it had acknowledged is there.
    ab.cut().await;
    ac.cut().await;
    drop(a);
    b.volume.lead(Epoch(3)).unwrap();
    b.volume.set_sync(&any(1, &[&c]));
    let bc = c.follow(&b, Epoch(3));
    b.sync().await.unwrap();
    assert_eq!(b.volume.read(file, 49 * 8192, 10_000).unwrap(), vec![49; 8192]);
    bc.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_acknowledged_is_taken_back_and_left_no_trace() {
    let (a, b, c) = (Node::new("a"), Node::new("b"), Node::new("c"));
    a.volume.lead(Epoch(2)).unwrap();
    a.volume.set_sync(&any(1, &[&b, &c]));
    let (ab, ac) = (b.follow(&a, Epoch(2)), c.follow(&a, Epoch(2)));
    let file = a.make("file").unwrap();
    a.write(file, 0, b"acknowledged").unwrap();
    a.sync().await.unwrap();
    let end = a.volume.log_end().lsn;
    b.until(|p| p.durable == end).await;
    c.until(|p| p.durable == end).await;
    ab.cut().await;
    ac.cut().await;

    a.write(file, 0, b"not").unwrap();
    let other = a.make("other").unwrap();
    a.write(other, 0, &[1; 300_000]).unwrap();
    a.volume.flush().unwrap();
    let parted = a.volume.position();
    b.volume.lead(Epoch(3)).unwrap();
    b.volume.set_sync(&any(1, &[&c]));
    let bc = c.follow(&b, Epoch(3));
    b.sync().await.unwrap();
    b.write(file, 12, b" later").unwrap();
    b.sync().await.unwrap();
    assert!(b.volume.position() > parted, "the epoch counts before the length");

    let a = a.restart();
    assert_eq!(a.volume.position(), parted);
    let refused = a.follow(&b, Epoch(3)).end().await;
    assert!(matches!(refused, FollowError::Refused(Refusal::Parted)), "{refused}");
    a.volume.truncate(end).unwrap();
    // Also after a restart nothing of it is there.
    let a = a.restart();
    assert_eq!(a.volume.log_end().lsn, end);
    let ba = a.follow(&b, Epoch(3));
    b.volume.set_sync(&any(1, &[&a]));
    b.sync().await.unwrap();
    let end = b.volume.log_end().lsn;
    for node in [&a, &b, &c] {
        node.until(|p| p.applied == end).await;
    }
    assert_eq!(a.objects(), b.objects());
    assert_eq!(c.objects(), b.objects());
    assert_eq!(b.read(file, 100), b"acknowledged later");
    let applied = b.volume.truncate(end - 1);
    assert!(matches!(applied, Err(VolumeError::Applied { .. })), "{applied:?}");
    bc.cut().await;
    ba.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_that_the_rule_does_not_allow() {
    let (a, b) = (Node::new("a"), Node::new("b"));
    a.volume.lead(Epoch(2)).unwrap();
    a.make("file").unwrap();
    let _ab = b.follow(&a, Epoch(2));
    let end = a.volume.log_end().lsn;
    a.volume.progress().borrow_and_update();
    a.volume.set_sync(&SyncSetting::Wait);
    let mut waits = Box::pin(a.sync());
    b.until(|p| p.durable == end).await;
    assert!(futures_now(&mut waits).is_none());
    a.volume.set_sync(&any(1, &[&b]));
    waits.await.unwrap();
    // Whoever waits when the volume is closed learns it.
    a.volume.set_sync(&SyncSetting::Wait);
    a.make("another").unwrap();
    let mut waits = Box::pin(a.sync());
    assert!(futures_now(&mut waits).is_none());
    a.volume.close("the test says so");
    assert_eq!(waits.await, Err(rustix::io::Errno::IO));
    assert_eq!(a.make("third"), Err(rustix::io::Errno::IO));
    assert_eq!(a.sync().await, Err(rustix::io::Errno::IO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_what_it_would_see_and_for_no_more() {
    let a = Node::new("a");
    a.volume.lead(Epoch(2)).unwrap();
    a.volume.set_sync(&SyncSetting::Alone);
    let file = a.make("file").unwrap();
    a.write(file, 0, &[1; 8192]).unwrap();
    a.sync().await.unwrap();
    let end = a.volume.log_end().lsn;
    a.until(|p| p.applied == end).await;
    // From here on nothing is acknowledged.
    a.volume.set_sync(&SyncSetting::Wait);
    a.write(file, 4096, &[2; 4096]).unwrap();
    let read = |len: usize| {
        let volume = a.volume.clone();
        tokio::task::spawn_blocking(move || volume.read(file, 0, len).unwrap())
    };
    let before = tokio::time::timeout(Duration::from_secs(20), read(4096)).await.expect("it waits for another part");
    assert_eq!(before.unwrap(), [1; 4096]);
    let all = read(8192);
    a.volume.set_sync(&SyncSetting::Alone);
    assert_eq!(all.await.unwrap(), [[1; 4096], [2; 4096]].concat());
}

fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(done) => Some(done),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_it_was() {
    let a = Node::new("a");
    a.volume.lead(Epoch(2)).unwrap();
    a.volume.set_sync(&SyncSetting::Alone);
    let file = a.make("file").unwrap();
    // More than one checkpoint, and more than a file of log.
    for i in 0..90_u64 {
        a.write(file, (i % 40) << 20, &vec![u8::try_from(i).unwrap(); 1 << 20]).unwrap();
    }
    a.sync().await.unwrap();
    let end = a.volume.log_end();
    let before = a.until(|p| p.applied == end.lsn).await;
    assert_eq!(before.commit, end.lsn);
    let objects = a.objects();
    let a = a.restart();
    assert_eq!(a.volume.log_end(), end);
    a.volume.lead(Epoch(3)).unwrap();
    a.volume.set_sync(&SyncSetting::Alone);
    a.sync().await.unwrap();
    assert_eq!(a.objects(), objects);
    assert_eq!(a.volume.read(file, 39 << 20, 4).unwrap(), [79; 4]);
    a.volume.finish();
    let a = a.restart();
    let progress = *a.volume.progress().borrow();
    assert_eq!(progress.applied, progress.end, "a clean end leaves nothing to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_copy_is_made_of_what_differs() {
    let (a, b) = (Node::new("a"), Node::new("b"));
    a.volume.lead(Epoch(2)).unwrap();
    a.volume.set_sync(&any(1, &[&b]));
    let ab = b.follow(&a, Epoch(2));
    let file = a.make("file").unwrap();
    for i in 0..40_u64 {
        a.write(file, i << 20, &vec![u8::try_from(i).unwrap(); 1 << 20]).unwrap();
    }
    a.sync().await.unwrap();
    b.until(|p| p.applied == a.volume.log_end().lsn).await;
    ab.cut().await;
    // Some pages change, more than the log keeps.
    a.volume.set_sync(&SyncSetting::Alone);
    for i in 0..300_u64 {
        a.write(file, (i * 37 % 5000) * 8192, &[77; 4096]).unwrap();
    }
    a.sync().await.unwrap();
    a.until(|p| p.applied == p.end).await;
    // The files are read while they change.
    let writer = std::thread::scope(|s| {
        let b = s.spawn(|| b.rebuild(&a));
        for i in 0..200_u64 {
            a.write(file, i * 4096 * 3, &[99; 5000]).unwrap();
        }
        b.join().unwrap()
    });
    let (b, taken) = (writer.0, writer.1);
    assert!(taken.sent < 6 << 20, "{} bytes were sent for about 1.2 MB that differed", taken.sent);
    let ab = b.follow(&a, taken.epoch);
    a.volume.set_sync(&any(1, &[&b]));
    a.sync().await.unwrap();
    let end = a.volume.log_end().lsn;
    b.until(|p| p.applied == end).await;
    a.until(|p| p.applied == end).await;
    assert_eq!(a.objects(), b.objects());
    ab.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_copy_begins_in_an_epoch_before_the_primarys() {
    let (a, b) = (Node::new("a"), Node::new("b"));
    a.volume.lead(Epoch(2)).unwrap();
    a.volume.set_sync(&SyncSetting::Alone);
    let file = a.make("file").unwrap();
    a.write(file, 0, &[1; 5000]).unwrap();
    a.sync().await.unwrap();
    a.until(|p| p.applied == p.end).await;
    let (b, taken) = std::thread::scope(|s| s.spawn(|| b.rebuild(&a)).join().unwrap());
    // No checkpoint was made since: the one that it began at is of epoch 1.
    assert_eq!(taken.epoch, Epoch(2));
    assert_eq!(b.volume.extent(), a.volume.extent());
}

/// Who is told that a volume was closed, and asks why, does not meet who closes it once more (the node is fenced while its database
/// is taken down) with each holding what the other waits for.
#[test]
fn who_waits_for_the_end_and_who_brings_it_do_not_wait_for_each_other() {
    let a = Node::new("a");
    let (done, both) = std::sync::mpsc::channel();
    let (waits, closes) = (a.volume.clone(), a.volume.clone());
    let told = done.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..100_000 {
            assert_eq!(runtime.block_on(waits.until_closed()), "fenced");
        }
        told.send(()).unwrap();
    });
    std::thread::spawn(move || {
        for _ in 0..100_000 {
            closes.close("fenced");
        }
        done.send(()).unwrap();
    });
    for _ in 0..2 {
        both.recv_timeout(crate::node::PATIENCE).expect("they wait for each other");
    }
}
