//! Cables that are pulled, in both directions, in one, and between two nodes only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use trine_tests::cluster::{CLIENT, DATABASE_PORT, PEER_PORT};
use trine_tests::namespace::Switch;
use trine_tests::scenario::wait_event;
use trine_tests::{Options, Scenario, WriterOptions, scenario};

/// A fault of the primary's network that leaves it no majority: its clients elsewhere get a new one, and what is still
/// connected to it, on its own machine, gets nothing committed and nothing read that contradicts the new one.
fn primary_loses_its_network(name: &str, fault: impl Fn(&Switch, &str) -> Result<()>) {
    scenario(name, &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let standbys = status.standbys();
        let others: Vec<&str> = standbys.iter().map(String::as_str).collect();
        let writer = s.writer_with(WriterOptions { dsn: s.cluster.writer_at(&others)?, ..WriterOptions::default() })?;
        let inside = WriterOptions {
            dsn: s.cluster.writer_at(&[&primary])?,
            clients: 2,
            pace_ms: 2,
            reads: true,
            ..WriterOptions::default()
        };
        let inside = s.writer_in(s.cluster.node_namespace(&primary), inside)?;
        let session = WriterOptions {
            dsn: s.cluster.writer_at(&[&primary])?,
            clients: 1,
            pace_ms: 2,
            reconnect: false,
            answer_timeout_ms: 60_000,
            ..WriterOptions::default()
        };
        let session = s.writer_in(s.cluster.node_namespace(&primary), session)?;
        writer.wait_acked(20)?;
        s.cluster.ask_only(&others);
        fault(s.cluster.switch(), &primary)?;
        let next = s.cluster.wait_new_primary(status.epoch)?;
        ensure!(next.primary.as_deref() != Some(&primary), "a primary without a majority leads");
        writer.wait_acked(100)?;
        session.wait_ended()?;
        let ended = session.stop()?.ended;
        println!("{name}: the open session on the isolated primary ended with {ended:?}");
        s.cluster.switch().heal()?;
        s.cluster.ask_only(&[]);
        s.cluster.wait_healthy()?;
        inside.wait_acked(10)
    });
}

#[test]
fn primary_isolated_with_a_committing_session_open() {
    primary_loses_its_network("isolated", Switch::cut);
}

#[test]
fn primary_deaf() {
    primary_loses_its_network("deaf", Switch::deafen);
}

#[test]
fn primary_mute() {
    primary_loses_its_network("mute", Switch::mute);
}

#[test]
fn primary_cut_off_with_its_walsenders_alive() {
    primary_loses_its_network("live-walsender", |switch, primary| switch.cut_port(primary, PEER_PORT));
}

/// The agents reach each other, so the primary's lease is renewed; its standbys' databases don't reach its own, so nothing is
/// acknowledged. It has written what nobody else has, and is not elected for it.
#[test]
fn primary_whose_log_nobody_can_take() {
    scenario("replication-cut", &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let writer = s.writer()?;
        writer.wait_acked(20)?;
        s.cluster.switch().cut_port(&primary, DATABASE_PORT)?;
        let next = s.cluster.wait_new_primary(status.epoch)?;
        ensure!(next.primary.as_deref() != Some(&primary), "{primary} leads again, and nobody can take its log");
        ensure!(next.epoch == status.epoch + 1, "epoch {} led to {}", status.epoch, next.epoch);
        writer.wait_acked(100)?;
        let because = wait_event(&s.cluster, &[&format!("not stream from {primary}")], Duration::from_secs(5))?;
        println!("replication-cut: {because}");
        s.cluster.switch().heal()?;
        let healed = s.cluster.wait_healthy()?;
        ensure!(healed.epoch == next.epoch, "the cut's end ended epoch {}", next.epoch);
        writer.wait_acked(100)
    });
}

/// Losing sight of one standby is no reason to leave the primary, whoever leads the consensus.
#[test]
fn pair_cut_changes_no_primary() {
    scenario("pair-cut", &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let writer =
            s.writer_with(WriterOptions { dsn: s.cluster.writer_at(&[&primary])?, ..WriterOptions::default() })?;
        for standby in status.standbys() {
            s.cluster.switch().cut_pair(&primary, &standby)?;
            writer.wait_acked(500)?;
            s.cluster.switch().heal()?;
            let now = s.cluster.wait_healthy()?;
            ensure!(now.epoch == status.epoch, "cutting {primary} from {standby} alone ended epoch {}", status.epoch);
        }
        Ok(())
    });
}

#[test]
fn standby_isolated_and_back() {
    scenario("standby-isolated", &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let standbys = status.standbys();
        let writer = s.writer_with(WriterOptions {
            dsn: s.cluster.writer_at(&[&primary, &standbys[1]])?,
            ..WriterOptions::default()
        })?;
        s.cluster.switch().cut(&standbys[0])?;
        writer.wait_acked(500)?;
        s.cluster.switch().heal()?;
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == status.epoch, "isolating the standby {} ended epoch {}", standbys[0], status.epoch);
        Ok(())
    });
}

/// Everybody loses everybody: nobody may write. Then all heal, and one of them leads.
#[test]
fn all_cut_from_each_other() {
    scenario("all-cut", &Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let writer = s.writer()?;
        for node in s.cluster.nodes() {
            isolate(s, &node.name)?;
        }
        let primary = status.primary.as_deref().expect("a healthy cluster has a primary");
        // Its lease can't be renewed: its guard must have ended it, with nobody there to take over.
        trine_tests::wait_until("the isolated primary to be fenced", Duration::from_secs(20), || {
            Ok(s.cluster.postmaster(primary).is_err()
                || s.cluster.sql(primary, "app")?.value("select pg_is_in_recovery()")? == "t")
        })?;
        let before = writer.progress().acked;
        s.cluster.switch().heal()?;
        s.cluster.wait_healthy()?;
        writer.wait_acked(50)?;
        println!("all-cut: {before} acknowledged before the heal");
        Ok(())
    });
}

/// Cut off from the other nodes; clients still reach it.
fn isolate(s: &Scenario, node: &str) -> Result<()> {
    let others: Vec<_> = s.cluster.nodes().iter().map(|n| n.name.clone()).filter(|n| n != node).collect();
    assert!(!others.iter().any(|o| o == CLIENT));
    others.iter().try_for_each(|other| s.cluster.switch().cut_one_way(other, node))
}
