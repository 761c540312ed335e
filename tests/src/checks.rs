//! What must be true at the end of every scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cluster::{Cluster, Database, client_binary};
use crate::ledger::{Report, violations};
use crate::sql::Sql;
use crate::wait::wait_until;
use crate::{mariadb, volume, writer};

/// The database that clients use.
const DATABASE: &str = "app";

/// A statement through an endpoint, by a client in the clients' network.
///
/// # Errors
/// No answer, or the database's error.
pub fn select(cluster: &Cluster, dsn: &str, sql: &str, within: Duration) -> Result<Vec<Vec<Option<String>>>> {
    select_in(cluster.client_namespace(), dsn, sql, within)
}

/// As [`select`], by a client in this network.
///
/// # Errors
/// No answer, or the database's error.
pub fn select_in(
    network: &crate::namespace::Namespace,
    dsn: &str,
    sql: &str,
    within: Duration,
) -> Result<Vec<Vec<Option<String>>>> {
    let mut c: Command = network.command(client_binary()?.as_os_str());
    c.args(["select", "--dsn", dsn, "--timeout-ms", &within.as_millis().to_string(), sql]);
    let text = crate::namespace::run(&mut c)?;
    serde_json::from_str(&text).with_context(|| format!("the client's answer: {text}"))
}

/// Nothing that was acknowledged is missing when it is looked for through the writer endpoint, every epoch's rows were
/// written by one node, and no client was told anything that contradicts another.
///
/// # Errors
/// What is missing or contradicts.
pub fn nothing_lost(cluster: &Cluster, reports: &[Report]) -> Result<()> {
    let wrong = violations(reports);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let dsn = cluster.writers()?;
    let tables: BTreeSet<&str> = reports.iter().map(|r| r.table.as_str()).collect();
    let mut writers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for table in tables {
        let rows = select(cluster, &dsn, &writer::rows_sql(&dsn, table), Duration::from_secs(20))?;
        let mut have = BTreeSet::new();
        for row in rows {
            let [Some(id), Some(node), Some(epoch)] = row.as_slice() else { bail!("a row of {table}: {row:?}") };
            ensure!(have.insert(id.parse::<i64>()?), "row {id} of {table} is there twice");
            writers.entry(epoch.clone()).or_default().insert(node.clone());
        }
        let acked: BTreeSet<i64> = reports.iter().filter(|r| r.table == table).flat_map(Report::acked_ids).collect();
        let lost: Vec<i64> = acked.difference(&have).copied().collect();
        ensure!(
            lost.is_empty(),
            "LOST: {} of {} acknowledged rows of {table} are gone, the first: {:?}",
            lost.len(),
            acked.len(),
            lost.iter().take(10).collect::<Vec<_>>()
        );
    }
    let double: Vec<_> = writers.iter().filter(|(_, nodes)| nodes.len() > 1).collect();
    ensure!(double.is_empty(), "rows of one epoch were written by two nodes: {double:?}");
    Ok(())
}

/// A checksum of every table of clients, by its name.
fn checksums(sql: &Sql) -> Result<BTreeMap<String, String>> {
    let tables = sql.rows(
        "select format('%I.%I', schemaname, tablename) from pg_tables \
         where schemaname not in ('pg_catalog', 'information_schema') order by 1",
    )?;
    let mut sums = BTreeMap::new();
    for table in tables.into_iter().flatten() {
        let sum = sql.value(&format!(
            "select count(*) || ' rows ' || coalesce(md5(string_agg(md5(t::text), '' order by md5(t::text))), '') \
             from {table} t"
        ))?;
        sums.insert(table, sum);
    }
    Ok(sums)
}

/// Every node's copy holds the same.
///
/// # Errors
/// Two differ, or a standby does not get to where the primary is.
pub fn copies_identical(cluster: &Cluster) -> Result<()> {
    let primary = cluster.primary()?;
    let on_primary = cluster.sql(&primary, DATABASE)?;
    let end = on_primary.value("select pg_current_wal_flush_lsn()")?;
    let expected = checksums(&on_primary)?;
    for node in cluster.nodes().iter().filter(|n| n.name != primary) {
        let sql = cluster.sql(&node.name, DATABASE)?;
        wait_until(&format!("{} to replay up to {end}", node.name), Duration::from_secs(20), || {
            Ok(sql.value(&format!("select pg_last_wal_replay_lsn() >= '{end}'"))? == "t")
        })?;
        ensure!(
            sql.value("select pg_is_in_recovery()")? == "t",
            "{} takes writes, and {primary} is primary",
            node.name
        );
        let found = checksums(&sql)?;
        ensure!(found == expected, "the copies differ:\n{primary}: {expected:?}\n{}: {found:?}", node.name);
    }
    Ok(())
}

/// Every node's copy holds the same, and where each can be asked for its rows: every acknowledged one. The reports are of all who
/// have written.
///
/// # Errors
/// Two differ, or what is lost where.
pub fn copies_hold(cluster: &Cluster, reports: &[Report]) -> Result<()> {
    match cluster.runs() {
        Database::Postgres => copies_identical(cluster),
        Database::Mariadb | Database::Mysql => {
            mariadb::copies::identical(cluster)?;
            mariadb::copies::hold(cluster, reports)
        }
        Database::Volume(_) => volume::copies::identical(cluster).map(drop),
    }
}

/// `pg_amcheck` finds nothing wrong with tables and indexes on any node.
///
/// # Errors
/// What it found.
pub fn amcheck(cluster: &Cluster) -> Result<()> {
    let primary = cluster.primary()?;
    // pg_amcheck needs its extension, and a standby gets that from the primary.
    cluster.sql(&primary, DATABASE)?.rows("create extension if not exists amcheck")?;
    copies_identical(cluster)?;
    for node in cluster.nodes() {
        let password = crate::sql::Secrets::read(&node.dir)?.superuser_password;
        let mut c = Command::new(crate::postgres::bin_dir()?.join("pg_amcheck"));
        c.args(["--no-password", "--heapallindexed", "-U", "trine", "-p", "6500", "-d", DATABASE, "-h"]);
        c.arg(node.dir.join("run/db")).env("PGPASSWORD", password);
        crate::namespace::run(&mut c).with_context(|| format!("pg_amcheck on {}", node.name))?;
    }
    Ok(())
}
