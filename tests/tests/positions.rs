//! Who is elected: the furthest, then the one of the highest priority, and never one that must not lead. And what becomes
//! of a log that went further than its successor's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use trine_tests::process::{self, Process};
use trine_tests::{Options, Scenario, Status, WriterOptions, now_ns, scenario, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(30);

fn by_priority(priorities: [u32; 3]) -> Options {
    Options { priorities: Some(priorities), ..Options::network() }
}

/// Makes n1 the primary of a healthy cluster.
fn led_by_n1(s: &Scenario) -> Result<Status> {
    let status = s.cluster.wait_healthy()?;
    if status.primary.as_deref() == Some("n1") {
        return Ok(status);
    }
    s.cluster.trine_ok(&["switchover", "--to", "n1"])?;
    s.cluster
        .wait_status("n1 to lead a healthy cluster", SOON, |s| s.is_healthy() && s.primary.as_deref() == Some("n1"))
}

/// n2 hears nothing more, n1 writes on with n3's acknowledgement, and n1 is lost.
fn n3_gets_ahead_of_n2(s: &Scenario) -> Result<u64> {
    let status = led_by_n1(s)?;
    let writer = s.writer()?;
    s.cluster.signal(s.cluster.backend("n2", "walreceiver")?, Signal::STOP)?;
    writer.wait_acked(100)?;
    s.cluster.kill_node("n1")?;
    Ok(status.epoch)
}

#[test]
fn the_advanced_standby_wins_whatever_its_priority() {
    scenario("advanced-wins", &by_priority([100, 90, 10]), |s| {
        let epoch = n3_gets_ahead_of_n2(s)?;
        let status = s.cluster.wait_new_primary(epoch)?;
        ensure!(status.primary.as_deref() == Some("n3"), "n3 was ahead, and {:?} leads", status.primary);
        s.cluster.start_node("n1")
    });
}

#[test]
fn among_equals_priority_decides() {
    scenario("priority", &by_priority([100, 10, 90]), |s| {
        let status = led_by_n1(s)?;
        s.cluster.kill_node("n1")?;
        let status = s.cluster.wait_new_primary(status.epoch)?;
        ensure!(status.primary.as_deref() == Some("n3"), "both were equal, and {:?} leads", status.primary);
        s.cluster.start_node("n1")?;
        s.writer()?.wait_acked(20)
    });
}

#[test]
fn priority_zero_hands_its_data_on_and_never_leads() {
    scenario("priority-zero", &by_priority([100, 90, 0]), |s| {
        let epoch = n3_gets_ahead_of_n2(s)?;
        let status = s.cluster.wait_status("an open primary after n1", SOON, |s| {
            s.epoch > epoch && s.primary.is_some() && s.more.get("writable").is_none_or(|w| *w == true)
        })?;
        ensure!(status.primary.as_deref() == Some("n2"), "n3 must never lead, and {:?} leads", status.primary);
        s.cluster.start_node("n1")
    });
}

/// n1 gets a log that nobody else has: both standbys are deaf, so none of it is ever acknowledged, and it is more than
/// what sockets hold (that much they still hear). Then n1 is lost, and its successor goes another way.
fn n1_diverges(s: &Scenario, size: u32) -> Result<()> {
    let status = led_by_n1(s)?;
    let writer = s.writer()?;
    let superuser = s.cluster.sql("n1", "app")?;
    superuser
        .rows(&format!("create table big as select g, repeat('x', 500) as t from generate_series(1, {size}) g"))?;
    let receivers = [s.cluster.backend("n2", "walreceiver")?, s.cluster.backend("n3", "walreceiver")?];
    for r in receivers {
        s.cluster.signal(r, Signal::STOP)?;
    }
    let before: u64 = lsn(&superuser.value("select pg_current_wal_flush_lsn()")?)?;
    // An update that never gets its answer, with all of its log on n1's disk.
    let update = s.cluster.sql("n1", "app")?;
    let waiting = std::thread::spawn(move || update.rows("update big set t = t || 'y'"));
    wait_until("n1 to have written what nobody else has", SOON, || {
        let waits = superuser
            .value("select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like 'update big%'")?;
        Ok(waits != "0" && lsn(&superuser.value("select pg_current_wal_flush_lsn()")?)? > before)
    })?;
    s.cluster.kill_node("n1")?;
    let answer = waiting.join().expect("the waiting thread");
    ensure!(answer.is_err(), "an update that no standby had was answered with OK");
    for r in receivers {
        s.cluster.signal(r, Signal::CONT)?;
    }
    s.cluster.wait_new_primary(status.epoch)?;
    writer.wait_acked(50)
}

fn lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').with_context(|| format!("no LSN: {text}"))?;
    Ok((u64::from_str_radix(high, 16)? << 32) + u64::from_str_radix(low, 16)?)
}

#[test]
fn old_primary_with_writes_of_its_own_is_rewound() {
    scenario("rewound", &Options::network(), |s| {
        n1_diverges(s, 40_000)?;
        s.cluster.start_node("n1")?;
        s.cluster.wait_healthy()?;
        let kept = s.cluster.node("n1").dir.join("kept");
        let aside = std::fs::read_dir(&kept).map(Iterator::count).unwrap_or(0);
        ensure!(aside > 0, "what the rewind cut off was not kept aside in {}", kept.display());
        Ok(())
    });
}

#[test]
fn interrupted_rewind_is_cloned_anew() {
    scenario("rewind-interrupted", &Options::network(), |s| {
        n1_diverges(s, 150_000)?;
        s.cluster.start_node("n1")?;
        // Looked for without a pause: it does not run for long.
        let deadline = now_ns() + 30_000_000_000;
        let rewind = loop {
            let found = process::all()
                .into_iter()
                .find(|p| p.title.contains("pg_rewind") && p.state != 'Z' && p.belongs_to(&s.cluster.node("n1").dir));
            match found {
                Some(p) => break p,
                None => ensure!(now_ns() < deadline, "no pg_rewind was seen"),
            }
        };
        s.cluster.kill_node("n1")?;
        ensure!(!Process::alive(rewind.pid), "pg_rewind outlived its node");
        s.cluster.start_node("n1")
    });
}

/// Two of three copies are gone: nobody may guess. A person may, and is told first what it could cost.
#[test]
fn primary_and_a_standby_lost_is_refused_until_a_person_accepts_it() {
    scenario("two-lost", &Options::network(), |s| {
        let status = led_by_n1(s)?;
        let writer = s.writer()?;
        writer.wait_acked(50)?;
        // All are equal, so that what the person accepts costs nothing, and the checks at the end can be the usual ones.
        drop(writer.stop()?);
        let end = s.cluster.sql("n1", "app")?.value("select pg_current_wal_flush_lsn()")?;
        for n in ["n2", "n3"] {
            let sql = s.cluster.sql(n, "app")?;
            wait_until(&format!("{n} to have all"), SOON, || {
                Ok(sql.value(&format!("select pg_last_wal_receive_lsn() >= '{end}'"))? == "t")
            })?;
        }
        s.cluster.kill_nodes(&["n1", "n2"])?;
        std::fs::remove_dir_all(s.cluster.node("n2").data())?;
        s.cluster.start_node("n2")?;
        let n3 = s.cluster.agent("n3")?;
        let (used, began) = (process::processor_seconds(n3)?, now_ns());
        // Consensus has its majority again; the data has not.
        let told = wait_for("the cluster to say why it elects nobody", SOON, || {
            let status = s.cluster.status()?;
            Ok((status.health == "unavailable" && !status.alarms.is_empty()).then_some(status))
        })?;
        println!("two-lost: {:?}", told.alarms);
        let elapsed = Duration::from_nanos(now_ns() - began).as_secs_f64();
        let busy = (process::processor_seconds(n3)? - used) / elapsed;
        ensure!(busy < 0.4, "n3 only waits, and its agent used {:.0} % of a core", busy * 100.0);
        let refused = s.cluster.trine(&["failover", "--to", "n3", "--timeout", "10"])?;
        ensure!(!refused.status.success(), "a failover without proof was carried out");
        ensure!(refused.status.code() == Some(3), "refused for safety is exit 3, this was {}", refused.status);
        let now = s.cluster.status()?;
        ensure!(now.health == "unavailable", "it opened without a person's word: {now:?}");
        let asked = s.cluster.trine(&["failover", "--to", "n3", "--accept-data-loss"])?;
        ensure!(asked.status.code() == Some(3), "without a person's word it is refused: {}", asked.status);
        let told = String::from_utf8_lossy(&asked.stderr);
        ensure!(
            told.contains("furthest that was ever reported") && told.contains("s of commits"),
            "the estimate says nothing of what n1 had: {told}"
        );
        let o = s.cluster.trine_ok(&["failover", "--to", "n3", "--accept-data-loss", "--yes"])?;
        println!("two-lost: {o}");
        let now = s.cluster.wait_new_primary(status.epoch)?;
        ensure!(now.primary.as_deref() == Some("n3"), "n3 had the only copy, and {:?} leads", now.primary);
        s.cluster.start_node("n1")?;
        s.writer_with(WriterOptions {
            dsn: s.cluster.endpoints()?.writer,
            table: "ledger".into(),
            ..WriterOptions::default()
        })?
        .wait_acked(50)
    });
}
