//! `trine drill` on a real cluster: what it does, what it measures, and when it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use trine_api::{Client, ClientError, Refused, RefusedCode, Request};
use trine_tests::cluster::Database;
use trine_tests::mariadb::{Local, on};
use trine_tests::sql::Secrets;
use trine_tests::{Options, Scenario, on_both, scenario};

const SOON: Duration = Duration::from_secs(20);

on_both!(all_steps);

/// Runs a drill that must end well; its report.
fn drilled(s: &Scenario, arguments: &[&str]) -> Result<Value> {
    // How long anything takes is no matter of a test: only that the aim is met when there is all the time in the world.
    let words: Vec<&str> = ["drill", "--json", "--aim", "60"].iter().chain(arguments).copied().collect();
    let text = s.cluster.trine_ok(&words)?;
    println!("{text}");
    let report: Value = serde_json::from_str(&text).context("the report")?;
    ensure!(report["verified"]["lost"] == 0, "rows were lost: {text}");
    ensure!(report["verified"]["acknowledged"].as_u64().is_some_and(|n| n > 0), "nothing was written: {text}");
    Ok(report)
}

fn names(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().cloned().unwrap_or_default();
    steps.iter().map(|s| s["what"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Asks the API itself for the end of a node's database, and is refused.
fn end_database(s: &Scenario, node: &str) -> Result<Refused> {
    let urls: Vec<String> = s.cluster.nodes().iter().map(|n| format!("http://{}:6400", n.address)).collect();
    let token = Secrets::read(&s.cluster.nodes()[0].dir)?.api_token;
    let request = Request::EndDatabase { node: node.parse()? };
    s.cluster.client_namespace().enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(Client::new(&urls, Some(token), None)?.request(&request)) {
            Err(ClientError::Refused(refused)) => Ok(refused),
            other => anyhow::bail!("not refused: {other:?}"),
        }
    })
}

/// The drill's schema is gone.
fn cleared(s: &Scenario) -> Result<()> {
    let left = s.cluster.sql(&s.cluster.primary()?, "app")?;
    let left = left.value("select count(*) from pg_namespace where nspname = 'trine_drill'")?;
    ensure!(left == "0", "the drill's schema is still there");
    Ok(())
}

#[test]
fn a_standby_and_then_the_primary_too() {
    scenario("drill", &Options::network(), |s| {
        let writer = s.writer()?;
        let before = s.cluster.wait_healthy()?;
        let standby = before.standbys()[1].clone();
        let pid = |s: &trine_tests::Status, n: &str| s.node(n).and_then(|n| n.database_pid);
        let report = drilled(s, &["--node", &standby])?;
        ensure!(names(&report) == [format!("database of standby {standby} killed")], "{report}");
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == before.epoch, "a drill of a standby ended epoch {}", before.epoch);
        ensure!(pid(&now, &standby) != pid(&before, &standby), "the standby's database is the same");
        cleared(s)?;
        let report = drilled(s, &["--primary", "--yes"])?;
        let names = names(&report);
        ensure!(names.len() == 3 && names[1].starts_with("switchover"), "{report}");
        ensure!(names[2].contains("database of primary"), "{report}");
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch >= before.epoch + 2, "a switchover and a failover are two epochs, not {now:?}");
        cleared(s)?;
        writer.wait_acked(50)
    });
}

#[test]
fn a_cluster_that_is_not_well_is_left_alone() {
    scenario("drill-refused", &Options::local(), |s| {
        let status = s.cluster.wait_healthy()?;
        let asked = s.cluster.trine(&["drill", "--primary"])?;
        ensure!(asked.status.code() == Some(3), "without a terminal nobody can agree: {asked:?}");
        let standby = status.standbys()[0].clone();
        s.cluster.kill_node(&standby)?;
        s.cluster.wait_status("the lost node to be noticed", SOON, |s| s.health == "degraded")?;
        for arguments in [&["drill"][..], &["drill", "--primary", "--yes"]] {
            let o = s.cluster.trine(arguments)?;
            let said = String::from_utf8_lossy(&o.stderr);
            ensure!(o.status.code() == Some(3) && said.contains("degraded"), "{arguments:?}: {o:?}");
        }
        // Nor can one who asks past the command line.
        for node in &status.nodes {
            let refused = end_database(s, &node.name)?;
            ensure!(refused.code == RefusedCode::Unsafe && refused.message.contains("degraded"), "{refused:?}");
        }
        let now = s.cluster.status()?;
        ensure!(now.epoch == status.epoch && now.primary == status.primary, "a refused drill changed something");
        cleared(s)?;
        s.cluster.start_node(&standby)
    });
}

/// The same with clients of the other two.
fn all_steps(database: Database) {
    on(database, "drill", Options::network(), |s| {
        let writer = s.writer()?;
        let before = s.cluster.wait_healthy()?;
        let superuser = || Local::of(&s.cluster, &s.cluster.primary()?);
        // What another drill has made, or one that was killed has left.
        superuser()?.rows("create table app.trine_drill (id int primary key)")?;
        let o = s.cluster.trine(&["drill"])?;
        let said = String::from_utf8_lossy(&o.stderr);
        ensure!(o.status.code() == Some(3) && said.contains("drop table trine_drill"), "two drills at once: {o:?}");
        superuser()?.rows("drop table app.trine_drill")?;
        let report = drilled(s, &["--primary", "--yes"])?;
        ensure!(names(&report).len() == 3, "{report}");
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch >= before.epoch + 2, "a switchover and a failover are two epochs, not {now:?}");
        let left =
            superuser()?.value("select count(*) from information_schema.tables where table_name = 'trine_drill'")?;
        ensure!(left == "0", "the drill's table is still there");
        writer.wait_acked(50)
    });
}
