//! What is wrong is refused by its name, and nobody gets in who should not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use common::{Cluster, Node};
use trine_engine::postgres::{PostgresConfig, PostgresEngine};
use trine_engine::{Engine, EngineError};
use trine_platform::BootClock;

fn refusal(config: PostgresConfig) -> String {
    PostgresEngine::open(config, Arc::new(BootClock)).unwrap_err().to_string()
}

#[test]
fn a_configuration_that_can_not_work_is_refused() {
    let cluster = Cluster::new();
    let mut config = cluster.config("n1");
    config.parameters.insert("fsync".into(), "off".into());
    assert!(refusal(config).contains("fsync"));
    let mut config = cluster.config("n1");
    config.hba.push("host all all 0.0.0.0/0 trust".into());
    assert!(refusal(config).contains("unix socket"));
    let mut config = cluster.config("n1");
    config.bin_dir = Some("/nowhere".into());
    assert!(refusal(config).contains("/nowhere"));
    let mut config = cluster.config("n1");
    config.user = Some("nobody-of-that-name".into());
    assert!(refusal(config).contains("nobody-of-that-name"));
    let mut config = cluster.config("n1");
    config.user = Some("root".into());
    assert!(refusal(config).contains("does not run as root"));
    let mut config = cluster.config("n1");
    config.dir = config.dir.join("x".repeat(80));
    assert!(refusal(config).contains("shorter path"));
    let mut config = cluster.config("n1");
    let shut = config.dir.join("shut");
    std::fs::create_dir_all(&shut).unwrap();
    std::fs::set_permissions(&shut, PermissionsExt::from_mode(0o700)).unwrap();
    config.dir = shut.join("n");
    assert!(refusal(config).contains("can't get through"));
    let config = cluster.config("n1");
    std::fs::create_dir_all(config.dir.join("data")).unwrap();
    std::fs::write(config.dir.join("data/PG_VERSION"), "99\n").unwrap();
    assert!(refusal(config).contains("PostgreSQL 99"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_socket_and_the_nodes_lead_in() {
    let cluster = Cluster::new();
    let mut config = cluster.config("n1");
    config.parameters.insert("shared_bufers".into(), "16MB".into());
    let node = Node::open(config.clone());
    node.engine.bootstrap().await.unwrap();
    // PostgreSQL says itself what it does not know.
    let failed = node.engine.start().await;
    assert!(
        matches!(&failed, Err(EngineError::StartFailed { log, .. }) if log.contains("shared_bufers")),
        "{failed:?}"
    );
    config.parameters.remove("shared_bufers");
    let taken = std::net::TcpListener::bind((config.address, config.port)).unwrap();
    let node = Node::open(config.clone());
    let failed = node.engine.start().await;
    assert!(matches!(&failed, Err(EngineError::StartFailed { log, .. }) if log.contains("in use")), "{failed:?}");
    drop(taken);

    config.hba.push("local app app trust".into());
    config.parameters.insert("work_mem".into(), "5MB".into());
    let node = Node::open(config.clone());
    node.engine.start().await.unwrap();
    assert_eq!(node.sql_as("app", "any", "show work_mem").await.unwrap(), "5MB");
    assert!(node.sql_as("trine", "any", "select 1").await.is_err());
    assert!(node.sql_as("trine_replication", "", "select 1").await.is_err());
    for user in ["app", "trine", "trine_replication"] {
        let mut tcp = tokio_postgres::Config::new();
        tcp.host(config.address.to_string()).port(config.port).user(user).password("app-secret").dbname("postgres");
        let error = tcp.connect(tokio_postgres::NoTls).await.map(drop).unwrap_err();
        assert_eq!(error.code().unwrap().code(), "28000", "{error}");
    }
    // What a superuser has set behind the cluster's back.
    let auto = node.dir.join("data/postgresql.auto.conf");
    node.engine.stop().await.unwrap();
    std::fs::write(&auto, "port = '1'\nwork_mem = '6MB'\n").unwrap();
    node.engine.start().await.unwrap();
    assert_eq!(std::fs::read_to_string(&auto).unwrap(), "work_mem = '6MB'\n");
    assert_eq!(node.sql("show work_mem").await.unwrap(), "6MB");
}
