//! Processes that die or stop: databases, agents, guards, whole nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use trine_tests::process::Process;
use trine_tests::scenario::scenario_with;
use trine_tests::{Options, Scenario, WriterOptions, checks, now_ns, scenario, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// A primary that is there, and everything that a test kills of it.
fn primary(s: &Scenario) -> Result<(String, u64)> {
    let status = s.cluster.wait_healthy()?;
    Ok((status.primary.expect("a healthy cluster has a primary"), status.epoch))
}

#[test]
fn postmaster_killed() {
    scenario("postmaster-killed", &Options::local(), |s| {
        let writer = s.writer()?;
        for _ in 0..2 {
            let (primary, epoch) = primary(s)?;
            s.cluster.signal(s.cluster.postmaster(&primary)?, Signal::KILL)?;
            s.cluster.wait_new_primary(epoch)?;
            writer.wait_acked(50)?;
        }
        Ok(())
    });
}

#[test]
fn a_backend_killed_restarts_no_database_behind_the_clients_backs() {
    scenario("backend-killed", &Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, _) = primary(s)?;
        // PostgreSQL's own answer is to end every session and to recover in place: a restart as primary, thus an epoch.
        s.cluster.signal(s.cluster.backend(&primary, " app ")?, Signal::KILL)?;
        writer.wait_acked(50)
    });
}

#[test]
fn a_primary_that_cannot_start_again_is_replaced() {
    scenario("cannot-start", &Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, epoch) = primary(s)?;
        let control = s.cluster.node(&primary).data().join("global/pg_control");
        s.cluster.signal(s.cluster.postmaster(&primary)?, Signal::KILL)?;
        fs::write(&control, vec![0xA5; 8192])?;
        let status = s.cluster.wait_new_primary(epoch)?;
        ensure!(status.primary.as_deref() != Some(&primary), "{primary} leads with a copy that can't be read");
        writer.wait_acked(50)
    });
}

#[test]
fn node_lost_and_back() {
    scenario_with(
        "node-lost",
        &Options::local(),
        |s| {
            let writer = s.writer()?;
            let (primary, epoch) = primary(s)?;
            s.cluster.kill_node(&primary)?;
            let status = s.cluster.wait_new_primary(epoch)?;
            ensure!(status.primary.as_deref() != Some(&primary), "a killed node leads");
            writer.wait_acked(100)?;
            // Its log has grown large meanwhile: the new agent begins another one.
            let log = s.cluster.node(&primary).dir.join("log/agent.log");
            fs::File::options().write(true).open(&log)?.set_len((16 << 20) + 1)?;
            s.cluster.start_node(&primary)?;
            ensure!(fs::metadata(&log)?.len() < 16 << 20, "{} goes on growing", log.display());
            ensure!(log.with_file_name("agent.log.1").is_file(), "the old log is gone");
            Ok(())
        },
        |s, _| checks::amcheck(&s.cluster),
    );
}

#[test]
fn standby_lost_and_back() {
    scenario_with(
        "standby-lost",
        &Options::local(),
        |s| {
            let writer = s.writer()?;
            let (_, epoch) = primary(s)?;
            let standby = s.cluster.status()?.standbys()[0].clone();
            s.cluster.kill_node(&standby)?;
            writer.wait_acked(100)?;
            s.cluster.start_node(&standby)?;
            let status = s.cluster.wait_healthy()?;
            ensure!(
                status.epoch == epoch,
                "a lost standby changed the primary's epoch from {epoch} to {}",
                status.epoch
            );
            Ok(())
        },
        |_, reports| {
            let gap = reports[0].summary().longest_gap_s;
            ensure!(gap < 2.0, "commits stalled for {gap} s because one of two standbys was lost");
            Ok(())
        },
    );
}

#[test]
fn consensus_leader_lost_and_the_primary_untouched() {
    let killed = std::cell::Cell::new(0);
    scenario_with(
        "leader-lost",
        &Options::local(),
        |s| {
            let (mut lead, mut epoch) = primary(s)?;
            let leader = |s: &Scenario| -> Result<String> {
                let status = s.cluster.wait_status("a leader of consensus", SOON, |s| {
                    s.more.get("leader").is_some_and(serde_json::Value::is_string)
                })?;
                Ok(status.more["leader"].as_str().unwrap_or_default().to_owned())
            };
            if leader(s)? == lead {
                s.cluster.trine_ok(&["switchover"])?;
                s.cluster.wait_new_primary(epoch)?;
                (lead, epoch) = primary(s)?;
            }
            let leader = leader(s)?;
            ensure!(leader != lead, "the leader of consensus moved with the primary, to {lead}");
            let writer = s.writer()?;
            writer.wait_acked(50)?;
            killed.set(now_ns());
            s.cluster.signal(s.cluster.agent(&leader)?, Signal::KILL)?;
            writer.wait_acked(300)?;
            s.cluster.start_node(&leader)?;
            let status = s.cluster.wait_healthy()?;
            ensure!(status.epoch == epoch, "losing the leader of consensus ended epoch {epoch}");
            Ok(())
        },
        |_, reports| {
            let gap = reports[0].longest_gap_after(killed.get());
            ensure!(gap < 1.0, "writes stalled for {gap} s because the leader of consensus was lost");
            Ok(())
        },
    );
}

#[test]
fn agent_killed() {
    scenario("agent-killed", &Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, epoch) = primary(s)?;
        let database = s.cluster.postmaster(&primary)?;
        s.cluster.signal(s.cluster.agent(&primary)?, Signal::KILL)?;
        s.cluster.wait_new_primary(epoch)?;
        ensure!(!Process::alive(database), "a new primary leads, and the database that lost its agent still runs");
        writer.wait_acked(50)?;
        s.cluster.start_node(&primary)
    });
}

#[test]
fn agent_killed_and_started_again_at_once() {
    scenario("agent-restarted", &Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, _) = primary(s)?;
        s.cluster.signal(s.cluster.agent(&primary)?, Signal::KILL)?;
        s.cluster.start_node(&primary)?;
        writer.wait_acked(50)
    });
}

#[test]
fn agent_frozen_is_fenced_and_yields_when_it_thaws() {
    scenario("agent-frozen", &Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, epoch) = primary(s)?;
        let (agent, database) = (s.cluster.agent(&primary)?, s.cluster.postmaster(&primary)?);
        s.cluster.signal(agent, Signal::STOP)?;
        let status = s.cluster.wait_new_primary(epoch)?;
        ensure!(status.primary.as_deref() != Some(&primary), "a frozen agent leads");
        ensure!(!Process::alive(database), "a new primary leads, and the frozen agent's database still runs");
        writer.wait_acked(100)?;
        s.cluster.signal(agent, Signal::CONT)?;
        let status = s.cluster.wait_healthy()?;
        ensure!(status.primary.as_deref() != Some(&primary), "the thawed agent took the lead back");
        Ok(())
    });
}

#[test]
fn guard_killed() {
    scenario("guard-killed", &Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, _) = primary(s)?;
        let (guard, database) = (s.cluster.guard(&primary)?, s.cluster.postmaster(&primary)?);
        s.cluster.signal(guard, Signal::KILL)?;
        wait_until("the database to end with its guard", SOON, || Ok(!Process::alive(database)))?;
        writer.wait_acked(50)
    });
}

#[test]
fn guard_frozen_and_agent_killed() {
    scenario("guard-frozen", &Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, epoch) = primary(s)?;
        let guard = s.cluster.guard(&primary)?;
        s.cluster.signal(guard, Signal::STOP)?;
        writer.wait_acked(20)?;
        s.cluster.signal(s.cluster.agent(&primary)?, Signal::KILL)?;
        // Nobody is left to end that database. Nothing that it does may count: its standbys are gone, and no endpoint
        // leads to it.
        s.cluster.wait_new_primary(epoch)?;
        writer.wait_acked(50)?;
        s.cluster.signal(guard, Signal::CONT)?;
        s.cluster.start_node(&primary)
    });
}

#[test]
fn node_frozen_thaws_after_its_successor_has_opened() {
    scenario("node-frozen", &Options::local(), |s| {
        let (primary, epoch) = primary(s)?;
        let standbys = s.cluster.status()?.standbys();
        let others: Vec<&str> = standbys.iter().map(String::as_str).collect();
        let writer = s.writer_with(WriterOptions { dsn: s.cluster.writer_at(&others)?, ..WriterOptions::default() })?;
        // Slow clients that read, too, on the node's own endpoint: some of them ask it while it is frozen, and what it
        // then answers out of its own past is found in the log.
        s.writer_with(WriterOptions {
            dsn: s.cluster.writer_at(&[&primary])?,
            clients: 16,
            pace_ms: 2000,
            reads: true,
            answer_timeout_ms: 20_000,
            ..WriterOptions::default()
        })?;
        s.cluster.signal_node(&primary, Signal::STOP)?;
        s.cluster.wait_new_primary(epoch)?;
        writer.wait_acked(200)?;
        s.cluster.signal_node(&primary, Signal::CONT)
    });
}

#[test]
fn stale_primary_thaws_in_the_middle_of_the_failover() {
    scenario("thaw-mid-failover", &Options::local(), |s| {
        let writer = s.writer()?;
        for _ in 0..2 {
            let (primary, epoch) = primary(s)?;
            s.cluster.signal_node(&primary, Signal::STOP)?;
            s.cluster.wait_status("the next epoch to begin", SOON, |s| s.epoch > epoch)?;
            s.cluster.signal_node(&primary, Signal::CONT)?;
            writer.wait_acked(50)?;
        }
        Ok(())
    });
}

#[test]
fn standby_database_restarted_cleanly_stalls_no_commit() {
    scenario_with(
        "standby-restart",
        &Options::local(),
        |s| {
            let writer = s.writer()?;
            let (_, epoch) = primary(s)?;
            for standby in s.cluster.status()?.standbys() {
                let database = s.cluster.postmaster(&standby)?;
                s.cluster.signal(database, Signal::INT)?;
                wait_until(&format!("{standby}'s database to end"), SOON, || Ok(!Process::alive(database)))?;
                writer.wait_acked(50)?;
                let status = s.cluster.wait_healthy()?;
                ensure!(status.epoch == epoch, "a standby's restart ended epoch {epoch}");
            }
            Ok(())
        },
        |_, reports| {
            let gap = reports[0].summary().longest_gap_s;
            ensure!(gap < 2.0, "commits stalled for {gap} s because a standby restarted");
            Ok(())
        },
    );
}
