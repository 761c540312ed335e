//! A new copy never costs the old one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Cluster, Node, list, progress, run, timed, wait_until};
use trine_engine::{CopyId, DataCopy, Engine, EngineError};

async fn clone(node: &Node, primary: &Node) -> Result<(), EngineError> {
    Engine::clone_from(&*node.engine, &primary.upstream(), None, &progress()).await
}

/// A node whose folder is a file system of its own, this big.
struct Small(String);

impl Small {
    fn mount(cluster: &Cluster, name: &str, megabytes: u32) -> Self {
        let path = cluster.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let path = path.to_str().unwrap().to_owned();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0711"), "tmpfs", &path]);
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_the_old_copy() {
    let cluster = Cluster::new();
    let n1 = cluster.primary("n1").await;
    let _small = Small::mount(&cluster, "n2", 110);
    let n2 = cluster.node("n2");
    n2.clone_of(&n1).await;
    n2.follow(&n1).await;
    let before = n2.engine.seal().await.unwrap();
    n1.sql("create table t as select repeat(md5(i::text), 30) from generate_series(1, 50000) i").await.unwrap();
    let found = clone(&n2, &n1).await;
    assert!(matches!(found, Err(EngineError::DiskFull { .. })), "{found:?}");
    // It runs on, and nothing is left in the way.
    assert_eq!(n2.engine.seal().await.unwrap(), before);
    assert!(!n2.dir.join("data.new").exists());
    n2.engine.stop().await.unwrap();
    n2.engine.start().await.unwrap();
    assert_eq!(n2.engine.seal().await.unwrap(), before);

    // The same for the first copy of all.
    let _tiny = Small::mount(&cluster, "n3", 20);
    let n3 = cluster.node("n3");
    let found = n3.engine.bootstrap().await;
    assert!(matches!(found, Err(EngineError::DiskFull { .. })), "{found:?}");
    assert_eq!(n3.inspect().await.copy, DataCopy::Missing);
    let found = clone(&n3, &n1).await;
    assert!(matches!(found, Err(EngineError::DiskFull { .. })), "{found:?}");
    assert_eq!(n3.inspect().await.copy, DataCopy::Missing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_that_breaks_off_leaves_the_old_copy() {
    let cluster = Cluster::new();
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n2.clone_of(&n1).await;
    let before = n2.engine.seal().await.unwrap();
    n1.sql("create table t as select repeat(md5(i::text), 30) from generate_series(1, 50000) i").await.unwrap();

    // The agent changes its mind in the middle.
    let (tell, mut heard) = tokio::sync::watch::channel(trine_engine::Progress::default());
    {
        let (engine, upstream) = (n2.engine.clone(), n1.upstream());
        let task = tokio::spawn(async move { Engine::clone_from(&*engine, &upstream, None, &tell).await });
        heard.wait_for(|p| p.phase == "copying").await.unwrap();
        task.abort();
        let _ = task.await;
    }
    assert_eq!(n2.engine.seal().await.unwrap(), before);
    wait_until("the tool has gone", || async {
        n1.sql("select count(*) from pg_stat_replication").await.unwrap() == "0"
    })
    .await;

    // It dies in the middle of putting the new one in place.
    let again = n2.reopened().await;
    assert!(!n2.dir.join("data.new").exists());
    again.engine.stop().await.unwrap();
    let name = |n: &str| n2.dir.join(n);
    run("cp", &["-a", name("data").to_str().unwrap(), name("data.new").to_str().unwrap()]);
    std::fs::rename(name("data"), name("data.old")).unwrap();
    std::fs::write(name("data.new/new"), "").unwrap();
    let third = again.reopened().await;
    assert!(name("data/new").exists());
    assert_eq!(list(&n2.dir).iter().filter(|n| n.starts_with("data")).count(), 1);
    third.engine.start().await.unwrap();
    assert_eq!(third.engine.seal().await.unwrap(), before);

    // Only the cluster's own data.
    let found = Engine::clone_from(&*third.engine, &n1.upstream(), Some(CopyId(1)), &progress()).await;
    assert!(matches!(found, Err(EngineError::OtherCluster { .. })), "{found:?}");
    assert_eq!(third.engine.seal().await.unwrap(), before);
    // Nobody there.
    n1.engine.stop().await.unwrap();
    let found = clone(&third, &n1).await;
    assert!(matches!(found, Err(EngineError::Tool { .. })), "{found:?}");
    n1.engine.start().await.unwrap();
    n1.lead(3).await;
    timed("clone over an old copy", clone(&third, &n1)).await.unwrap();
    third.engine.start().await.unwrap();
    assert_eq!(third.sql("select count(*) from t").await.unwrap(), "50000");
}

/// A data directory that somebody has used for a while.
fn somebodys(cluster: &Cluster) -> String {
    let path = cluster.dir.path().join("theirs");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    run("chown", &["postgres", &path]);
    let bin = common::bin_dir();
    let bin = bin.display();
    let socket = format!("{path}.sock");
    std::fs::create_dir(&socket).unwrap();
    run("chown", &["postgres", &socket]);
    let script = format!(
        "cd / && {bin}/initdb -D {path} -U boss -N >/dev/null && echo 'max_connections = 40' >> {path}/postgresql.conf && \
         echo \"listen_addresses = ''\" >> {path}/postgresql.conf && \
         {bin}/pg_ctl -D {path} -w -o '-k {socket}' -l {path}.sock/log start >/dev/null && \
         psql -h {socket} -U boss -d postgres -c 'create table theirs as select 42 i' && \
         psql -h {socket} -U boss -d postgres -c \"alter system set port = 1\" && \
         psql -h {socket} -U boss -d postgres -c \"alter system set work_mem = '7MB'\" && \
         {bin}/pg_ctl -D {path} -w -m fast stop"
    );
    run("setpriv", &["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh", "-c", &script]);
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_directory_is_adopted() {
    let cluster = Cluster::new();
    let theirs = somebodys(&cluster);
    let path = std::path::Path::new(&theirs);
    let node = cluster.node("n1");
    let refusal = async || match node.engine.adopt(path).await {
        Err(EngineError::AdoptRefused { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    std::fs::write(path.join("postmaster.pid"), "1\n").unwrap();
    assert!(refusal().await.contains("stop it first"));
    std::fs::remove_file(path.join("postmaster.pid")).unwrap();
    let version = std::fs::read(path.join("PG_VERSION")).unwrap();
    for (other, why) in [("99\n", "99"), ("9\n", "upgrade it first"), ("x", "no data directory")] {
        std::fs::write(path.join("PG_VERSION"), other).unwrap();
        let said = refusal().await;
        assert!(said.contains(why), "{said}");
    }
    std::fs::write(path.join("PG_VERSION"), version).unwrap();
    std::fs::write(path.join("standby.signal"), "").unwrap();
    assert!(refusal().await.contains("adopt the primary"));
    std::fs::remove_file(path.join("standby.signal")).unwrap();

    let adopted = timed("adopt", node.engine.adopt(path)).await.unwrap();
    assert_eq!(adopted.timeline, 1);
    assert!(adopted.notes.iter().any(|n| n.contains("max_connections = 40")), "{:?}", adopted.notes);
    assert!(!path.exists());
    assert!(refusal().await.contains("has data already"));
    node.engine.start().await.unwrap();
    node.lead(2).await;
    assert_eq!(node.sql("select i from theirs").await.unwrap(), "42");
    assert_eq!(node.sql("show work_mem").await.unwrap(), "7MB");
    assert_eq!(node.sql("show port").await.unwrap(), node.config.port.to_string());
    node.sql_as("app", "app-secret", "create table mine (i int)").await.unwrap();
    let n2 = cluster.node("n2");
    n2.clone_of(&node).await;
    n2.follow(&node).await;
    n2.catch_up(&node).await;
    assert_eq!(n2.sql("select i from theirs").await.unwrap(), "42");
}
