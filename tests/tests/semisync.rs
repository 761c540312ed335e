//! MariaDB and MySQL with their own replication: the faults that showed what it loses when it is led wrongly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use trine_tests::cluster::Database;
use trine_tests::mariadb::{Local, on};
use trine_tests::process::Process;
use trine_tests::{Options, Scenario, Status, WriterOptions, checks, on_both, wait_until};

const SOON: Duration = Duration::from_secs(30);

on_both!(
    database_killed_under_load,
    node_lost_under_load,
    database_and_agent_frozen_and_thawed_after_the_failover,
    primary_isolated_acknowledges_nothing,
    writes_go_on_with_one_standby_and_wait_without,
    a_candidate_that_lags_applies_what_it_has_first,
    what_was_received_and_not_applied_survives_the_end_of_every_database,
    switchover_to_each_node_in_turn,
    switchover_with_a_transaction_left_open,
    primary_and_a_standby_lost_together_is_refused,
    standbys_restarted_one_after_the_other,
);

fn primary(s: &Scenario) -> Result<(String, Status)> {
    let status = s.cluster.wait_healthy()?;
    Ok((status.primary.clone().context("a healthy cluster has a primary")?, status))
}

/// Whatever died, and when: nothing is lost, and the old primary takes nobody's place with rows of its own.
fn killed_under_load(database: Database, name: &str, kill: impl Fn(&Scenario, &str) -> Result<()>) {
    on(database, name, Options::local(), |s| {
        let writer =
            s.writer_with(WriterOptions { clients: 8, pace_ms: 0, dsn: s.cluster.writers()?, ..Default::default() })?;
        for _ in 0..4 {
            let (primary, status) = primary(s)?;
            writer.wait_acked(200)?;
            kill(s, &primary)?;
            s.cluster.wait_new_primary(status.epoch)?;
            writer.wait_acked(100)?;
            if s.cluster.agent(&primary).is_err() {
                s.cluster.start_node(&primary)?;
            }
        }
        let pause = writer.stop()?.summary().longest_gap_s;
        println!("{name}: the longest pause of writes {pause:.2} s");
        Ok(())
    });
}

fn database_killed_under_load(database: Database) {
    killed_under_load(database, "database", |s, primary| s.cluster.signal(s.cluster.database(primary)?, Signal::KILL));
}

fn node_lost_under_load(database: Database) {
    killed_under_load(database, "node", |s, primary| s.cluster.kill_node(primary));
}

/// A database that stops in the middle of commits, with its agent, and goes on when another leads: what it then answers with OK
/// would be lost.
fn database_and_agent_frozen_and_thawed_after_the_failover(database: Database) {
    on(database, "frozen", Options::local(), |s| {
        let (primary, status) = primary(s)?;
        let standbys = status.standbys();
        let others: Vec<&str> = standbys.iter().map(String::as_str).collect();
        let writer = s.writer_with(WriterOptions { dsn: s.cluster.writer_at(&others)?, ..Default::default() })?;
        // Clients that wait for its answers as long as it takes.
        s.writer_with(WriterOptions {
            dsn: s.cluster.writer_at(&[&primary])?,
            pace_ms: 2,
            answer_timeout_ms: 20_000,
            ..Default::default()
        })?
        .wait_acked(50)?;
        let (database, agent) = (s.cluster.database(&primary)?, s.cluster.agent(&primary)?);
        s.cluster.signal(agent, Signal::STOP)?;
        s.cluster.signal(database, Signal::STOP)?;
        s.cluster.ask_only(&others);
        s.cluster.wait_new_primary(status.epoch)?;
        writer.wait_acked(100)?;
        s.cluster.signal(database, Signal::CONT)?;
        s.cluster.signal(agent, Signal::CONT)?;
        s.cluster.ask_only(&[]);
        wait_until("the old primary's database to end", SOON, || Ok(!Process::alive(database)))?;
        s.cluster.wait_healthy().map(drop)
    });
}

/// Its clients wait, and are told OK by nobody; nor do they read what no other node has.
fn primary_isolated_acknowledges_nothing(database: Database) {
    on(database, "isolated", Options::network(), |s| {
        let (primary, status) = primary(s)?;
        let standbys = status.standbys();
        let others: Vec<&str> = standbys.iter().map(String::as_str).collect();
        let writer = s.writer_with(WriterOptions { dsn: s.cluster.writer_at(&others)?, ..Default::default() })?;
        let own = s.cluster.node_namespace(&primary);
        let inside = WriterOptions {
            dsn: s.cluster.writer_at(&[&primary])?,
            pace_ms: 2,
            answer_timeout_ms: 60_000,
            ..Default::default()
        };
        let inside = s.writer_in(own, inside)?;
        inside.wait_acked(20)?;
        s.cluster.ask_only(&others);
        s.cluster.switch().cut(&primary)?;
        let next = s.cluster.wait_new_primary(status.epoch)?;
        ensure!(next.primary.as_deref() != Some(&primary), "a primary without a majority leads");
        writer.wait_acked(100)?;
        let there = inside.progress().acked;
        writer.wait_acked(100)?;
        ensure!(inside.progress().acked == there, "a primary that is cut off has acknowledged");
        let read = checks::select_in(own, &s.cluster.writer_at(&[&primary])?, "select 1", Duration::from_secs(2));
        ensure!(read.is_err(), "a primary that is cut off answers a read: {read:?}");
        s.cluster.switch().heal()?;
        s.cluster.ask_only(&[]);
        s.cluster.wait_healthy()?;
        inside.wait_acked(10)
    });
}

/// With one standby down writes go on; with both they wait, which is said, and go on when one is back.
fn writes_go_on_with_one_standby_and_wait_without(database: Database) {
    on(database, "standbys", Options::local(), |s| {
        let (primary, status) = primary(s)?;
        let standbys = status.standbys();
        let impatient = WriterOptions { dsn: s.cluster.writers()?, answer_timeout_ms: 1000, ..Default::default() };
        let writer = s.writer_with(impatient)?;
        s.cluster.kill_node(&standbys[0])?;
        let degraded = s.cluster.wait_status("the loss to be noticed", SOON, |s| s.health == "degraded")?;
        ensure!(degraded.epoch == status.epoch, "a lost standby ended epoch {}", status.epoch);
        writer.wait_acked(200)?;
        // The database alone: with its agent the majority would be gone, and with that the primary.
        let database = s.cluster.database(&standbys[1])?;
        s.cluster.signal(database, Signal::STOP)?;
        let refused = |n: u64| {
            let before = writer.progress().unknown;
            wait_until("clients to give up", SOON, || Ok(writer.progress().unknown >= before + n))
        };
        // The client tells its progress now and then: what it acknowledged before is told with the first round.
        refused(4)?;
        let before = writer.progress().acked;
        refused(4)?;
        ensure!(writer.progress().acked == before, "commits were acknowledged that no standby had");
        s.cluster.signal(database, Signal::CONT)?;
        writer.wait_acked(50)?;
        s.cluster.start_node(&standbys[0])?;
        println!("m-standbys: {primary} led, epoch {}", s.cluster.wait_healthy()?.epoch);
        writer.wait_acked(50)
    });
}

/// Both standbys have received what they can't apply: whoever is elected applies it first, and opens then.
fn a_candidate_that_lags_applies_what_it_has_first(database: Database) {
    on(database, "lagging", Options::local(), |s| {
        let (primary, status) = primary(s)?;
        let writer = s.writer()?;
        let locals: Vec<Local> = status.standbys().iter().map(|n| Local::of(&s.cluster, n)).collect::<Result<_>>()?;
        locals.iter().try_for_each(|l| l.rows("lock tables app.ledger read").map(drop))?;
        writer.wait_acked(500)?;
        s.cluster.kill_node(&primary)?;
        s.cluster.wait_status("the next epoch to begin", SOON, |s| s.epoch > status.epoch)?;
        for local in locals {
            // The agent may have ended the session that was in its way.
            let _ = local.rows("unlock tables");
        }
        s.cluster.wait_new_primary(status.epoch)?;
        writer.wait_acked(100)?;
        s.cluster.start_node(&primary)
    });
}

/// The only copies of what was acknowledged are in the received logs of standbys that had not applied it, and end too.
/// MariaDB throws such a log away when it starts.
fn what_was_received_and_not_applied_survives_the_end_of_every_database(database: Database) {
    on(database, "received", Options::local(), |s| {
        let (primary, status) = primary(s)?;
        let writer = s.writer()?;
        let standbys = status.standbys();
        let locals: Vec<Local> = standbys.iter().map(|n| Local::of(&s.cluster, n)).collect::<Result<_>>()?;
        locals.iter().try_for_each(|l| l.rows("lock tables app.ledger read").map(drop))?;
        let behind = |local: &Local| local.value("select max(id) from app.ledger");
        let before: Vec<String> = locals.iter().map(behind).collect::<Result<_>>()?;
        writer.wait_acked(500)?;
        let after: Vec<String> = locals.iter().map(behind).collect::<Result<_>>()?;
        ensure!(before == after, "the standbys were to apply nothing: {before:?}, {after:?}");
        s.cluster.kill_node(&primary)?;
        for standby in &standbys {
            s.cluster.signal(s.cluster.database(standby)?, Signal::KILL)?;
        }
        drop(locals);
        s.cluster.wait_new_primary(status.epoch)?;
        writer.wait_acked(100)?;
        s.cluster.start_node(&primary)
    });
}

fn switchover_to_each_node_in_turn(database: Database) {
    on(database, "switchover", Options::local(), |s| {
        let writer = s.writer_with(WriterOptions { dsn: s.cluster.writers()?, clients: 8, ..Default::default() })?;
        for to in primary(s)?.1.standbys() {
            s.cluster.trine_ok(&["switchover", "--to", &to])?;
            let status = s.cluster.wait_healthy()?;
            ensure!(status.primary.as_deref() == Some(&to), "switched to {to}, and {:?} leads", status.primary);
            writer.wait_acked(50)?;
        }
        Ok(())
    });
}

/// Work that would be cut off: the switchover is given up and says whose it is; nobody notices, and the work comes to its end.
fn switchover_with_a_transaction_left_open(database: Database) {
    on(database, "long", Options::local(), |s| {
        let writer = s.writer()?;
        let (primary, status) = primary(s)?;
        let to = status.standbys()[0].clone();
        let (cluster, dsn) = (&s.cluster, s.cluster.writers()?);
        let superuser = Local::of(cluster, &primary)?;
        superuser.rows("create table app.other (id int primary key)")?;
        let refused = |reasons: &[&str]| -> Result<()> {
            let o = cluster.trine(&["switchover", "--to", &to])?;
            let said = String::from_utf8_lossy(&o.stderr).trim().to_owned();
            println!("switchover to {to}: {}: {said}", o.status);
            ensure!(!o.status.success() && reasons.iter().all(|r| said.contains(r)), "not for {reasons:?}: {o:?}");
            let now = cluster.wait_status("a primary after the switchover", SOON, |s| s.primary.is_some())?;
            ensure!(now.epoch == status.epoch && now.primary.as_deref() == Some(&primary), "refused, and {now:?}");
            writer.wait_acked(20)
        };
        std::thread::scope(|scope| {
            // A transaction that its client has left open, with a change in it.
            let open = Local::of(cluster, &primary)?;
            open.rows("start transaction")?;
            open.rows("insert into app.other values (1)")?;
            wait_until("the transaction to be old", SOON, || {
                let old = "select count(*) from information_schema.innodb_trx \
                           where trx_rows_modified > 0 and trx_started <= now() - interval 5 second";
                Ok(superuser.value(old)? != "0")
            })?;
            refused(&["transaction open for", "1 changed rows", "nothing was changed"])?;
            open.rows("commit")?;

            // A change of a table, which waits for somebody who reads it; it has just begun.
            open.rows("start transaction")?;
            open.rows("select * from app.other")?;
            let statement = "alter table app.other add column more int";
            let change = scope.spawn(|| checks::select(cluster, &dsn, statement, Duration::from_secs(60)));
            wait_until("the table's change to wait", SOON, || {
                let waits =
                    "select count(*) from information_schema.processlist where info like 'alter table app.other%'";
                Ok(superuser.value(waits)? != "0")
            })?;
            refused(&["run a statement for", "alter table app.other"])?;
            open.rows("commit")?;
            change.join().expect("the client").context("the table's change was cut off")?;
            drop(open);
            cluster.trine_ok(&["switchover", "--to", &to])?;
            writer.wait_acked(50)?;
            let now = cluster.wait_healthy()?;
            ensure!(now.primary.as_deref() == Some(&to), "with nothing in the way, {:?} leads", now.primary);
            let rows = Local::of(cluster, &to)?.value("select count(*) from app.other where more is null")?;
            ensure!(rows == "1", "the row of the long transaction is not on the new primary");
            Ok(())
        })
    });
}

/// Two of three copies are gone: nobody may guess.
fn primary_and_a_standby_lost_together_is_refused(database: Database) {
    on(database, "two-lost", Options::network(), |s| {
        let (primary, status) = primary(s)?;
        let standbys = status.standbys();
        let (lost, left) = (standbys[0].as_str(), standbys[1].as_str());
        let writer = s.writer()?;
        writer.wait_acked(50)?;
        s.cluster.kill_nodes(&[&primary, lost])?;
        std::fs::remove_dir_all(s.cluster.node(lost).data())?;
        s.cluster.start_node(lost)?;
        // Consensus has its majority again; the data has not.
        let why = |s: &Status| s.health == "unavailable" && !s.alarms.is_empty();
        let told = s.cluster.wait_status("the cluster to say why it elects nobody", SOON, why)?;
        println!("m-two-lost: {:?}", told.alarms);
        let refused = s.cluster.trine(&["failover", "--to", left, "--timeout", "10"])?;
        ensure!(refused.status.code() == Some(3), "refused for safety is exit 3, this was {}", refused.status);
        let asked = s.cluster.trine(&["failover", "--to", left, "--accept-data-loss"])?;
        ensure!(asked.status.code() == Some(3), "without a person's word it is refused: {}", asked.status);
        println!("m-two-lost: {}", String::from_utf8_lossy(&asked.stderr));
        // With the one back that has everything, somebody may lead.
        s.cluster.start_node(&primary)?;
        s.cluster.wait_new_primary(status.epoch)?;
        writer.wait_acked(50)
    });
}

/// As for a new version. Each time the one that has just come back is the only one that can acknowledge, and it lacks what was written
/// meanwhile: commits wait for that, which it takes fast.
fn standbys_restarted_one_after_the_other(database: Database) {
    on(database, "rolling", Options::local(), |s| {
        let writer =
            s.writer_with(WriterOptions { clients: 8, pace_ms: 0, dsn: s.cluster.writers()?, ..Default::default() })?;
        let (_, status) = primary(s)?;
        let standbys = status.standbys();
        for standby in standbys.iter().cycle().take(3 * standbys.len()) {
            let agent = s.cluster.agent(standby)?;
            s.cluster.signal(agent, Signal::TERM)?;
            wait_until(&format!("{standby}'s agent to end"), SOON, || Ok(!Process::alive(agent)))?;
            s.cluster.start_node(standby)?;
            s.cluster.wait_healthy()?;
        }
        let now = s.cluster.status()?;
        ensure!(now.epoch == status.epoch, "a standby's restart ended epoch {}", status.epoch);
        let pause = writer.stop()?.summary().longest_gap_s;
        println!("the longest pause of writes {pause:.2} s");
        ensure!(pause < 5.0, "commits stalled for {pause} s because a standby restarted");
        Ok(())
    });
}
