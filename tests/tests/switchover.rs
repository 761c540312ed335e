//! A planned change of the primary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use trine_tests::{Options, Scenario, WriterOptions, scenario, wait_until};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn switchover_to_each_node_in_turn() {
    scenario("switchover", &Options::local(), |s| {
        let writer = s.writer_with(WriterOptions {
            dsn: s.cluster.endpoints()?.writer,
            clients: 8,
            ..WriterOptions::default()
        })?;
        for to in s.cluster.wait_healthy()?.standbys() {
            s.cluster.trine_ok(&["switchover", "--to", &to])?;
            let status = s.cluster.wait_healthy()?;
            ensure!(status.primary.as_deref() == Some(&to), "switched to {to}, and {:?} leads", status.primary);
            writer.wait_acked(50)?;
        }
        Ok(())
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    scenario("switchover-refused", &Options::local(), |s| {
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let standby = status.standbys()[0].clone();
        let writer = s.writer()?;
        let unknown = s.cluster.trine(&["switchover", "--to", "n9"])?;
        ensure!(!unknown.status.success(), "switched to a node that does not exist");
        ensure!(String::from_utf8_lossy(&unknown.stderr).contains("n9"), "the error does not name n9");
        s.cluster.kill_node(&standby)?;
        s.cluster.wait_status("the lost node to be noticed", SOON, |s| s.health == "degraded")?;
        let lost = s.cluster.trine(&["switchover", "--to", &standby])?;
        ensure!(!lost.status.success(), "switched to a node that is lost");
        ensure!(String::from_utf8_lossy(&lost.stderr).contains(&standby), "the error does not name {standby}");
        writer.wait_acked(50)?;
        let now = s.cluster.status()?;
        ensure!(
            now.primary.as_deref() == Some(&primary) && now.epoch == status.epoch,
            "a refused switchover changed something"
        );
        s.cluster.start_node(&standby)
    });
}

/// It is done, or it is refused and nothing changed; in any case clients write on.
fn done_or_refused(s: &Scenario, to: &str, writer: &trine_tests::Writer) -> Result<()> {
    let before = s.cluster.status()?;
    let o = s.cluster.trine(&["switchover", "--to", to])?;
    let now = s.cluster.wait_status("a primary after the switchover", SOON, |s| s.primary.is_some())?;
    println!("switchover to {to}: {}: {}", o.status, String::from_utf8_lossy(&o.stderr).trim());
    if o.status.success() {
        ensure!(now.primary.as_deref() == Some(to), "said done, and {:?} leads", now.primary);
    } else {
        ensure!(now.primary == before.primary, "refused, and {:?} leads", now.primary);
    }
    writer.wait_acked(50)
}

#[test]
fn with_a_hung_archive_command() {
    let options =
        Options::local().set("engine.parameters.archive_mode=on").set("engine.parameters.archive_command=sleep 1000");
    scenario("hung-archiver", &options, |s| {
        let writer = s.writer()?;
        let status = s.cluster.wait_healthy()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        // A finished segment, so that there is something to archive.
        s.cluster.sql(&primary, "app")?.rows("select pg_switch_wal()")?;
        wait_until("the archive command to hang", SOON, || {
            Ok(s.cluster.node(&primary).processes().iter().any(|p| p.title.contains("sleep 1000")))
        })?;
        done_or_refused(s, &status.standbys()[0], &writer)
    });
}

#[test]
fn to_a_target_whose_receiver_hangs() {
    scenario("lagging-target", &Options::local(), |s| {
        let writer = s.writer()?;
        let target = s.cluster.wait_healthy()?.standbys()[0].clone();
        let receiver = s.cluster.backend(&target, "walreceiver")?;
        s.cluster.signal(receiver, Signal::STOP)?;
        writer.wait_acked(50)?;
        let outcome = done_or_refused(s, &target, &writer);
        s.cluster.signal(receiver, Signal::CONT)?;
        outcome
    });
}

#[test]
fn to_a_target_whose_replay_hangs() {
    scenario("stalled-target", &Options::local(), |s| {
        let writer = s.writer()?;
        let target = s.cluster.wait_healthy()?.standbys()[0].clone();
        let startup = s.cluster.backend(&target, "startup")?;
        s.cluster.signal(startup, Signal::STOP)?;
        writer.wait_acked(50)?;
        let outcome = done_or_refused(s, &target, &writer);
        s.cluster.signal(startup, Signal::CONT)?;
        outcome
    });
}

/// Long transactions do not hold a switchover up for ever, and lose nothing that was acknowledged.
#[test]
fn with_a_transaction_left_open() {
    scenario("open-transaction", &Options::local(), |s| {
        let writer = s.writer()?;
        let status = s.cluster.wait_healthy()?;
        let target = status.standbys()[0].clone();
        let dsn = s.cluster.endpoints()?.writer;
        let cluster = &s.cluster;
        std::thread::scope(|scope| {
            let long = scope
                .spawn(|| trine_tests::checks::select(cluster, &dsn, "select pg_sleep(60)", Duration::from_secs(60)));
            let superuser = s.cluster.sql(status.primary.as_deref().unwrap_or_default(), "app")?;
            wait_until("the long statement to run", SOON, || {
                let n = superuser.value("select count(*) from pg_stat_activity where wait_event = 'PgSleep'")?;
                Ok(n != "0")
            })?;
            done_or_refused(s, &target, &writer)?;
            // Ended by the switchover, or by the test's end: its outcome says nothing either way.
            if s.cluster.primary()? == target {
                ensure!(long.join().expect("the client").is_err(), "a statement survived the end of its primary");
            } else {
                superuser
                    .rows("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")?;
            }
            Ok(())
        })
    });
}
