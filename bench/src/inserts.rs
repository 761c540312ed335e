//! Commits of MariaDB or MySQL through the endpoint, compared with the same settings without any agent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use trine_tests::process::processor_seconds;
use trine_tests::scenario::alone;
use trine_tests::{Cluster, Options, Writer, WriterOptions, now_ns};

use crate::commits::Arguments;
use crate::compared::{Compared, head};
use crate::machine::seconds;
use crate::plain_mysql::PlainMysql;
use crate::results::{Results, Section};

/// Each measurement begins when its clients are connected and have written for so long.
const WARM_UP: Duration = Duration::from_secs(1);

/// The least that is hoped for.
const AIM: f64 = 0.9;

/// Processor time so far of all agents, in seconds.
fn agents(cluster: &Cluster) -> Result<f64> {
    cluster.nodes().iter().map(|n| processor_seconds(cluster.agent(&n.name)?)).sum()
}

/// One measurement after the other, each with rows of its own.
struct Measured<'a> {
    a: &'a Arguments,
    cluster: &'a Cluster,
    next: i64,
}

impl Measured<'_> {
    /// Acknowledged inserts a second.
    fn rate(&mut self, dsn: &str, clients: usize) -> Result<f64> {
        self.next += 1;
        let first_id = self.next * 100_000_000;
        let options = WriterOptions { dsn: dsn.to_owned(), clients, first_id, pace_ms: 0, ..WriterOptions::default() };
        let writer = Writer::start(self.cluster.client_namespace(), options)?;
        writer.wait_acked(u64::try_from(clients)?)?;
        std::thread::sleep(WARM_UP);
        let from = now_ns();
        std::thread::sleep(Duration::from_secs(self.a.seconds.into()));
        let upto = now_ns();
        let report = writer.stop()?;
        ensure!(report.unknown.is_empty(), "inserts without an answer: {:?}", report.errors);
        let acked = report.acks.iter().filter(|ack| (from..upto).contains(&ack.acked_ns)).count();
        Ok(acked as f64 / seconds(upto - from))
    }
}

pub(crate) fn run(a: &Arguments, results: &mut Results) -> Result<()> {
    a.engine.is_here()?;
    let _turn = alone()?;
    let cluster = Cluster::up("bench-commits", &Options::local().with(a.engine.database()))?;
    let primary = cluster.wait_healthy()?.primary.context("a healthy cluster has a primary")?;
    let plain = PlainMysql::start(&cluster, a.engine)?;
    let here = cluster.writer_at(&[&primary])?;
    let mut measured = Measured { a, cluster: &cluster, next: 0 };
    let compare =
        |n: &usize| Compared::new("trine", if *n == 1 { "1 client".into() } else { format!("{n} clients") }, AIM);
    let mut all: Vec<Compared> = a.clients().iter().map(compare).collect();
    let (mut commits, mut used) = (0.0, 0.0);
    for _ in 0..a.rounds {
        for (compared, clients) in all.iter_mut().zip(a.clients()) {
            let (before, start) = (agents(&cluster)?, now_ns());
            let through = measured.rate(&here, *clients)?;
            // What came before and after the measurement is as dense with commits.
            commits += through * seconds(now_ns() - start);
            used += agents(&cluster)? - before;
            compared.add(through, measured.rate(&PlainMysql::uri(), *clients)?);
        }
    }
    plain.has_waited()?;
    let (rows, data) = Compared::table(&all)?;
    let us_a_commit = used / commits * 1e6;
    results.keep(
        &a.engine.section("Commits"),
        Section {
            how: format!(
                "{} by its own replication. Each client inserts row after row, each a commit that a standby acknowledges; {} s \
                 through the writer endpoint on the primary's node, then {} s without any agent, {} rounds; medians, and medians \
                 of each round's ratio. \"Plain\" are three servers of this machine with the same settings, one acknowledgement \
                 of two standbys too, reached by TCP. Clients without TLS; the plain servers' replication has none either, the \
                 agents' has. Of the processors a commit took {us_a_commit:.0} us of all three agents together.",
                a.engine.version()?,
                a.seconds,
                a.seconds,
                a.rounds
            ),
            head: head("trine"),
            rows,
            data: json!({"ways": data, "settings": plain.settings, "agents_us_a_commit": us_a_commit}),
        },
    )
}
