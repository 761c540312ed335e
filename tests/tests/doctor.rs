//! What `trine doctor` finds in real databases, and what it says when it can't look.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use trine_tests::cluster::Database;
use trine_tests::mariadb::{Local, knows_mariadb, knows_mysql};
use trine_tests::{Options, Scenario, scenario};

/// What of `trine doctor --json` is looked at.
#[derive(Debug, Deserialize)]
struct Findings {
    findings: Vec<Finding>,
    examined: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    severity: String,
    what: String,
    nodes: Vec<String>,
    places: Vec<String>,
}

fn look(s: &Scenario) -> Result<Findings> {
    let text = s.cluster.trine_ok(&["doctor", "--json"])?;
    let mut found: Findings = serde_json::from_str(&text).with_context(|| text.clone())?;
    // How full the disk is that tests run on is not theirs.
    found.findings.retain(|f| f.what != "little room on a disk");
    Ok(found)
}

/// The finding that names this place on this node.
fn must_name(found: &Findings, severity: &str, place: &str, node: &str) -> Result<()> {
    let is_it = |f: &&Finding| f.places.iter().any(|p| p.contains(place)) && f.nodes.iter().any(|n| n == node);
    let it = found.findings.iter().find(is_it).with_context(|| format!("{place} on {node} is not named: {found:?}"))?;
    ensure!(it.severity == severity, "{place} on {node} is a {}", it.severity);
    Ok(())
}

/// As a person sees it.
fn show(s: &Scenario) -> Result<()> {
    let text = s.cluster.trine_ok(&["doctor"])?;
    println!("{text}");
    ensure!(text.lines().all(|l| l.chars().count() <= 80), "a line is longer than 80 columns");
    Ok(())
}

fn tables_and_settings(database: Database) {
    let known = if database == Database::Mysql { knows_mysql() } else { knows_mariadb() };
    if let Err(e) = known {
        eprintln!("NOT TRIED: {e:#}");
        return;
    }
    let name = if database == Database::Mysql { "y-doctor" } else { "m-doctor" };
    scenario(name, &Options::local().with(database), |s| {
        let status = s.cluster.wait_healthy()?;
        s.writer()?.wait_acked(50)?;
        let found = look(s)?;
        ensure!(found.findings.is_empty(), "a new cluster is in order: {found:?}");
        ensure!(found.examined.len() == 3, "not every node was asked: {found:?}");
        let (primary, standby) = (s.cluster.primary()?, status.standbys()[0].clone());
        let (writes, reads) = (Local::of(&s.cluster, &primary)?, Local::of(&s.cluster, &standby)?);
        for statement in [
            "create table app.keyless (a int)",
            "create table app.unique_key (a int not null unique)",
            "create table app.old (a int primary key) engine = MyISAM",
            "create event app.nightly on schedule every 1 day disable on slave do select 1",
            "create user dba@'%' identified by 'a-password'",
            "grant super on *.* to dba@'%'",
        ] {
            writes.rows(statement)?;
        }
        // MySQL makes none.
        let memory = database == Database::Mariadb;
        if memory {
            writes.rows("create table app.gone (a int primary key) engine = MEMORY")?;
        }
        reads.rows("set global sync_binlog = 0")?;
        let found = look(s)?;
        for place in ["app.keyless", "app.gone", "app.old (MyISAM)", "app.nightly"] {
            if memory || place != "app.gone" {
                must_name(&found, "warning", place, &primary)?;
            }
        }
        must_name(&found, "warning", "sync_binlog", &standby)?;
        must_name(&found, "note", "'dba'@'%'", &primary)?;
        let all = format!("{found:?}");
        ensure!(!all.contains("unique_key") && !all.contains("trine.epoch"), "what is in order is named: {all}");
        ensure!(found.findings.len() == if memory { 6 } else { 5 }, "{found:#?}");
        show(s)?;
        reads.rows("set global sync_binlog = 1")?;
        writes.rows("drop table if exists app.keyless, app.gone, app.old, app.unique_key")?;
        writes.rows("drop event app.nightly")?;
        // A node that is not there is told of, and the others are looked at all the same.
        s.cluster.kill_node(&standby)?;
        let found = look(s)?;
        must_name(&found, "warning", "", &standby)?;
        ensure!(found.examined.len() == 2, "{found:?}");
        show(s)?;
        s.cluster.start_node(&standby)
    });
}

#[test]
fn mariadb() {
    tables_and_settings(Database::Mariadb);
}

#[test]
fn mysql() {
    tables_and_settings(Database::Mysql);
}

#[test]
fn postgres() {
    scenario("doctor", &Options::local(), |s| {
        let status = s.cluster.wait_healthy()?;
        s.writer()?.wait_acked(50)?;
        let found = look(s)?;
        ensure!(found.findings.is_empty(), "a new cluster is in order: {found:?}");
        ensure!(found.examined.len() == 3, "not every node was asked: {found:?}");
        let (primary, standby) = (s.cluster.primary()?, status.standbys()[0].clone());
        let sql = s.cluster.sql(&primary, "app")?;
        sql.rows("create unlogged table public.scratch (a int)")?;
        sql.rows("alter role app set synchronous_commit = off")?;
        s.cluster.sql(&standby, "postgres")?.rows("alter system set wal_receiver_timeout = '60s'")?;
        s.cluster.sql(&standby, "postgres")?.rows("select pg_reload_conf()")?;
        let found = look(s)?;
        must_name(&found, "note", "app.public.scratch", &primary)?;
        must_name(&found, "warning", "role app (synchronous_commit = off)", &primary)?;
        must_name(&found, "warning", "wal_receiver_timeout", &standby)?;
        ensure!(found.findings.len() == 3, "{found:#?}");
        show(s)?;
        sql.rows("alter role app reset synchronous_commit")?;
        sql.rows("drop table public.scratch").map(drop)
    });
}
