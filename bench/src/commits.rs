//! Commits through the endpoint, compared with the same database without agent and endpoint; of PostgreSQL also reads.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::json;
use trine_tests::process::processor_seconds;
use trine_tests::scenario::alone;
use trine_tests::{Cluster, Options, namespace, now_ns};

use crate::engine::Engine;
use crate::inserts;
use crate::machine::seconds;
use crate::plain::Plain;
use crate::results::{Results, Section};
use crate::statistics::Spread;

/// HAProxy's port, in front of the plain primary.
const HAPROXY: u16 = 7600;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The database.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: Engine,
    /// Rounds: in each, every way is measured once, one after the other.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Length of one measurement.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u32,
    /// pgbench's scale; of PostgreSQL only.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Numbers of clients. By default 8 of PostgreSQL, whose every way is measured with one number only; else 1, 4 and 8.
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
}

impl Arguments {
    /// The defaults.
    pub(crate) fn of(engine: Engine) -> Self {
        Self { engine, rounds: 5, seconds: 10, scale: 10, clients: Vec::new() }
    }

    pub(crate) fn clients(&self) -> &[usize] {
        match self.engine {
            _ if !self.clients.is_empty() => &self.clients,
            Engine::Postgres => &[8],
            Engine::Mariadb | Engine::Mysql => &[1, 4, 8],
        }
    }
}

fn pgbench(cluster: &Cluster, arguments: &[&str], uri: &str) -> Result<String> {
    let program = trine_tests::postgres::bin_dir()?.join("pgbench");
    let mut c = cluster.client_namespace().command(program.as_os_str());
    // The endpoint offers TLS, and libpq takes it where it is offered; the others here have none.
    c.env("PGSSLMODE", "disable");
    namespace::run(c.args(arguments).arg(uri))
}

/// Transactions a second, connections' own time left out.
fn measure(a: &Arguments, clients: usize, cluster: &Cluster, script: &str, uri: &str) -> Result<f64> {
    let (clients, seconds) = (clients.to_string(), a.seconds.to_string());
    let text = pgbench(cluster, &["-n", "-b", script, "-c", &clients, "-j", "2", "-T", &seconds], uri)?;
    let line = text.lines().find(|l| l.starts_with("tps = ")).with_context(|| format!("pgbench said: {text}"))?;
    Ok(line.split_whitespace().nth(2).context("tps")?.parse()?)
}

/// HAProxy in tcp mode, ended when dropped.
struct Haproxy(Child);

impl Haproxy {
    fn start(cluster: &Cluster) -> Result<Self> {
        ensure!(namespace::on_path("haproxy"), "haproxy is not installed: it is what reads are compared with");
        let path = cluster.dir().join("haproxy.cfg");
        // Two threads, as there are cores; splicing as its documentation advises for tcp mode.
        fs::write(
            &path,
            format!(
                "global\n  nbthread 2\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
                 timeout server 1h\n  option splice-auto\nlisten postgres\n  bind 127.0.0.1:{HAPROXY}\n  \
                 server p1 127.0.0.1:{}\n",
                Plain::port()
            ),
        )?;
        let mut c: Command = cluster.client_namespace().command("haproxy".as_ref());
        let child = c.arg("-db").arg("-f").arg(&path).stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self(child))
    }
}

/// Processor time so far of what stands between clients and databases: HAProxy, and all agents.
fn relayed(cluster: &Cluster, haproxy: &Haproxy) -> Result<[f64; 2]> {
    let agents: f64 =
        cluster.nodes().iter().map(|n| processor_seconds(cluster.agent(&n.name)?)).sum::<Result<f64>>()?;
    Ok([processor_seconds(haproxy.0.id())?, agents])
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(a: &Arguments, results: &mut Results) -> Result<()> {
    match a.engine {
        Engine::Postgres => on_postgres(a, results),
        Engine::Mariadb | Engine::Mysql => inserts::run(a, results),
    }
}

fn on_postgres(a: &Arguments, results: &mut Results) -> Result<()> {
    let &[clients] = a.clients() else { bail!("PostgreSQL's ways are measured with one number of clients") };
    let _turn = alone()?;
    let cluster = Cluster::up("bench-commits", &Options::local())?;
    let status = cluster.wait_healthy()?;
    let primary = status.primary.clone().context("a healthy cluster has a primary")?;
    let standby = status.standbys().into_iter().next().context("a cluster of three has standbys")?;
    let plain = Plain::start(&cluster)?;
    let haproxy_process = Haproxy::start(&cluster)?;
    let direct = plain.uri("benchmark0", None)?;
    let haproxy = plain.uri("benchmark0", Some(HAPROXY))?;
    let here = cluster.writer_at(&[&primary])?;
    let there = cluster.writer_at(&[&standby])?;
    let scale = a.scale.to_string();
    for uri in [&here, &direct] {
        pgbench(&cluster, &["-i", "-q", "-s", &scale], uri)?;
    }
    cluster.wait_healthy()?;
    let ways = [
        ("commits (tpcb-like)", "no agent, no endpoint", "tpcb-like", &direct),
        ("commits (tpcb-like)", "HAProxy, tcp mode", "tpcb-like", &haproxy),
        ("commits (tpcb-like)", "writer endpoint on the primary's node", "tpcb-like", &here),
        ("commits (tpcb-like)", "writer endpoint on another node", "tpcb-like", &there),
        ("reads (-S)", "no agent, no endpoint", "select-only", &direct),
        ("reads (-S)", "HAProxy, tcp mode", "select-only", &haproxy),
        ("reads (-S)", "writer endpoint on the primary's node", "select-only", &here),
        ("reads (-S)", "writer endpoint on another node", "select-only", &there),
    ];
    let mut measured: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    let mut cores: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    for round in 1..=a.rounds {
        for (n, (what, way, script, uri)) in ways.iter().enumerate() {
            let (start, before) = (now_ns(), relayed(&cluster, &haproxy_process)?);
            let tps = measure(a, clients, &cluster, script, uri)?;
            let (elapsed, after) = (seconds(now_ns() - start), relayed(&cluster, &haproxy_process)?);
            let between =
                if way.starts_with("HAProxy") { after[0] - before[0] } else { after[1] - before[1] } / elapsed;
            println!("round {round}: {what}, {way}: {tps:.0}/s, {between:.2} cores in between");
            measured[n].push(tps);
            cores[n].push(between);
        }
    }
    // Reads are to be compared with HAProxy's, commits with nothing in between.
    let way = |what: &str| if what.starts_with("reads") { "HAProxy, tcp mode" } else { "no agent, no endpoint" };
    let base = |what: &str| ways.iter().position(|w| w.0 == what && w.1 == way(what)).unwrap_or(0);
    let mut rows = Vec::new();
    let mut data = Vec::new();
    for (((what, way, ..), all), cores) in ways.iter().zip(&measured).zip(&cores) {
        let spread = Spread::of(all).context("no round")?;
        let cores = Spread::of(cores).context("no round")?;
        // Round by round, so that what slows the whole machine for a while slows both sides of a ratio.
        let ratios: Vec<f64> = all.iter().zip(&measured[base(what)]).map(|(mine, other)| mine / other).collect();
        let ratio = Spread::of(&ratios).context("no round")?;
        rows.push(vec![
            (*what).to_owned(),
            (*way).to_owned(),
            format!("{:.0}", spread.median),
            format!("{:.0} to {:.0}", spread.least, spread.most),
            format!("{:.3}", ratio.median),
            format!("{:.2}", cores.median),
        ]);
        data.push(json!({"what": what, "way": way, "per_s": spread, "ratio": ratio, "cores": cores}));
    }
    let settings: Vec<String> = plain.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    results.keep(
        "Commits",
        Section {
            how: format!(
                "pgbench, scale {}, {} clients, {} s, {} rounds of all ways one after the other; medians, and medians of \
                 each round's ratio: commits to no agent and no endpoint (aim 0.9), reads to HAProxy (aim 1). \"No agent, no \
                 endpoint\" are three PostgreSQL with the same settings and the same sync rule, reached by TCP. All without TLS. \
                 Cores: processor time that what stands in between used of this machine's: HAProxy, else all three agents.",
                a.scale, clients, a.seconds, a.rounds
            ),
            head: ["what", "through", "median /s", "range", "ratio", "cores"].map(str::to_owned).to_vec(),
            rows,
            data: json!({"ways": data, "settings": settings}),
        },
    )
}
