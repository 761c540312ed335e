//! The three copies that MariaDB's or MySQL's own replication keeps, each asked by its own socket.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Local;
use crate::cluster::{Cluster, Database};
use crate::ledger::Report;
use crate::wait::wait_until;

/// Until a standby has applied what the primary has.
const APPLIED_WITHIN: Duration = Duration::from_secs(60);

/// `CHECKSUM TABLE` of every table of users is the same on every node, once the standbys have applied all that the primary has
/// written. Nothing may be written any more.
///
/// # Errors
/// Two differ, a standby takes writes, or it does not get to where the primary is.
pub fn identical(cluster: &Cluster) -> Result<()> {
    let primary = cluster.primary()?;
    let on_primary = Local::of(cluster, &primary)?;
    let mysql = cluster.runs() == Database::Mysql;
    let end =
        on_primary.value(if mysql { "select @@global.gtid_executed" } else { "select @@global.gtid_binlog_pos" })?;
    let wait = if mysql { "wait_for_executed_gtid_set" } else { "master_gtid_wait" };
    let expected = on_primary.checksums()?;
    for node in cluster.nodes().iter().filter(|n| n.name != primary) {
        let local = Local::of(cluster, &node.name)?;
        wait_until(&format!("{} to apply up to {end}", node.name), APPLIED_WITHIN, || {
            Ok(local.value(&format!("select {wait}('{end}', 0.1)"))? == "0")
        })?;
        let read_only = local.value("select @@global.read_only")?;
        ensure!(!["0", "OFF"].contains(&read_only.as_str()), "{} takes writes, and {primary} leads", node.name);
        let found = local.checksums()?;
        ensure!(found == expected, "the copies differ:\n{primary}: {expected:?}\n{}: {found:?}", node.name);
    }
    Ok(())
}

/// Every acknowledged row is on every node, exactly once, and nothing that nobody has sent.
///
/// # Errors
/// What is lost, doubled or strange, and where.
pub fn hold(cluster: &Cluster, reports: &[Report]) -> Result<()> {
    let tables: BTreeSet<&str> = reports.iter().map(|r| r.table.as_str()).collect();
    for table in tables {
        let of_table = || reports.iter().filter(|r| r.table == table);
        let acked: BTreeSet<i64> = of_table().flat_map(Report::acked_ids).collect();
        let unknown: BTreeSet<i64> = of_table().flat_map(|r| r.unknown.iter().copied()).collect();
        for node in cluster.nodes() {
            let rows = Local::of(cluster, &node.name)?.rows(&format!("select number from app.{table}"))?;
            let mut there = BTreeSet::new();
            for number in rows.iter().flatten() {
                let number: i64 = number.parse().with_context(|| format!("a number of {table}: {number}"))?;
                ensure!(there.insert(number), "{}: row {number} of {table} is there twice", node.name);
                ensure!(
                    acked.contains(&number) || unknown.contains(&number),
                    "{}: row {number} of {table} was sent by nobody",
                    node.name
                );
            }
            let lost: Vec<&i64> = acked.difference(&there).take(10).collect();
            ensure!(lost.is_empty(), "{}: acknowledged rows of {table} are lost, the first: {lost:?}", node.name);
        }
    }
    Ok(())
}

/// `CHECK TABLE … EXTENDED` of every table of users, on every node; what it found, in order.
///
/// # Errors
/// What it finds, and where.
pub fn check(cluster: &Cluster) -> Result<String> {
    let mut counts = Vec::new();
    for node in cluster.nodes() {
        let local = Local::of(cluster, &node.name)?;
        counts.push(local.check_tables().with_context(|| format!("the copy of {}", node.name))?);
    }
    Ok(format!("check table finds nothing in {counts:?} tables, one number for each node"))
}
