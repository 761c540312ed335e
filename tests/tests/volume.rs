//! Faults of a database on a replicated volume: Redis, and once PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use trine_tests::process::Process;
use trine_tests::volume::pushes::Pushing;
use trine_tests::volume::{OnVolume, on_redis};
use trine_tests::{Options, Status, cluster, process, scenario, wait_until};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn database_killed() {
    on_redis("v-database", Options::local(), |s| {
        let clients = s.clients()?;
        for _ in 0..2 {
            let status = s.cluster.wait_healthy()?;
            s.cluster.signal(s.database(&status)?, Signal::KILL)?;
            s.cluster.wait_new_primary(status.epoch)?;
            clients.wait_acked(50)?;
        }
        Ok(())
    });
}

#[test]
fn node_lost_and_back() {
    on_redis("v-node", Options::local(), |s| {
        let clients = s.clients()?;
        let (primary, epoch) = s.primary()?;
        s.cluster.kill_node(&primary)?;
        let status = s.cluster.wait_new_primary(epoch)?;
        ensure!(status.primary.as_deref() != Some(&primary), "a killed node leads");
        clients.wait_acked(100)?;
        s.cluster.start_node(&primary)?;
        s.cluster.wait_healthy()?;
        not_rebuilt(s, &primary)
    });
}

#[test]
fn agent_killed() {
    on_redis("v-agent", Options::local(), |s| {
        let clients = s.clients()?;
        let status = s.cluster.wait_healthy()?;
        let (primary, database) = (status.primary.clone().unwrap_or_default(), s.database(&status)?);
        s.cluster.signal(s.cluster.agent(&primary)?, Signal::KILL)?;
        s.cluster.wait_new_primary(status.epoch)?;
        ensure!(!Process::alive(database), "a new primary leads, and the database that lost its agent still runs");
        clients.wait_acked(50)?;
        ensure!(s.is_mounted(&primary)?, "nobody was there to unmount it");
        s.cluster.start_node(&primary)?;
        s.cluster.wait_healthy()?;
        ensure!(!s.is_mounted(&primary)?, "the dead mount of {primary} is still there");
        not_rebuilt(s, &primary)
    });
}

#[test]
fn agent_frozen_longer_than_its_lease() {
    on_redis("v-frozen", Options::local(), |s| {
        let clients = s.clients()?;
        let (primary, epoch) = s.primary()?;
        let (agent, database) = (s.cluster.agent(&primary)?, s.cluster.database(&primary)?);
        s.cluster.signal(agent, Signal::STOP)?;
        let status = s.cluster.wait_new_primary(epoch)?;
        ensure!(status.primary.as_deref() != Some(&primary), "a frozen agent leads");
        // Though it most likely was in a call that the frozen agent had to answer.
        wait_until("the end of its database", SOON, || Ok(!Process::alive(database)))?;
        clients.wait_acked(100)?;
        s.cluster.signal(agent, Signal::CONT)?;
        let status = s.cluster.wait_healthy()?;
        ensure!(status.primary.as_deref() != Some(&primary), "the thawed agent took the lead back");
        not_rebuilt(s, &primary)
    });
}

/// The primary, with clients of its own, loses the others: it goes on writing its log and acknowledges nothing of that.
/// When it is back, what it wrote is kept aside and taken back.
#[test]
fn primary_cut_off_with_clients() {
    on_redis("v-cut", Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().context("a healthy cluster has a primary")?;
        let standbys = status.standbys();
        let others: Vec<&str> = standbys.iter().map(String::as_str).collect();
        let clients = s.clients_in(s.cluster.client_namespace(), Pushing::to(s.writer_at(&others)?))?;
        let inside = s.clients_in(s.cluster.node_namespace(&primary), Pushing::to(s.writer_at(&[&primary])?))?;
        inside.wait_acked(20)?;
        s.cluster.ask_only(&others);
        s.cluster.switch().cut(&primary)?;
        // What its clients have sent may have reached another node just before. This has not.
        File::create(s.cluster.node(&primary).data().join("alone")).context("a file on the primary that is cut off")?;
        let next = s.cluster.wait_new_primary(status.epoch)?;
        ensure!(next.primary.as_deref() != Some(&primary), "a primary without a majority leads");
        clients.wait_acked(100)?;
        let there = inside.acked();
        clients.wait_acked(100)?;
        ensure!(inside.acked() == there, "a primary that is cut off has acknowledged");
        s.cluster.switch().heal()?;
        s.cluster.ask_only(&[]);
        s.cluster.wait_healthy()?;
        let kept = s.cluster.node(&primary).dir.join("kept");
        let files =
            fs::read_dir(&kept).with_context(|| format!("what {primary} took back: {}", kept.display()))?.count();
        ensure!(files > 0, "{primary} kept nothing of what it took back");
        not_rebuilt(s, &primary)?;
        inside.wait_acked(10)
    });
}

#[test]
fn standby_cut_off_and_back() {
    on_redis("v-standby", Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().context("a healthy cluster has a primary")?;
        let standbys = status.standbys();
        let reached = s.writer_at(&[&primary, &standbys[1]])?;
        let clients = s.clients_in(s.cluster.client_namespace(), Pushing::to(reached))?;
        s.cluster.switch().cut(&standbys[0])?;
        s.cluster.ask_only(&[&primary, &standbys[1]]);
        s.cluster.wait_status("the lost standby to be noticed", SOON, |s| s.health == "degraded")?;
        clients.wait_acked(300)?;
        s.cluster.switch().heal()?;
        s.cluster.ask_only(&[]);
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == status.epoch, "isolating {} ended epoch {}", standbys[0], status.epoch);
        not_rebuilt(s, &standbys[0])
    });
}

#[test]
fn power_off() {
    on_redis("v-power", Options::local(), |s| {
        let clients = s.clients()?;
        clients.wait_acked(200)?;
        let (_, epoch) = s.primary()?;
        s.cluster.kill_nodes(&["n1", "n2", "n3"])?;
        ["n1", "n2", "n3"].iter().try_for_each(|n| s.cluster.start_node(n))?;
        s.cluster.wait_new_primary(epoch)?;
        clients.wait_acked(100)
    });
}

/// Clients speak Redis's protocol as it is: one that gets an error has to be written for it. A closed connection is known to all.
#[test]
fn switchover_and_no_client_gets_an_error() {
    on_redis("v-switchover", Options::local(), |s| {
        let clients = s.clients()?;
        let to = s.cluster.wait_healthy()?.standbys()[0].clone();
        s.cluster.trine_ok(&["switchover", "--to", &to])?;
        let status = s.cluster.wait_healthy()?;
        ensure!(status.primary.as_deref() == Some(&to), "switched to {to}, and {:?} leads", status.primary);
        clients.wait_acked(50)?;
        ensure!(clients.refused().is_empty(), "clients were answered {:?}", clients.refused());
        Ok(())
    });
}

/// A file that is rewritten again and again makes the log longer than what is kept, and changes few blocks.
#[test]
fn standbys_are_rebuilt_and_only_blocks_that_differ_are_sent() {
    const MIB: usize = 1 << 20;
    on_redis("v-rebuild", Options::local().set("volume.journal_mb=16"), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().context("a healthy cluster has a primary")?;
        let (away, wiped) = (&status.standbys()[0], &status.standbys()[1]);
        let file = File::create(s.cluster.node(&primary).data().join("ballast"))?;
        let write = |at: usize, byte: u8| -> Result<()> {
            file.write_all_at(&vec![byte; MIB], (at * MIB) as u64)?;
            Ok(file.sync_data()?)
        };
        // So much that the log so far is in a checkpoint's files, of which a new copy can be made.
        (0..72).try_for_each(|round| write(round % 24, 0x11))?;
        let clients = s.clients()?;
        s.cluster.kill_node(away)?;
        for round in 0..72 {
            write(round % 4, u8::try_from(round)?)?;
        }
        clients.wait_acked(50)?;
        s.cluster.start_node(away)?;
        s.cluster.wait_healthy()?;
        let sent = s.new_copies(away)?.pop().with_context(|| format!("{away} took no new copy"))?;
        println!("v-rebuild: {sent} bytes were sent to a standby that was away");
        ensure!(sent < 8 << 20, "{sent} bytes were sent, and 4 MiB of 24 differ");
        s.cluster.kill_node(wiped)?;
        fs::remove_dir_all(s.cluster.node(wiped).dir.join("volume"))?;
        s.cluster.start_node(wiped)?;
        let now = s.cluster.wait_healthy()?;
        let sent = s.new_copies(wiped)?.pop().with_context(|| format!("{wiped} took no new copy"))?;
        println!("v-rebuild: {sent} bytes were sent to a wiped standby");
        ensure!(sent >= 24 << 20, "{sent} bytes were sent of 24 MiB");
        ensure!(now.epoch == status.epoch, "a lost standby ended epoch {}", status.epoch);
        Ok(())
    });
}

/// On no node the database starts. That is said, and tried more and more slowly; once it can start, all is well again.
#[test]
fn database_that_cannot_start_anywhere() {
    let dir = cluster::test_root().join(format!("{}-v-broken-command", process::own_id()));
    let (script, broken) = (dir.join("redis"), dir.join("broken"));
    let text = format!(
        "#!/bin/sh\n[ ! -e {} ] || {{ echo it is broken; exit 7; }}\nexec redis-server \"$@\"\n",
        broken.display()
    );
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script that runs");
    let command = format!("database.command={}", script.display());
    let options = Options::local().set(&command).set("database.args=[\"{run}/redis.conf\"]");
    on_redis("v-broken", options, |s| {
        let clients = s.clients()?;
        let status = s.cluster.wait_healthy()?;
        fs::write(&broken, "")?;
        s.cluster.signal(s.database(&status)?, Signal::KILL)?;
        let fails = |s: &Status| s.alarms.iter().any(|a| a.contains("database"));
        let alarmed = s.cluster.wait_status("an alarm", Duration::from_secs(30), fails)?;
        println!("v-broken: after {} epochs: {:?}", alarmed.epoch - status.epoch, alarmed.alarms);
        ensure!(alarmed.alarms.iter().any(|a| a.contains("it is broken")), "it does not say why: {:?}", alarmed.alarms);
        ensure!(alarmed.epoch <= status.epoch + 8, "{} epochs went by", alarmed.epoch - status.epoch);
        fs::remove_file(&broken)?;
        s.cluster.wait_status("the alarm's end", SOON, |s| !fails(s) && s.is_healthy())?;
        clients.wait_acked(50)
    });
    let _ = fs::remove_dir_all(dir);
}

#[test]
fn postgres_on_a_volume() {
    scenario("v-postgres", &Options::local().volume("postgres"), |s| {
        let writer = s.writer()?;
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().context("a healthy cluster has a primary")?;
        s.cluster.kill_node(&primary)?;
        s.cluster.wait_new_primary(status.epoch)?;
        writer.wait_acked(100)?;
        s.cluster.start_node(&primary)?;
        s.cluster.wait_healthy()?;
        writer.wait_acked(100)
    });
}

/// Nobody waits for it, and once the rule does without it no election has to ask it either.
#[test]
fn a_standby_that_falls_behind_leaves_the_sync_rule_until_it_keeps_up() {
    on_redis("v-slow", Options::network(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().context("a healthy cluster has a primary")?;
        let standbys = status.standbys();
        let (slow, other) = (&standbys[0], &standbys[1]);
        let clients = s.clients()?;
        s.cluster.switch().narrow(&primary, slow, 20)?;
        let ballast = File::create(s.cluster.node(&primary).data().join("ballast"))?;
        for mib in 0..64 {
            ballast.write_all_at(&vec![mib as u8; 1 << 20], mib << 20)?;
        }
        ballast.sync_data()?;
        let alone = |now: &Status| now.sync.standbys == [other.as_str()];
        s.cluster.wait_status(&format!("the sync rule to do without {slow}"), SOON * 3, alone)?;
        clients.wait_acked(200)?;
        // It catches up with what there is, though nothing more is written.
        clients.stop()?;
        s.cluster.switch().heal()?;
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == status.epoch, "a standby that was slow ended epoch {}", status.epoch);
        ensure!(now.sync.standbys.len() == 2, "the sync rule still does without {slow}: {:?}", now.sync);
        not_rebuilt(s, slow)
    });
}

/// It has followed by its log.
fn not_rebuilt(s: &OnVolume, node: &str) -> Result<()> {
    let sent = s.new_copies(node)?;
    ensure!(sent.is_empty(), "{node} was rebuilt, and had only to take the log: {sent:?} bytes");
    Ok(())
}
