//! A former primary takes back what nobody else has: by a rewind, else by a new copy.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Cluster, Node, any, hangs, list, members, progress, signal, timed, titled, wait_until};
use rustix::process::Signal;
use trine_engine::{DataCopy, Engine, EngineError, Followed, SyncSetting};
use trine_protocol::Epoch;

async fn rejoin(node: &Node, primary: &Node) -> Result<(), EngineError> {
    wait_until("its checkpoint", || async { primary.engine.history().await.unwrap().rewind_ready }).await;
    let history = primary.engine.history().await.unwrap();
    node.engine.rejoin(&primary.upstream(), &history, &progress()).await
}

/// n1 has written what n2 has not when n2 takes over in epoch 3.
async fn diverged(cluster: &Cluster) -> (Node, Node) {
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n1.sql("create table t as select generate_series(1, 1000) i").await.unwrap();
    n2.clone_of(&n1).await;
    n2.follow(&n1).await;
    n2.catch_up(&n1).await;
    n2.engine.seal().await.unwrap();
    n1.sql("insert into t select -1 from generate_series(1, 1000)").await.unwrap();
    n1.engine.kill();
    n1.stopped().await;
    n2.lead(3).await;
    n2.sql("insert into t values (1001)").await.unwrap();
    (n1, n2)
}

const SUM: &str = "select count(*) || ' ' || sum(i) from t";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_tail_is_rewound_and_kept_aside() {
    let cluster = Cluster::new();
    let (n1, n2) = diverged(&cluster).await;
    n1.engine.start().await.unwrap();
    let history = n2.engine.history().await.unwrap();
    let found = n1.engine.follow(&n2.upstream(), &history).await.unwrap();
    assert!(matches!(found, Followed::Diverged(_)), "{found:?}");
    timed("rejoin of a small tail", rejoin(&n1, &n2)).await.unwrap();
    n1.catch_up(&n2).await;
    assert_eq!(n1.sql(SUM).await.unwrap(), "1001 501501");
    assert_eq!(n1.inspect().await.copy, DataCopy::Complete);
    n2.engine.set_sync(&any(1, &[&n1])).await.unwrap();
    n2.engine.barrier(Epoch(3)).await.unwrap();

    // What was cut off can be read.
    let kept = n1.dir.join("kept");
    let folder = kept.join(&list(&kept)[0]);
    assert!(list(&folder).contains(&"note.json".to_owned()));
    let note: std::collections::BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(folder.join("note.json")).unwrap()).unwrap();
    let word = |k: &str| note[k].as_str().unwrap().to_owned();
    let read = common::run(
        common::bin_dir().join("pg_waldump").to_str().unwrap(),
        &["-s", &word("from"), "-e", &word("to"), "-t", "2", "-p", folder.to_str().unwrap()],
    );
    assert!(read.contains("desc: INSERT"), "{read}");

    // It can lead in its turn, and the other one rejoins where there is nothing to take back.
    n2.engine.stop().await.unwrap();
    n1.lead(6).await;
    assert_eq!(n1.sql(SUM).await.unwrap(), "1001 501501");
    n2.engine.start().await.unwrap();
    rejoin(&n2, &n1).await.unwrap();
    n2.catch_up(&n1).await;
    assert_eq!(list(&kept).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_promotions_from_the_same_place_can_be_told_apart() {
    let cluster = Cluster::new();
    let (n1, n2, n3) = (cluster.primary("n1").await, cluster.node("n2"), cluster.node("n3"));
    n1.sql("create table t as select generate_series(1, 10) i").await.unwrap();
    n2.clone_of(&n1).await;
    n3.clone_of(&n1).await;
    for n in [&n2, &n3] {
        n.follow(&n1).await;
        n.catch_up(&n1).await;
        n.engine.seal().await.unwrap();
    }
    n1.engine.stop().await.unwrap();
    let (two, three) = (n2.engine.seal().await.unwrap(), n3.engine.seal().await.unwrap());
    assert_eq!(two, three);
    // It ends before its first checkpoint in its epoch; its commit waits, but it is in its log.
    signal(titled(&n2, "checkpointer")[0], Signal::STOP);
    n2.engine.promote(Epoch(3), &members()).await.unwrap();
    assert!(hangs(n2.sql("insert into t select 100 from generate_series(1, 100)")).await);
    assert!(!n2.inspect().await.rewind_ready);
    n2.engine.kill();
    n2.stopped().await;
    n3.lead(4).await;
    n3.sql("insert into t values (11)").await.unwrap();
    n2.engine.start().await.unwrap();
    assert!(n2.engine.seal().await.unwrap() < n3.inspect().await.position.unwrap());
    rejoin(&n2, &n3).await.unwrap();
    n1.engine.start().await.unwrap();
    rejoin(&n1, &n3).await.unwrap();
    for n in [&n1, &n2] {
        n.catch_up(&n3).await;
        assert_eq!(n.sql(SUM).await.unwrap(), "11 66");
        assert_eq!(n.inspect().await.timeline, Some(4));
    }
    n3.engine.set_sync(&any(2, &[&n1, &n2])).await.unwrap();
    n3.engine.barrier(Epoch(4)).await.unwrap();
}

/// PostgreSQL's programs with another pg_rewind.
fn programs_with(dir: &Path, pg_rewind: &str) -> std::path::PathBuf {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let theirs = common::bin_dir();
    for name in list(&theirs) {
        if name != "pg_rewind" {
            std::os::unix::fs::symlink(theirs.join(&name), bin.join(name)).unwrap();
        }
    }
    std::fs::write(bin.join("pg_rewind"), pg_rewind).unwrap();
    std::fs::set_permissions(bin.join("pg_rewind"), PermissionsExt::from_mode(0o755)).unwrap();
    bin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_rewind_is_never_used_and_the_copy_made_anew() {
    let cluster = Cluster::new();
    let (n1, n2) = diverged(&cluster).await;
    let mut config = n1.config.clone();

    // One that can't connect has changed nothing.
    let nowhere = "#!/bin/sh\necho 'pg_rewind: error: connection to server failed: refused'; exit 1\n";
    config.bin_dir = Some(programs_with(&cluster.dir.path().join("a"), nowhere));
    let one = Node::open(config.clone());
    let found = rejoin(&one, &n2).await;
    assert!(matches!(found, Err(EngineError::Tool { .. })), "{found:?}");
    assert_eq!(one.inspect().await.copy, DataCopy::Complete);

    // One that breaks off in the middle leaves a copy that counts as none.
    let broken = "#!/bin/sh\necho 'pg_rewind: servers diverged'; echo 'need to copy 3 MB'; kill -9 $$\n";
    config.bin_dir = Some(programs_with(&cluster.dir.path().join("b"), broken));
    let two = Node::open(config.clone());
    let found = rejoin(&two, &n2).await;
    assert!(matches!(found, Err(EngineError::NeedsRebuild(_))), "{found:?}");
    for node in [&two, &two.reopened().await] {
        assert!(matches!(node.inspect().await.copy, DataCopy::Incomplete(_)));
        assert!(matches!(node.engine.start().await, Err(EngineError::IncompleteCopy { .. })));
        assert!(matches!(rejoin(node, &n2).await, Err(EngineError::NeedsRebuild(_))));
    }
    n1.clone_of(&n2).await;
    assert_eq!(n1.inspect().await.copy, DataCopy::Complete);
    n1.follow(&n2).await;
    n1.catch_up(&n2).await;
    assert_eq!(n1.sql(SUM).await.unwrap(), "1001 501501");
    n2.engine.set_sync(&SyncSetting::Alone).await.unwrap();
}
