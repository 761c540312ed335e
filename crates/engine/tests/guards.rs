//! The guard ends the database whenever its agent can't: nothing of it is ever left running alone.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Cluster, Node, hangs, signal, timed, titled, wait_until};
use rustix::process::Signal;
use trine_engine::{Engine, Process, Role};
use trine_platform::{BootClock, Clock};
use trine_protocol::Epoch;

/// A session that computes and never looks around.
async fn busy(node: &Node) {
    let client = node.connect("trine", &node.config.superuser_password).await.unwrap();
    tokio::spawn(async move {
        let _ = client.batch_execute("do $$ begin loop end loop; end $$").await;
    });
    wait_until("it computes", || async {
        node.sql("select count(*) from pg_stat_activity where state = 'active' and query like 'do %'").await.unwrap()
            == "1"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_is_not_pushed_ends_everything() {
    let cluster = Cluster::new();
    let node = cluster.primary("n1").await;
    busy(&node).await;
    for _ in 0..20 {
        node.engine.push(BootClock.now() + Duration::from_secs(3));
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(node.inspect().await.process, Process::Running);
    // An earlier one does not count.
    node.engine.push(BootClock.now());
    assert_eq!(node.inspect().await.process, Process::Running);
    timed("deadline of <= 3 s runs out", node.stopped()).await;
    assert_eq!(node.processes(), Vec::<u32>::new());
    node.engine.push(BootClock.now() + Duration::from_secs(10));
    node.engine.start().await.unwrap();
    assert_eq!(node.inspect().await.role, Some(Role::Standby));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_loses_its_database() {
    let cluster = Cluster::new();
    let node = cluster.primary("n1").await;
    let socket = node.dir.join("run/guard.sock");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_guard_for_tests"))
        .args(["push", socket.to_str().unwrap(), "300"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut state = node.engine.process();
    assert!(hangs(state.wait_for(|p| *p == Process::Stopped)).await);
    assert!(hangs(state.wait_for(|p| *p == Process::Stopped)).await);
    signal(agent.id(), Signal::STOP);
    timed("agent frozen, lease 300 ms", node.stopped()).await;
    assert_eq!(node.processes(), Vec::<u32>::new());
    signal(agent.id(), Signal::CONT);
    // It wakes up with its pushes, and nobody listens.
    assert!(agent.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_first_process_is_noticed_and_leaves_nothing() {
    let cluster = Cluster::new();
    let node = cluster.primary("n1").await;
    busy(&node).await;
    signal(node.inspect().await.database_pid.unwrap(), Signal::KILL);
    timed("postmaster killed", node.stopped()).await;
    assert_eq!(node.processes(), Vec::<u32>::new());
    assert_eq!(node.inspect().await.process, Process::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_guard_takes_the_database_with_it() {
    let cluster = Cluster::new();
    let node = cluster.primary("n1").await;
    busy(&node).await;
    signal(node.inspect().await.guard_pid.unwrap(), Signal::KILL);
    timed("guard killed", node.stopped()).await;
    assert_eq!(node.processes(), Vec::<u32>::new());
    node.engine.start().await.unwrap();
    assert_eq!(node.engine.seal().await.unwrap().epoch, Epoch(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_needs_no_guard() {
    let cluster = Cluster::new();
    let node = cluster.primary("n1").await;
    busy(&node).await;
    timed("kill", async {
        node.engine.kill();
        node.stopped().await;
    })
    .await;
    node.engine.start().await.unwrap();
    busy(&node).await;
    signal(node.inspect().await.guard_pid.unwrap(), Signal::STOP);
    timed("kill with a frozen guard", async {
        node.engine.kill();
        node.stopped().await;
    })
    .await;
    assert_eq!(node.processes(), Vec::<u32>::new());
    node.engine.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_finds_what_is_left() {
    let cluster = Cluster::new();
    let (n1, n2) = (cluster.primary("n1").await, cluster.node("n2"));
    n2.clone_of(&n1).await;
    n2.follow(&n1).await;
    let before = n2.inspect().await;
    // The agent is gone, the guard and the database go on.
    let again = n2.reopened().await;
    wait_until("it answers", || async { again.inspect().await.process == Process::Running }).await;
    let seen = again.inspect().await;
    assert_eq!((seen.guard_pid, seen.database_pid), (before.guard_pid, before.database_pid));
    assert_eq!((seen.following, seen.streaming), (Some(n1.name.clone()), true));
    again.engine.start().await.unwrap();
    assert_eq!(again.inspect().await.following, Some(n1.name.clone()));

    // Guard and first process dead, one process of the database left, frozen.
    let frozen = titled(&again, "checkpointer");
    signal(frozen[0], Signal::STOP);
    let last = n2.inspect().await;
    signal(last.guard_pid.unwrap(), Signal::STOP);
    signal(last.database_pid.unwrap(), Signal::KILL);
    let third = Node::open(again.config.clone());
    timed("attach to a frozen guard", third.engine.attach()).await.unwrap();
    assert_eq!(third.processes(), Vec::<u32>::new());
    third.engine.start().await.unwrap();
}
