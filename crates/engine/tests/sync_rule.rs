//! The sync rule in the running database, and the barrier.

mod common;

use common::{Cluster, any, hangs, signal, timed, titled, wait_until};
use rustix::process::Signal;
use trine_engine::{Engine, EngineError, SyncSetting};
use trine_protocol::Epoch;

const WAITING: &str = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_waits_for_a_standby_and_nothing_else() {
    let cluster = Cluster::new();
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n2.clone_of(&n1).await;
    timed("set_sync alone -> any", n1.engine.set_sync(&any(1, &[&n2]))).await.unwrap();
    // Dropped and asked again: one commit waits, not ten. (The proof that commits wait has left one of its own.)
    let before: u32 = n1.sql(WAITING).await.unwrap().parse().unwrap();
    for _ in 0..3 {
        assert!(hangs(n1.engine.barrier(Epoch(2))).await);
    }
    let after: u32 = n1.sql(WAITING).await.unwrap().parse().unwrap();
    assert_eq!(after, before + 1);
    n2.follow(&n1).await;
    timed("barrier", n1.engine.barrier(Epoch(2))).await.unwrap();
    // What the same acknowledgement has released may show as waiting for a moment.
    wait_until("nobody waits", || async { n1.sql(WAITING).await.unwrap() == "0" }).await;

    // A wait that somebody cancels proves nothing.
    n2.engine.seal().await.unwrap();
    let barrier = {
        let engine = n1.engine.clone();
        tokio::spawn(async move { engine.barrier(Epoch(2)).await })
    };
    wait_until("it waits", || async { n1.sql(WAITING).await.unwrap() == "1" }).await;
    n1.sql("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'").await.unwrap();
    let found = barrier.await.unwrap();
    assert!(matches!(found, Err(EngineError::BarrierCancelled(Epoch(2)))), "{found:?}");

    // Alone again.
    timed("set_sync any -> alone", n1.engine.set_sync(&SyncSetting::Alone)).await.unwrap();
    n1.engine.barrier(Epoch(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_from_before_a_change_of_the_rule_is_not_joined() {
    let cluster = Cluster::new();
    let (n1, n2, n3) = (cluster.primary("n1").await, cluster.node("n2"), cluster.node("n3"));
    n1.engine.set_sync(&any(1, &[&n2])).await.unwrap();
    assert!(hangs(n1.engine.barrier(Epoch(2))).await);
    // There and back: what n3 alone has acknowledged between is not behind the first barrier.
    n1.engine.set_sync(&any(1, &[&n3])).await.unwrap();
    n1.engine.set_sync(&any(1, &[&n2])).await.unwrap();
    assert!(hangs(n1.engine.barrier(Epoch(2))).await);
    // The second marks the same row, so it waits for the first.
    let second = "select count(*) from pg_stat_activity where wait_event = 'transactionid'";
    assert_eq!(n1.sql(second).await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_counts_only_when_every_process_has_it() {
    let cluster = Cluster::new();
    let (n1, n2, n3) = (cluster.primary("n1").await, cluster.node("n2"), cluster.node("n3"));
    n2.clone_of(&n1).await;
    n2.follow(&n1).await;
    n1.engine.set_sync(&any(1, &[&n2])).await.unwrap();
    // The process that sends to n2 is frozen and still counts n2's word.
    let sender = titled(&n1, "walsender")[0];
    signal(sender, Signal::STOP);
    assert!(hangs(n1.engine.set_sync(&any(1, &[&n3]))).await);
    signal(sender, Signal::CONT);
    timed("set_sync any -> any", n1.engine.set_sync(&any(1, &[&n3]))).await.unwrap();
    assert!(hangs(n1.sql("create table t (i int)")).await);

    // The process that switches waiting on is frozen.
    n1.engine.set_sync(&SyncSetting::Alone).await.unwrap();
    wait_until("none waits", || async { n1.sql(WAITING).await.unwrap() == "0" }).await;
    let checkpointer = titled(&n1, "checkpointer")[0];
    signal(checkpointer, Signal::STOP);
    for _ in 0..2 {
        assert!(hangs(n1.engine.set_sync(&any(1, &[&n3]))).await);
    }
    signal(checkpointer, Signal::CONT);
    n1.engine.set_sync(&any(1, &[&n3])).await.unwrap();
    assert!(hangs(n1.sql("create table u (i int)")).await);

    // Nor does ALTER SYSTEM get a say.
    n1.sql("alter system set synchronous_standby_names = ''").await.unwrap();
    n1.engine.set_sync(&any(1, &[&n2, &n3])).await.unwrap();
    assert_eq!(n1.sql("show synchronous_standby_names").await.unwrap(), "ANY 1 (\"n2\", \"n3\")");
    n1.engine.set_sync(&any(2, &[&n2, &n3])).await.unwrap();
    assert_eq!(n1.sql("show synchronous_standby_names").await.unwrap(), "ANY 2 (\"n2\", \"n3\")");
    assert!(hangs(n1.engine.barrier(Epoch(2))).await);
    n1.engine.set_sync(&any(1, &[&n2, &n3])).await.unwrap();
    n1.engine.barrier(Epoch(2)).await.unwrap();
}
