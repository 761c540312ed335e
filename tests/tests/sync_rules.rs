//! Who must have a commit before it is acknowledged, and that nobody gets around it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use trine_tests::scenario::scenario_with;
use trine_tests::{Options, Scenario, Status, WriterOptions, checks, scenario, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// Both standbys' receivers are stopped: nothing can be acknowledged.
fn freeze_receivers(s: &Scenario) -> Result<Vec<u32>> {
    let mut receivers = Vec::new();
    for standby in s.cluster.wait_healthy()?.standbys() {
        receivers.push(s.cluster.backend(&standby, "walreceiver")?);
    }
    receivers.iter().try_for_each(|r| s.cluster.signal(*r, Signal::STOP))?;
    Ok(receivers)
}

/// PostgreSQL answers a cancelled wait with a warning and OK. No client of an endpoint is ever told that OK: the writer
/// fails the scenario when it is.
#[test]
fn a_cancelled_wait_is_never_answered_with_ok() {
    scenario_with(
        "cancelled-wait",
        &Options::local(),
        |s| {
            let writer = s.writer_with(WriterOptions {
                dsn: s.cluster.endpoints()?.writer,
                statement_timeout_ms: 300,
                ..WriterOptions::default()
            })?;
            let primary = s.cluster.primary()?;
            let superuser = s.cluster.sql(&primary, "app")?;
            writer.wait_acked(20)?;
            let dsn = s.cluster.endpoints()?.writer;
            // By statement_timeout, by a cancel request, and by the end of the session.
            let receivers = freeze_receivers(s)?;
            let before = writer.progress().unknown;
            wait_until("several timed-out inserts", SOON, || Ok(writer.progress().unknown >= before + 8))?;
            receivers.iter().try_for_each(|r| s.cluster.signal(*r, Signal::CONT))?;
            for (end, id) in [("pg_cancel_backend", -1), ("pg_terminate_backend", -2)] {
                writer.wait_acked(10)?;
                let receivers = freeze_receivers(s)?;
                let cluster = &s.cluster;
                let insert = format!("insert into ledger (id, client) values ({id}, 0)");
                std::thread::scope(|scope| {
                    let hung = scope.spawn(|| checks::select(cluster, &dsn, &insert, Duration::from_secs(10)));
                    let waits =
                        format!("from pg_stat_activity where wait_event = 'SyncRep' and query like '%({id}, 0)'");
                    wait_until("an insert to hang", SOON, || {
                        Ok(superuser.value(&format!("select count(*) {waits}"))? != "0")
                    })?;
                    superuser.rows(&format!("select {end}(pid) {waits}"))?;
                    let answer = hung.join().expect("the client");
                    ensure!(answer.is_err(), "{end}: a commit that no standby has was answered with OK: {answer:?}");
                    anyhow::Ok(())
                })?;
                receivers.iter().try_for_each(|r| s.cluster.signal(*r, Signal::CONT))?;
            }
            Ok(())
        },
        |_, reports| {
            ensure!(!reports[0].unknown.is_empty(), "no insert was ever left waiting: the test tested nothing");
            Ok(())
        },
    );
}

/// Strict: with no standby left, commits wait, and go through when one is back.
#[test]
fn strict_waits_for_a_standby() {
    scenario("strict", &Options::local(), |s| {
        let writer = s.writer()?;
        let receivers = freeze_receivers(s)?;
        // What was on its way may still be answered.
        let primary = s.cluster.primary()?;
        let superuser = s.cluster.sql(&primary, "app")?;
        wait_until("all clients to hang", SOON, || {
            let hanging = superuser.value("select count(*) from pg_stat_activity where wait_event = 'SyncRep'")?;
            Ok(hanging.parse::<u32>()? >= 4)
        })?;
        let given_up = |rounds: &str| {
            let unknown = writer.progress().unknown;
            wait_until(rounds, SOON, || Ok(writer.progress().unknown >= unknown + 4))
        };
        // The client tells its progress now and then: what it acknowledged before it hung is told with the first round.
        given_up("the clients to give up")?;
        let before = writer.progress().acked;
        given_up("the clients to try again and give up again")?;
        ensure!(writer.progress().acked == before, "commits were acknowledged that no standby had");
        receivers.iter().try_for_each(|r| s.cluster.signal(*r, Signal::CONT))?;
        writer.wait_acked(50)
    });
}

/// Available: after the grace the primary goes on alone, says so, and nobody else is ever elected on what it has left
/// behind.
#[test]
fn available_goes_on_alone_and_says_so() {
    let options = Options::local().set("sync.durability=available").set("sync.grace_ms=2000");
    scenario("available", &options, |s| {
        let writer = s.writer()?;
        let primary = s.cluster.primary()?;
        let receivers = freeze_receivers(s)?;
        // The alarm is a command of its own, after that of the rule.
        let alarms = |s: &Status| s.alarms.len();
        let alone = |s: &Status| s.sync.standbys.is_empty() && alarms(s) > 0;
        let alone = s.cluster.wait_status("a sync rule of nobody, and an alarm", SOON, alone)?;
        ensure!(alone.health == "degraded", "alone, and {}", alone.health);
        writer.wait_acked(50)?;
        // Only that one has all that was acknowledged: with it lost, nobody leads.
        s.cluster.kill_node(&primary)?;
        receivers.iter().try_for_each(|r| s.cluster.signal(*r, Signal::CONT))?;
        s.cluster.wait_status("the loss to be noticed", SOON, |s| s.health == "unavailable")?;
        s.cluster.start_node(&primary)?;
        let back = s.cluster.wait_healthy()?;
        ensure!(back.primary.as_deref() == Some(&primary), "{primary} alone had all, and {:?} leads", back.primary);
        writer.wait_acked(50)
    });
}

/// n goes from 2 to 1 and back as a standby goes and comes; each time the primary's agent is killed in the middle.
#[test]
fn n_lowered_and_raised_with_the_agent_killed_between_the_steps() {
    let options = Options::local().set("sync.acks=2").set("sync.durability=available").set("sync.grace_ms=1000");
    scenario("n-changes", &options, |s| {
        let status =
            s.cluster.wait_status("both standbys to be needed", SOON, |s| s.is_healthy() && s.sync.acks == 2)?;
        let writer = s.writer()?;
        let primary = status.primary.clone().expect("a healthy cluster has a primary");
        let standby = status.standbys().into_iter().next_back().expect("two standbys");
        s.cluster.kill_node(&standby)?;
        s.cluster.signal(s.cluster.agent(&primary)?, Signal::KILL)?;
        s.cluster.start_node(&primary)?;
        let lowered = s.cluster.wait_status("a rule of one", SOON, |s| s.sync.acks == 1 && s.primary.is_some())?;
        writer.wait_acked(50)?;
        let primary = lowered.primary.clone().expect("checked");
        s.cluster.start_node(&standby)?;
        wait_until("the standby to stream again", SOON, || s.cluster.backend(&standby, "walreceiver").map(|_| true))?;
        s.cluster.signal(s.cluster.agent(&primary)?, Signal::KILL)?;
        s.cluster.start_node(&primary)?;
        s.cluster.wait_status("a rule of two", Duration::from_secs(60), |s| s.is_healthy() && s.sync.acks == 2)?;
        writer.wait_acked(50)
    });
}

/// With `remote_apply`, a standby that has stopped replaying carries no commit; the other does.
#[test]
fn replay_stalled_on_one_standby() {
    scenario("replay-stalled", &Options::local(), |s| {
        let writer = s.writer_with(WriterOptions {
            dsn: s.cluster.endpoints()?.writer,
            synchronous_commit: Some("remote_apply".into()),
            ..WriterOptions::default()
        })?;
        for standby in s.cluster.wait_healthy()?.standbys() {
            let startup = s.cluster.backend(&standby, "startup")?;
            s.cluster.signal(startup, Signal::STOP)?;
            writer.wait_acked(200)?;
            s.cluster.signal(startup, Signal::CONT)?;
            s.cluster.wait_healthy()?;
        }
        Ok(())
    });
}
