//! A data directory from before there was a cluster becomes its first copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use trine_tests::scenario::alone;
use trine_tests::{Cluster, Options, checks, namespace, postgres};

/// Runs one of PostgreSQL's programs as its user.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    namespace::run(postgres::program(program)?.args(arguments))
}

#[test]
fn an_existing_directory_becomes_the_primary_and_the_others_its_clones() -> Result<()> {
    let _turn = alone()?;
    let options = Options::network();
    let cluster = Cluster::lay_out("adopt", &options)?;
    cluster.init(&options)?;
    let old = cluster.dir().join("old");
    fs::create_dir(&old)?;
    postgres::give(&old)?;
    let (data, sockets) = (old.join("data"), old.to_string_lossy().into_owned());
    let data_text = data.to_string_lossy().into_owned();
    run("initdb", &["-D", &data_text, "-U", "postgres", "-A", "trust", "-N", "--data-checksums"])?;
    let start = format!("-c listen_addresses= -k {sockets}");
    let log = old.join("log").to_string_lossy().into_owned();
    run("pg_ctl", &["-D", &data_text, "-l", &log, "-o", &start, "-w", "start"])?;
    let sql = "create table before as select g as id, md5(g::text) as t from generate_series(1, 1000) g";
    run("psql", &["-X", "-q", "-h", &sockets, "-U", "postgres", "-d", "postgres", "-c", sql])?;

    // It is running: refused, and it goes on running.
    let adopt = |cluster: &Cluster| -> Result<std::process::Output> {
        let mut c = cluster.command();
        Ok(c.args(["adopt", "--config"]).arg(cluster.config("n1")).arg("--data").arg(&data).output()?)
    };
    let refused = adopt(&cluster)?;
    ensure!(!refused.status.success(), "a running database was adopted");
    run("pg_ctl", &["-D", &data_text, "-m", "fast", "-w", "stop"])?;

    let adopted = adopt(&cluster)?;
    ensure!(adopted.status.success(), "adopt: {}", String::from_utf8_lossy(&adopted.stderr));
    for n in ["n1", "n2", "n3"] {
        cluster.start_node(n)?;
    }
    let healthy = cluster.wait_healthy();
    if healthy.is_err() {
        eprintln!("{}", cluster.tell());
    }
    let status = healthy?;
    ensure!(status.primary.as_deref() == Some("n1"), "the adopted copy does not lead: {:?}", status.primary);
    checks::copies_identical(&cluster)?;
    for n in ["n1", "n2", "n3"] {
        let rows = cluster.sql(n, "postgres")?.value("select count(*) from before")?;
        ensure!(rows == "1000", "{n} has {rows} of the adopted rows");
    }
    let dsn = cluster.endpoints()?.writer;
    checks::select(&cluster, &dsn, "create table after as select 1", Duration::from_secs(10)).map(drop)
}
