//! MariaDB and MySQL with their own replication: what becomes of a copy that has more than the primary's, or takes nothing more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use trine_tests::cluster::Database;
use trine_tests::mariadb::{Local, on};
use trine_tests::{Options, Scenario, WriterOptions, checks, now_ns, on_both, wait_until};

const SOON: Duration = Duration::from_secs(30);

on_both!(
    commits_that_nobody_acknowledged_are_taken_back,
    a_table_that_nobody_acknowledged_is_taken_back,
    rows_and_then_a_table_that_nobody_acknowledged_are_taken_back,
    who_writes_to_a_standby_costs_it_its_copy,
    replication_that_somebody_stops_goes_on,
    what_somebody_does_to_a_primary_that_is_cut_off,
    a_table_in_memory_costs_a_standby_nothing,
    two_primaries_that_are_lost_before_either_has_a_copy_again,
    both_standbys_that_need_a_copy_while_commits_wait,
);

/// How often a node got its data anew.
fn rebuilt(s: &Scenario, node: &str) -> Result<usize> {
    let told = format!("{node} has a fresh copy");
    let events = s.cluster.events()?;
    Ok(events.iter().filter(|e| e["text"].as_str().is_some_and(|t| t.starts_with(&told))).count())
}

/// Cuts the primary off while `inside` is at work in its network, lets another lead, and brings the old one back.
fn lost_with_a_tail(s: &Scenario, inside: impl FnOnce(&str, &dyn Fn() -> Result<()>) -> Result<()>) -> Result<String> {
    let status = s.cluster.wait_healthy()?;
    let primary = status.primary.clone().unwrap();
    let standbys = status.standbys();
    let others: Vec<&str> = standbys.iter().map(String::as_str).collect();
    let writer = s.writer_with(WriterOptions { dsn: s.cluster.writer_at(&others)?, ..Default::default() })?;
    writer.wait_acked(50)?;
    inside(&primary, &|| {
        s.cluster.ask_only(&others);
        s.cluster.switch().cut(&primary)
    })?;
    s.cluster.wait_new_primary(status.epoch)?;
    writer.wait_acked(100)?;
    let back = now_ns();
    s.cluster.switch().heal()?;
    s.cluster.ask_only(&[]);
    s.cluster.wait_healthy()?;
    println!("{primary} is back as a standby after {} ms", (now_ns() - back) / 1_000_000);
    writer.wait_acked(50)?;
    Ok(primary)
}

/// Cuts the primary off while statements there, each of a session of its own, wait for an acknowledgement that nobody gives.
fn lost_with(s: &Scenario, statements: &'static [&'static str]) -> Result<(String, usize)> {
    let mut had = 0;
    let primary = std::thread::scope(|scope| {
        lost_with_a_tail(s, |primary, cut| {
            had = rebuilt(s, primary)?;
            // They are there before: the database is ended soon after.
            let local = Local::of(&s.cluster, primary)?;
            let clients: Vec<Local> =
                statements.iter().map(|_| Local::of(&s.cluster, primary)).collect::<Result<_>>()?;
            cut()?;
            for (client, statement) in clients.into_iter().zip(statements) {
                scope.spawn(move || {
                    let done = client.rows(statement);
                    assert!(done.is_err(), "a primary that is cut off has acknowledged: {done:?}");
                });
            }
            // By then the statement has long been in its log.
            wait_until("the database to be ended", SOON, || Ok(local.value("select 1").is_err()))
        })
    })?;
    Ok((primary, had))
}

/// A row that the old primary has in its log, and no other node: MariaDB cuts it off and goes on, MySQL gets its data anew.
fn commits_that_nobody_acknowledged_are_taken_back(database: Database) {
    on(database, "tail", Options::network(), |s| {
        let (primary, had) = lost_with(s, &["insert into app.ledger (writer, number) values (99, -1)"])?;
        let there = "select count(*) from app.ledger where number = -1";
        ensure!(Local::of(&s.cluster, &primary)?.value(there)? == "0", "{primary} has a row that no other node has");
        if database == Database::Mariadb {
            ensure!(rebuilt(s, &primary)? == had, "{primary} was rebuilt, where the end of its log could be cut off");
            let kept = s.cluster.node(&primary).dir.join("kept");
            ensure!(kept.read_dir()?.next().is_some(), "what was cut off is kept nowhere");
        }
        Ok(())
    });
}

/// A table that only the old primary has.
fn a_table_that_nobody_acknowledged_is_taken_back(database: Database) {
    on(database, "ddl", Options::network(), |s| {
        let (primary, had) = lost_with(s, &["create table app.tail (id int primary key)"])?;
        println!("{primary} was rebuilt {} times", rebuilt(s, &primary)? - had);
        let there = "select count(*) from information_schema.tables where table_schema = 'app' and table_name = 'tail'";
        ensure!(Local::of(&s.cluster, &primary)?.value(there)? == "0", "{primary} has a table that no other node has");
        Ok(())
    });
}

/// MariaDB refuses to cut off rows before a table: it starts with all of it, and its data is copied anew.
fn rows_and_then_a_table_that_nobody_acknowledged_are_taken_back(database: Database) {
    on(database, "mixed", Options::network(), |s| {
        let both =
            &["insert into app.ledger (writer, number) values (99, -1)", "create table app.tail (id int primary key)"];
        let (primary, had) = lost_with(s, both)?;
        println!("{primary} was rebuilt {} times", rebuilt(s, &primary)? - had);
        let copy = Local::of(&s.cluster, &primary)?;
        let row = copy.value("select count(*) from app.ledger where number = -1")?;
        let table = copy.value(
            "select count(*) from information_schema.tables where table_schema = 'app' and table_name = 'tail'",
        )?;
        ensure!(row == "0" && table == "0", "{primary} has what no other node has: {row} rows, {table} tables");
        Ok(())
    });
}

/// A superuser makes a table on a standby.
fn write_to(s: &Scenario, standby: &str) -> Result<()> {
    let local = Local::of(&s.cluster, standby)?;
    if s.cluster.runs() == Database::Mysql {
        local.rows("set global super_read_only = OFF")?;
    }
    local.rows("create table app.errant (id int primary key)").map(drop)
}

/// A superuser writes to a standby: it acknowledges nothing more, gives nobody to read, and gets its data anew.
fn who_writes_to_a_standby_costs_it_its_copy(database: Database) {
    on(database, "errant", Options::local(), |s| {
        let writer = s.writer()?;
        writer.wait_acked(50)?;
        let status = s.cluster.wait_healthy()?;
        let standby = status.standbys()[0].clone();
        let had = rebuilt(s, &standby)?;
        write_to(s, &standby)?;
        wait_until("the standby to be made anew", Duration::from_secs(60), || Ok(rebuilt(s, &standby)? > had))?;
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == status.epoch, "a standby's fault ended epoch {}", status.epoch);
        let there = Local::of(&s.cluster, &standby)?.value(
            "select count(*) from information_schema.tables \
            where table_schema = 'app' and table_name = 'errant'",
        )?;
        ensure!(there == "0", "{standby} has a table that no other node has");
        writer.wait_acked(50)
    });
}

/// Only the replication is broken, and on both standbys: commits wait until the agents have it going again.
fn replication_that_somebody_stops_goes_on(database: Database) {
    on(database, "stopped", Options::local(), |s| {
        let writer = s.writer()?;
        writer.wait_acked(50)?;
        let status = s.cluster.wait_healthy()?;
        let stop = if database == Database::Mysql { "stop replica" } else { "stop slave" };
        for which in ["io_thread", "sql_thread", ""] {
            for standby in status.standbys() {
                Local::of(&s.cluster, &standby)?.rows(&format!("{stop} {which}"))?;
            }
            writer.wait_acked(100)?;
            s.cluster.wait_healthy()?;
        }
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == status.epoch, "replication that was stopped ended epoch {}", status.epoch);
        Ok(())
    });
}

/// Its commits wait. Then somebody ends the database in good order, switches the waiting off, or ends the statements: what is
/// answered with OK then, nobody but this node has. The agent has closed its endpoint before: no client hears of it.
fn what_somebody_does_to_a_primary_that_is_cut_off(database: Database) {
    on(database, "by-hand", Options::network(), |s| {
        let mut there = 0;
        let mut hears = None;
        lost_with_a_tail(s, |primary, cut| {
            let own = s.cluster.node_namespace(primary);
            let dsn = s.cluster.writer_at(&[primary])?;
            let patient = WriterOptions { dsn, clients: 4, answer_timeout_ms: 60_000, ..Default::default() };
            let inside = s.writer_in(own, patient)?;
            inside.wait_acked(50)?;
            let local = Local::of(&s.cluster, primary)?;
            let ended = s.cluster.database(primary)?;
            cut()?;
            // As soon as it does not serve any more.
            wait_until("the primary to close its endpoint, or its database to end", SOON, || {
                there = inside.progress().acked;
                let open =
                    checks::select_in(own, &s.cluster.writer_at(&[primary])?, "select 1", Duration::from_millis(300));
                Ok(open.is_err())
            })?;
            let off = if database == Database::Mysql {
                "rpl_semi_sync_source_enabled"
            } else {
                "rpl_semi_sync_master_enabled"
            };
            let _ = local.rows(&format!("set global {off} = OFF"));
            let _ = s.cluster.signal(ended, rustix::process::Signal::TERM);
            hears = Some(inside);
            Ok(())
        })?;
        let inside = hears.expect("a writer");
        println!("acknowledged inside before {there}, at the end {}", inside.progress().acked);
        Ok(())
    });
}

/// A standby's database starts again: its tables in memory are empty. Who reads them there writes nothing. MySQL makes none.
fn a_table_in_memory_costs_a_standby_nothing(database: Database) {
    on(database, "memory", Options::local(), |s| {
        let writer = s.writer()?;
        let status = s.cluster.wait_healthy()?;
        let (primary, standby) = (status.primary.clone().unwrap(), status.standbys()[0].clone());
        let leads = Local::of(&s.cluster, &primary)?;
        let made = leads.rows("create table app.memory (id int primary key) engine = memory");
        if database == Database::Mysql {
            ensure!(made.is_err(), "MySQL made a table in memory");
            return Ok(());
        }
        made?;
        leads.rows("insert into app.memory values (1)")?;
        let there = || Local::of(&s.cluster, &standby)?.value("select count(*) from app.memory");
        wait_until("the row to be there", SOON, || Ok(there()? == "1"))?;
        let had = rebuilt(s, &standby)?;
        let killed = s.cluster.database(&standby)?;
        s.cluster.signal(killed, rustix::process::Signal::KILL)?;
        wait_until("the database to be back", SOON, || Ok(s.cluster.database(&standby).is_ok_and(|d| d != killed)))?;
        s.cluster.wait_healthy()?;
        ensure!(there()? == "0", "the table was to be empty");
        writer.wait_acked(100)?;
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == status.epoch && rebuilt(s, &standby)? == had, "who reads it costs {standby} its copy");
        // It is no part of what is equal on all of them.
        leads.rows("drop table app.memory").map(drop)
    });
}

/// The second is lost while the first still waits for its new copy, and leaves one good copy, whose commits nobody acknowledges: it
/// must be possible to copy that one all the same, or the cluster would be closed until a person looks.
fn two_primaries_that_are_lost_before_either_has_a_copy_again(database: Database) {
    on(database, "two-tails", Options::network(), |s| {
        s.cluster.wait_healthy()?;
        let writer = s.writer_with(WriterOptions { dsn: s.cluster.writers()?, ..Default::default() })?;
        writer.wait_acked(50)?;
        s.cluster.trine_ok(&["pause", "--reason", "both are to be lost first"])?;
        for _ in 0..2 {
            let status = s.cluster.wait_status("a primary", SOON, |s| s.primary.is_some())?;
            let primary = status.primary.clone().unwrap();
            let others: Vec<&str> = status.nodes.iter().map(|n| n.name.as_str()).filter(|n| *n != primary).collect();
            let (client, local) = (Local::of(&s.cluster, &primary)?, Local::of(&s.cluster, &primary)?);
            s.cluster.ask_only(&others);
            s.cluster.switch().cut(&primary)?;
            std::thread::scope(|scope| {
                // A table can't be cut off the end of either's log.
                let statement = format!("create table app.tail_{primary} (id int primary key)");
                scope.spawn(move || {
                    assert!(client.rows(&statement).is_err(), "a primary that is cut off has acknowledged")
                });
                wait_until("the database to be ended", SOON, || Ok(local.value("select 1").is_err()))
            })?;
            s.cluster.wait_status("the next primary", SOON, |s| s.epoch > status.epoch && s.primary.is_some())?;
            s.cluster.switch().heal()?;
            s.cluster.ask_only(&[]);
            s.cluster.wait_status("the old primary to wait for a new copy", SOON, |s| {
                s.node(&primary).is_some_and(|n| n.role == "standby" && n.state == "rejoining")
            })?;
        }
        s.cluster.trine_ok(&["resume"])?;
        s.cluster.wait_healthy()?;
        writer.wait_acked(50)
    });
}

/// A primary is open and nobody can acknowledge: neither has a copy that is good, and while commits wait none can be made.
fn both_standbys_that_need_a_copy_while_commits_wait(database: Database) {
    on(database, "both-errant", Options::local(), |s| {
        let writer = s.writer()?;
        writer.wait_acked(50)?;
        let status = s.cluster.wait_healthy()?;
        for standby in status.standbys() {
            write_to(s, &standby)?;
        }
        for standby in status.standbys() {
            wait_until("the standby to be made anew", Duration::from_secs(90), || Ok(rebuilt(s, &standby)? > 1))?;
        }
        let now = s.cluster.wait_healthy()?;
        ensure!(now.primary == status.primary, "{:?} leads, whose copy was not good", now.primary);
        writer.wait_acked(50)
    });
}
