//! A seal cuts replication for good, and only then says how far the data reaches.

mod common;

use common::{Cluster, any, hangs, list, signal, timed, titled, wait_until};
use rustix::process::Signal;
use trine_engine::{Engine, SyncSetting};
use trine_protocol::Epoch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_stays_cut() {
    let cluster = Cluster::new();
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n2.clone_of(&n1).await;
    n2.follow(&n1).await;
    n1.engine.set_sync(&any(1, &[&n2])).await.unwrap();
    n1.sql("create table t (i int)").await.unwrap();
    let acknowledged = n1.engine.history().await.unwrap().end;
    let position = timed("seal a streaming standby", n2.engine.seal()).await.unwrap();
    assert!(position.offset >= acknowledged);
    assert_eq!(position.epoch, Epoch(2));
    assert!(hangs(n1.sql("insert into t values (1)")).await);
    // Whatever the database is told, it finds no way back.
    n2.sql("select pg_reload_conf()").await.unwrap();
    assert!(hangs(n1.sql("insert into t values (2)")).await);
    assert_eq!(n1.sql("select count(*) from pg_stat_replication").await.unwrap(), "0");
    assert_eq!(n2.engine.seal().await.unwrap(), position);
    assert_eq!(list(&n2.dir.join("run/db")).iter().filter(|n| n.starts_with("link-")).count(), 0);
    // It follows again when it is told to, and the commits that waited go through.
    n2.follow(&n1).await;
    n1.engine.barrier(Epoch(2)).await.unwrap();
    assert_eq!(n1.sql("select count(*) from t").await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_receiver_and_a_frozen_replay_are_cut_too() {
    let cluster = Cluster::new();
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n2.clone_of(&n1).await;
    n2.follow(&n1).await;
    signal(titled(&n2, "walreceiver")[0], Signal::STOP);
    n1.sql("create table t (i int)").await.unwrap();
    timed("seal with a frozen receiver", n2.engine.seal()).await.unwrap();

    n2.follow(&n1).await;
    let startup = titled(&n2, "startup")[0];
    signal(startup, Signal::STOP);
    n1.engine.set_sync(&any(1, &[&n2])).await.unwrap();
    // Its receiver still takes the log: what it has acknowledged counts, though it is not replayed.
    n1.sql("insert into t values (1)").await.unwrap();
    let acknowledged = n1.engine.history().await.unwrap().end;
    let sealing = {
        let engine = n2.engine.clone();
        tokio::spawn(async move { engine.seal().await })
    };
    wait_until("it is cut", || async { titled(&n2, "walreceiver").is_empty() }).await;
    // The process that replays has not seen the new settings; it must not matter.
    assert!(hangs(n1.sql("insert into t values (2)")).await);
    assert!(!sealing.is_finished());
    signal(startup, Signal::CONT);
    assert!(sealing.await.unwrap().unwrap().offset >= acknowledged);
    assert!(hangs(n1.sql("insert into t values (3)")).await);
    assert_eq!(n2.sql("select count(*) from t").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_after_a_restart_is_the_end_of_the_log() {
    let cluster = Cluster::new();
    let (n1, n2, n3) = (cluster.primary("n1").await, cluster.node("n2"), cluster.node("n3"));
    n2.clone_of(&n1).await;
    n3.clone_of(&n1).await;
    n2.follow(&n1).await;
    n3.follow(&n1).await;
    n1.sql("create table t (i int)").await.unwrap();
    n3.catch_up(&n1).await;
    let behind = n3.engine.seal().await.unwrap();
    n1.engine.set_sync(&any(1, &[&n2])).await.unwrap();
    for i in 0..20 {
        n1.sql(&format!("insert into t values ({i})")).await.unwrap();
    }
    let acknowledged = n1.engine.history().await.unwrap().end;
    // All three in the same segment: its start would be the same for both.
    for n in [&n2, &n3] {
        n.engine.kill();
        n.stopped().await;
        n.engine.start().await.unwrap();
    }
    let (two, three) = (n2.engine.seal().await.unwrap(), n3.engine.seal().await.unwrap());
    assert!(two.offset >= acknowledged, "{two:?} {acknowledged:X}");
    assert_eq!(three, behind);
    assert!(two > three);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_holds_up_the_replay_of_a_sealed_copy() {
    let cluster = Cluster::new();
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n1.sql("create table t as select 1 i").await.unwrap();
    n2.clone_of(&n1).await;
    n2.follow(&n1).await;
    n2.catch_up(&n1).await;
    n1.engine.set_sync(&any(1, &[&n2])).await.unwrap();
    // A reader that the replay of a drop would have to wait for, and a replay that somebody has paused.
    let reader = n2.connect("trine", &n2.config.superuser_password).await.unwrap();
    reader.batch_execute("begin isolation level repeatable read; select * from t").await.unwrap();
    n2.sql("select pg_wal_replay_pause()").await.unwrap();
    n1.sql("drop table t").await.unwrap();
    n1.sql("create table u as select 1 i").await.unwrap();
    let acknowledged = n1.engine.history().await.unwrap().end;
    let position = timed("seal over a reader and a pause", n2.engine.seal()).await.unwrap();
    assert!(position.offset >= acknowledged);
    assert_eq!(n2.sql("select i from u").await.unwrap(), "1");
    n1.engine.set_sync(&SyncSetting::Alone).await.unwrap();
}
