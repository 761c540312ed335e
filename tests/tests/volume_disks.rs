//! Disks of a replicated volume that hang or are full: Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use trine_tests::volume::{OnVolume, on_redis};
use trine_tests::{DiskKind, Options, Status, wait_until};

const SOON: Duration = Duration::from_secs(20);

fn n1_on(disk: DiskKind) -> Options {
    Options { disks: vec![("n1", disk)], ..Options::network() }
}

/// Makes this node the primary, and gives the epoch.
fn led_by(s: &OnVolume, node: &str) -> Result<u64> {
    if s.primary()?.0 != node {
        s.cluster.trine_ok(&["switchover", "--to", node])?;
    }
    let leads = |now: &Status| now.is_healthy() && now.primary.as_deref() == Some(node);
    Ok(s.cluster.wait_status(&format!("{node} to lead a healthy cluster"), SOON, leads)?.epoch)
}

#[test]
fn a_primary_whose_disk_hangs_is_replaced() {
    on_redis("v-disk-hangs", n1_on(DiskKind::Freezable), |s| {
        let epoch = led_by(s, "n1")?;
        let clients = s.clients()?;
        clients.wait_acked(50)?;
        s.cluster.disk().freeze()?;
        let status = s.cluster.wait_new_primary(epoch)?;
        ensure!(status.primary.as_deref() != Some("n1"), "a node whose disk hangs leads");
        clients.wait_acked(200)?;
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
    });
}

#[test]
fn a_standby_whose_disk_hangs_costs_no_write() {
    on_redis("v-standby-hangs", n1_on(DiskKind::Freezable), |s| {
        let epoch = led_by(s, "n2")?;
        let clients = s.clients()?;
        s.cluster.disk().freeze()?;
        s.cluster.ask_only(&["n2", "n3"]);
        s.cluster.wait_status("the sync rule to do without n1", SOON * 3, |s| s.sync.standbys == ["n3"])?;
        clients.wait_acked(200)?;
        s.cluster.disk().thaw()?;
        s.cluster.ask_only(&[]);
        let status = s.cluster.wait_healthy()?;
        ensure!(status.epoch == epoch, "a standby's disk that hung ended epoch {epoch}");
        Ok(())
    });
}

/// Writes to a file of the volume until there is no room, and says how many MiB that was.
fn fill(file: &File) -> Result<u64> {
    for mib in 0..1024 {
        let written = file.write_all_at(&vec![mib as u8; 1 << 20], mib << 20).and_then(|()| file.sync_data());
        match written {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(mib),
            Err(e) => return Err(e).with_context(|| format!("after {mib} MiB, and not for want of room")),
        }
    }
    Err(io::Error::other("a disk of 400 MiB took 1 GiB").into())
}

/// The database is told as early as one disk is full, and goes on once there is room: no copy is lost, none differs.
#[test]
fn a_standby_with_the_smallest_disk_says_how_much_room_there_is() {
    on_redis("v-smallest", n1_on(DiskKind::Small(400)).set("volume.journal_mb=16"), |s| {
        let epoch = led_by(s, "n2")?;
        let ballast = s.cluster.node("n2").data().join("ballast");
        let mib = fill(&File::create(&ballast)?)?;
        println!("v-smallest: {mib} MiB fit");
        ensure!(mib > 100, "{mib} MiB of 400 could be written");
        let status = s.cluster.wait_healthy()?;
        ensure!(status.epoch == epoch, "a full volume ended epoch {epoch}");
        fs::remove_file(&ballast)?;
        let data = s.cluster.node("n2").data();
        wait_until("the room to come back", SOON, || {
            let room = rustix::fs::statvfs(&data)?;
            Ok(room.f_bavail * room.f_frsize > 100 << 20)
        })?;
        s.clients()?.wait_acked(50)?;
        s.cluster.wait_healthy().map(drop)
    });
}

/// Somebody else fills a standby's disk. The database is told, and goes on once there is room, though it has written nothing
/// meanwhile.
#[test]
fn room_on_a_standby_goes_and_comes_back() {
    on_redis("v-standby-full", n1_on(DiskKind::Small(400)).set("volume.journal_mb=16"), |s| {
        let epoch = led_by(s, "n2")?;
        let other = s.cluster.node("n1").dir.join("somebody-elses");
        let file = File::create(&other)?;
        let room = rustix::fs::statvfs(&other)?;
        let most = room.f_bavail * room.f_frsize;
        // The agent's own state needs a little.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, most - (8 << 20))?;
        let ballast = s.cluster.node("n2").data().join("ballast");
        let makes = || File::create(&ballast).and_then(|_| fs::remove_file(&ballast));
        wait_until("the volume to be full", SOON, || match makes() {
            Ok(()) => Ok(false),
            Err(e) if e.kind() == ErrorKind::StorageFull => Ok(true),
            Err(e) => Err(e.into()),
        })?;
        drop(file);
        fs::remove_file(&other)?;
        wait_until("the volume to have room", SOON, || Ok(makes().is_ok()))?;
        s.clients()?.wait_acked(100)?;
        let status = s.cluster.wait_healthy()?;
        ensure!(status.epoch == epoch, "a standby's full disk ended epoch {epoch}");
        Ok(())
    });
}
