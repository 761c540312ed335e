//! Disks that hang: whatever changes a file waits, and what waits can't be killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Result, ensure};
use trine_tests::scenario::scenario_with;
use trine_tests::{DiskKind, Options, Scenario, Status, WriterOptions, now_ns, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// A disk hangs for 5 s before it counts as hung, the writes that find it out come every second, and what is left is a failover
/// on a busy machine.
const PAUSE_S: f64 = 12.0;

fn n1_on_a_disk_that_can_hang() -> Options {
    Options { disks: vec![("n1", DiskKind::Freezable)], ..Options::network() }
}

/// Makes this node the primary, and gives the epoch.
fn led_by(s: &Scenario, node: &str) -> Result<u64> {
    let status = s.cluster.wait_healthy()?;
    if status.primary.as_deref() != Some(node) {
        s.cluster.trine_ok(&["switchover", "--to", node])?;
    }
    let led = s.cluster.wait_status(&format!("{node} to lead a healthy cluster"), SOON, |s| {
        s.is_healthy() && s.primary.as_deref() == Some(node)
    })?;
    Ok(led.epoch)
}

#[test]
fn a_primary_whose_disk_hangs_is_replaced_and_rejoins_when_it_goes_on() {
    let hung = Cell::new(0);
    scenario_with(
        "disk-hangs",
        &n1_on_a_disk_that_can_hang(),
        |s| {
            let epoch = led_by(s, "n1")?;
            let writer = s.writer()?;
            // Some clients only know the endpoint of the node that hangs, and read what they can.
            s.writer_with(WriterOptions {
                dsn: s.cluster.writer_at(&["n1"])?,
                reads: true,
                ..WriterOptions::default()
            })?;
            writer.wait_acked(50)?;
            hung.set(now_ns());
            s.cluster.disk().freeze()?;
            let status = s.cluster.wait_new_primary(epoch)?;
            ensure!(status.primary.as_deref() != Some("n1"), "a node whose disk hangs leads");
            writer.wait_acked(200)?;
            // Nothing of the agent itself waits for the disk.
            s.cluster.ask_only(&["n1"]);
            wait_until("n1 to say that it has stopped serving", SOON, || {
                let told: Status = serde_json::from_str(&s.cluster.trine_ok(&["status", "--json"])?)?;
                Ok(told.node("n1").is_some_and(|n| n.state == "fenced"))
            })?;
            s.cluster.ask_only(&[]);
            s.cluster.disk().thaw()?;
            let status = s.cluster.wait_healthy()?;
            ensure!(status.primary.as_deref() != Some("n1"), "the node whose disk hung took the lead back");
            Ok(())
        },
        |_, reports| {
            let gap = reports[0].longest_gap_after(hung.get());
            ensure!(gap < PAUSE_S, "writes stalled for {gap} s because the primary's disk hung");
            Ok(())
        },
    );
}

#[test]
fn a_standby_whose_disk_hangs_costs_no_commit() {
    let hung = Cell::new(0);
    scenario_with(
        "standby-disk-hangs",
        &n1_on_a_disk_that_can_hang(),
        |s| {
            // n1 was the first of all: most likely it still leads consensus.
            let epoch = led_by(s, "n2")?;
            let writer = s.writer()?;
            writer.wait_acked(50)?;
            hung.set(now_ns());
            s.cluster.disk().freeze()?;
            s.cluster.ask_only(&["n2", "n3"]);
            // The sync rule lets go of n1 after its grace, which takes a leader of consensus that can write. (When it was n1
            // itself, the grace begins anew with the next one.)
            s.cluster.wait_status("the sync rule to do without n1", SOON * 3, |s| s.sync.standbys == ["n3"])?;
            writer.wait_acked(200)?;
            s.cluster.disk().thaw()?;
            s.cluster.ask_only(&[]);
            let status = s.cluster.wait_healthy()?;
            ensure!(status.epoch == epoch, "a standby's disk that hung ended epoch {epoch}");
            Ok(())
        },
        |_, reports| {
            let gap = reports[0].longest_gap_after(hung.get());
            ensure!(gap < 2.0, "commits stalled for {gap} s because a standby's disk hung");
            Ok(())
        },
    );
}
