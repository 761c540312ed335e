//! Everything off at once, and coming back in the wrong order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use trine_tests::{Options, Scenario, checks, scenario, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// Through the writer endpoint of one node, nothing is answered.
fn closed(s: &Scenario, dsn: &str, node: &str) -> Result<()> {
    let own = s.cluster.node_namespace(node);
    let read = checks::select_in(own, dsn, "select count(*) from ledger", Duration::from_secs(2));
    ensure!(read.is_err(), "{node} alone answers a read: {read:?}");
    let id = -i64::from(std::process::id());
    let write = format!("insert into ledger (id, client) values ({id}, 0)");
    let write = checks::select_in(own, dsn, &write, Duration::from_secs(2));
    ensure!(write.is_err(), "{node} alone takes a write: {write:?}");
    Ok(())
}

/// The node's agent answers again. Nothing more can be waited for: alone it decides nothing.
fn agent_back(s: &Scenario, node: &str) -> Result<()> {
    s.cluster.ask_only(&[node]);
    wait_until(&format!("the agent of {node} to answer"), SOON, || s.cluster.status().map(|_| true))?;
    s.cluster.ask_only(&[]);
    Ok(())
}

#[test]
fn all_off_and_on_again() {
    scenario("power-cycle", &Options::local(), |s| {
        let writer = s.writer()?;
        writer.wait_acked(50)?;
        s.cluster.kill_nodes(&["n1", "n2", "n3"])?;
        for n in ["n3", "n2", "n1"] {
            s.cluster.start_node(n)?;
        }
        writer.wait_acked(50)
    });
}

/// A restarted primary holds a commit that nobody else has: no client may see it before a standby has it too.
#[test]
fn standbys_down_and_the_primary_restarted_clients_are_kept_out() {
    scenario("kept-out", &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let standbys = status.standbys();
        let writer = s.writer()?;
        writer.wait_acked(50)?;
        let dsn = s.cluster.writer_at(&[&primary])?;
        let superuser = s.cluster.sql(&primary, "app")?;
        s.cluster.kill_nodes(&[&standbys[0], &standbys[1]])?;
        // A commit hangs for want of a standby; or the lease runs out first, and ends the database.
        wait_until("a commit to hang, or the primary to be fenced", SOON, || {
            let hanging = superuser.value("select count(*) from pg_stat_activity where wait_event = 'SyncRep'");
            Ok(hanging.map_or(true, |n| n != "0"))
        })?;
        s.cluster.kill_node(&primary)?;
        s.cluster.start_node(&primary)?;
        agent_back(s, &primary)?;
        closed(s, &dsn, &primary)?;
        s.cluster.start_node(&standbys[0])?;
        writer.wait_acked(50)?;
        s.cluster.start_node(&standbys[1])
    });
}

#[test]
fn the_stale_node_returns_first_and_waits() {
    scenario("stale-first", &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let standbys = status.standbys();
        let (good, stale) = (&standbys[0], &standbys[1]);
        let writer = s.writer()?;
        let dsn = s.cluster.writer_at(&[stale])?;
        s.cluster.kill_node(stale)?;
        writer.wait_acked(200)?;
        s.cluster.kill_nodes(&[&primary, good])?;
        s.cluster.start_node(stale)?;
        agent_back(s, stale)?;
        closed(s, &dsn, stale)?;
        let refused = s.cluster.trine(&["failover", "--timeout", "10"])?;
        ensure!(refused.status.code() == Some(3), "without a majority it is refused for safety: {refused:?}");
        // With the one that has everything there is a majority, and only that one can lead it.
        s.cluster.start_node(good)?;
        let now = s.cluster.wait_new_primary(status.epoch)?;
        ensure!(now.primary.as_deref() == Some(good), "{stale} was stale, and {:?} leads", now.primary);
        writer.wait_acked(50)?;
        s.cluster.start_node(&primary)
    });
}

/// Twice in a row the new primary is lost as soon as it leads.
#[test]
fn failovers_in_a_row() {
    scenario("in-a-row", &Options::local(), |s| {
        let writer = s.writer()?;
        let mut epoch = s.cluster.wait_healthy()?.epoch;
        for _ in 0..2 {
            let primary = s.cluster.primary()?;
            s.cluster.kill_node(&primary)?;
            let status = s.cluster.wait_new_primary(epoch)?;
            epoch = status.epoch;
            s.cluster.start_node(&primary)?;
            // A majority, not yet health: the next blow falls while the first is still being repaired.
            s.cluster.wait_status("two nodes that run", SOON, |s| {
                s.primary.is_some() && s.nodes.iter().filter(|n| n.state == "running").count() >= 2
            })?;
            wait_until("its agent to be a voter again", SOON, || {
                let status = s.cluster.status()?;
                Ok(status.node(&primary).is_some_and(|n| n.agent_pid.is_some()))
            })?;
        }
        writer.wait_acked(50)
    });
}
