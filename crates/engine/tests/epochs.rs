//! Bootstrap, start, and promotions whose timelines are the epochs.

mod common;

use common::{Cluster, any, members, timed, wait_until};
use trine_engine::{DataCopy, Engine, EngineError, Followed, Process, Role, SyncSetting};
use trine_protocol::{Epoch, Position};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_copy_is_made_started_and_promoted() {
    let cluster = Cluster::new();
    let node = cluster.node("n1");
    assert_eq!(node.inspect().await.copy, DataCopy::Missing);
    assert!(matches!(node.engine.start().await, Err(EngineError::NoCopy(_))));
    let identity = timed("bootstrap", node.engine.bootstrap()).await.unwrap();
    assert_eq!(node.engine.bootstrap().await.unwrap(), identity);
    assert_eq!(node.inspect().await.copy, DataCopy::Complete);
    timed("start", node.engine.start()).await.unwrap();
    node.engine.start().await.unwrap();
    let seen = node.inspect().await;
    assert_eq!((seen.process, seen.role, seen.timeline), (Process::Running, Some(Role::Standby), Some(1)));
    assert_eq!((seen.identity, seen.following.clone()), (Some(identity), None));
    let position = timed("seal", node.engine.seal()).await.unwrap();
    assert_eq!(position.epoch, Epoch::ZERO);
    assert_eq!(timed("seal again", node.engine.seal()).await.unwrap(), position);

    timed("promote", node.engine.promote(Epoch(2), &members())).await.unwrap();
    node.engine.promote(Epoch(2), &members()).await.unwrap();
    assert!(matches!(node.engine.promote(Epoch(3), &members()).await, Err(EngineError::PromoteFailed { .. })));
    assert!(matches!(node.engine.seal().await, Err(EngineError::WrongRole { .. })));
    // Until it has a sync rule, commits wait.
    let waits = node.sql("create table t (i int)");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), waits).await.is_err());
    timed("set_sync alone", node.engine.set_sync(&SyncSetting::Alone)).await.unwrap();
    timed("barrier", node.engine.barrier(Epoch(2))).await.unwrap();
    assert!(matches!(node.engine.barrier(Epoch(3)).await, Err(EngineError::BarrierFailed { .. })));
    assert_eq!(node.sql("select epoch from trine.epoch").await.unwrap(), "2");
    wait_until("its checkpoint", || async { node.inspect().await.rewind_ready }).await;
    let seen = node.inspect().await;
    assert_eq!((seen.role, seen.timeline, seen.position.unwrap().epoch), (Some(Role::Primary), Some(2), Epoch(2)));

    // The application's role can work and is no superuser.
    node.sql_as("app", "app-secret", "create table mine (i int)").await.unwrap();
    assert!(node.sql_as("app", "wrong", "select 1").await.is_err());
    assert!(node.sql_as("app", "app-secret", "alter system set fsync = off").await.is_err());
    assert_eq!(node.sql("show data_checksums").await.unwrap(), "on");
    assert_eq!(node.sql("show server_encoding").await.unwrap(), "UTF8");

    timed("stop", node.engine.stop()).await.unwrap();
    assert_eq!(node.processes(), Vec::<u32>::new());
    node.engine.stop().await.unwrap();
    assert!(matches!(node.engine.seal().await, Err(EngineError::NotRunning)));
    // It starts as a standby whatever it was, and its data says which epoch it is of.
    timed("start again", node.engine.start()).await.unwrap();
    let seen = node.inspect().await;
    assert_eq!((seen.role, seen.timeline), (Some(Role::Standby), Some(2)));
    let sealed = timed("seal after a restart", node.engine.seal()).await.unwrap();
    assert_eq!(sealed.epoch, Epoch(2));
    assert!(sealed > position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_takes_the_number_of_its_epoch_and_followers_follow() {
    let cluster = Cluster::new();
    let (n1, n2, n3) = (cluster.primary("n1").await, cluster.node("n2"), cluster.node("n3"));
    n1.sql("create table t as select generate_series(1, 1000) i").await.unwrap();
    timed("clone", n2.clone_of(&n1)).await;
    timed("follow", n2.follow(&n1)).await;
    n2.catch_up(&n1).await;
    assert_eq!(n2.sql("select count(*) from t").await.unwrap(), "1000");
    wait_until("the primary sees it", || async {
        n1.inspect().await.standbys.get(&n2.name).is_some_and(|s| s.streaming)
    })
    .await;
    let seen = n2.inspect().await;
    assert_eq!((seen.following, seen.streaming, seen.timeline), (Some(n1.name.clone()), true, Some(2)));

    // The primary goes; the standby leads in epoch 7, five later.
    n1.engine.kill();
    n1.stopped().await;
    n2.engine.seal().await.unwrap();
    timed("promote 2 -> 7", n2.engine.promote(Epoch(7), &members())).await.unwrap();
    n2.engine.set_sync(&any(1, &[&n1, &n3])).await.unwrap();
    let history = n2.engine.history().await.unwrap();
    assert_eq!((history.epoch, history.forks.len()), (Epoch(7), 2));

    // The old primary is a prefix here: it follows, over every number between, and the barrier passes.
    timed("start after a kill", n1.engine.start()).await.unwrap();
    timed("seal after a kill", n1.engine.seal()).await.unwrap();
    timed("follow 2 -> 7", n1.follow(&n2)).await;
    timed("barrier over a standby", n2.engine.barrier(Epoch(7))).await.unwrap();
    n1.catch_up(&n2).await;
    assert_eq!(n1.inspect().await.timeline, Some(7));
    assert_eq!(n1.engine.seal().await.unwrap().epoch, Epoch(7));

    // A restart of both: the follower has the empty history files too.
    timed("stop a standby", n1.engine.stop()).await.unwrap();
    timed("start a standby", n1.engine.start()).await.unwrap();
    assert_eq!(n1.engine.seal().await.unwrap().epoch, Epoch(7));
    timed("stop a primary", n2.engine.stop()).await.unwrap();
    timed("start a former primary", n2.engine.start()).await.unwrap();
    let (one, two) = (n1.engine.seal().await.unwrap(), n2.engine.seal().await.unwrap());
    assert!(two >= one, "{two:?} {one:?}");

    // A copy made now, and another jump.
    n2.lead(9).await;
    timed("clone again", n3.clone_of(&n2)).await;
    timed("follow", n3.follow(&n2)).await;
    timed("follow 7 -> 9", n1.follow(&n2)).await;
    n3.catch_up(&n2).await;
    n1.catch_up(&n2).await;
    timed("stop a primary with standbys", n2.engine.stop()).await.unwrap();
    n3.lead(12).await;
    n3.sql("insert into t values (-1)").await.unwrap();
    n1.follow(&n3).await;
    n1.catch_up(&n3).await;
    n2.engine.start().await.unwrap();
    n2.follow(&n3).await;
    n2.catch_up(&n3).await;
    for n in [&n1, &n2, &n3] {
        assert_eq!(n.sql("select count(*) from t").await.unwrap(), "1001");
        assert_eq!(n.inspect().await.timeline, Some(12));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diverged_copy_is_told_before_it_follows() {
    let cluster = Cluster::new();
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n2.clone_of(&n1).await;
    n1.sql("create table lost as select 1 i").await.unwrap();
    n1.engine.kill();
    n1.stopped().await;
    n2.lead(3).await;
    n1.engine.start().await.unwrap();
    let history = n2.engine.history().await.unwrap();
    let found = n1.engine.follow(&n2.upstream(), &history).await.unwrap();
    assert!(matches!(&found, Followed::Diverged(why) if why.contains("n2 parted from it")), "{found:?}");
    assert_eq!(n1.inspect().await.following, None);

    // Another cluster's is refused.
    let other = cluster.node("n3");
    other.engine.bootstrap().await.unwrap();
    other.engine.start().await.unwrap();
    let found = other.engine.follow(&n2.upstream(), &history).await;
    assert!(matches!(found, Err(EngineError::OtherCluster { .. })), "{found:?}");
    assert!(Position::default() < n1.engine.seal().await.unwrap());
}
