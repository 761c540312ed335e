//! How long writes pause when something fails, or is planned.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;
use trine_tests::process::kill;
use trine_tests::scenario::alone;
use trine_tests::{Cluster, Options, Report, Status, Writer, WriterOptions, checks, now_ns};

use crate::engine::Engine;
use crate::machine::seconds;
use crate::results::{Results, Section};
use crate::statistics::Spread;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The database.
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// Runs of each fault at each number of clients.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Numbers of writing clients. By default 1 and 8 of PostgreSQL, else 4.
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Only faults whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

impl Arguments {
    /// The defaults.
    pub(crate) fn of(engine: Engine) -> Self {
        Self { engine, runs: 20, clients: Vec::new(), only: Vec::new() }
    }

    fn clients(&self) -> &[usize] {
        match self.engine {
            _ if !self.clients.is_empty() => &self.clients,
            Engine::Postgres => &[1, 8],
            Engine::Mariadb | Engine::Mysql => &[4],
        }
    }
}

/// What is done to the cluster, and undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NodeKilled,
    NetworkCut,
    DatabaseKilled,
    Switchover,
    LeaderKilled,
}

/// Each client's acknowledged rows before a fault, one every 10 ms: a cluster whose database fails again and again within two
/// seconds of its opening is made to wait (`Failing` in the protocol), which is not what is measured here.
const BEFORE: u64 = 300;

const FAULTS: [Fault; 5] =
    [Fault::NodeKilled, Fault::NetworkCut, Fault::DatabaseKilled, Fault::Switchover, Fault::LeaderKilled];

impl Fault {
    fn name(self, engine: Engine) -> &'static str {
        match (self, engine) {
            (Self::NodeKilled, _) => "node lost: agent, guard and database killed at once",
            (Self::NetworkCut, _) => "node lost: its network cut off",
            (Self::DatabaseKilled, Engine::Postgres) => "postmaster killed",
            (Self::DatabaseKilled, Engine::Mariadb) => "mariadbd killed",
            (Self::DatabaseKilled, Engine::Mysql) => "mysqld killed",
            (Self::Switchover, _) => "switchover",
            (Self::LeaderKilled, _) => "agent of the leader of consensus killed, where it is a standby",
        }
    }

    /// The most that is hoped for: median, worst. Nothing, where it is not measured.
    fn aim(self, engine: Engine) -> Option<(f64, f64)> {
        match (self, engine) {
            (Self::NodeKilled | Self::NetworkCut, Engine::Postgres) => Some((1.5, 2.5)),
            (Self::DatabaseKilled, Engine::Postgres) => Some((0.6, 1.2)),
            (Self::Switchover, Engine::Postgres) => Some((0.3, 0.8)),
            (Self::LeaderKilled, Engine::Postgres) => Some((0.1, 0.1)),
            (Self::NodeKilled | Self::NetworkCut, _) => Some((2.0, 3.5)),
            (Self::DatabaseKilled, _) => Some((1.2, 2.5)),
            (Self::Switchover, _) => Some((0.5, 1.0)),
            // The agents' own affair, whichever database they lead.
            (Self::LeaderKilled, _) => None,
        }
    }

    fn options(self) -> Options {
        match self {
            Self::NetworkCut => Options::network(),
            _ => Options::local(),
        }
    }
}

pub(crate) fn run(a: &Arguments, results: &mut Results) -> Result<()> {
    a.engine.is_here()?;
    for fault in FAULTS {
        let (name, Some(aim)) = (fault.name(a.engine), fault.aim(a.engine)) else { continue };
        if !a.only.is_empty() && !a.only.iter().any(|o| name.contains(o.as_str())) {
            continue;
        }
        let _turn = alone()?;
        let cluster = Cluster::up("bench-faults", &fault.options().with(a.engine.database()))?;
        let mut rows = Vec::new();
        let mut data = Vec::new();
        // All that was written to the cluster: its copies hold that and nothing else.
        let mut written = Vec::new();
        for clients in a.clients() {
            let outcome = measure(&cluster, a.engine, fault, *clients, a.runs);
            let Measured { pauses, back, reports } = match outcome {
                Ok(o) => o,
                Err(e) => {
                    eprintln!("{}", cluster.tell());
                    return Err(e.context(name));
                }
            };
            cluster.wait_healthy()?;
            let acked: usize = reports.iter().map(|r| r.acks.len()).sum();
            written.extend(reports);
            let said =
                |checked: Result<()>, fine: &str| checked.map_or_else(|e| format!("{e:#}"), |()| fine.to_owned());
            let lost = said(checks::nothing_lost(&cluster, &written), "0");
            let copies = said(checks::copies_hold(&cluster, &written), "equal");
            let spread = Spread::of(&pauses).context("no run")?;
            let back = Spread::of(&back).context("no run")?;
            let (median, worst) = aim;
            rows.push(vec![
                clients.to_string(),
                format!("{:.3}", spread.median),
                format!("{median}"),
                format!("{:.3}", spread.most),
                format!("{worst}"),
                spread.runs.to_string(),
                format!("{:.1} / {:.1}", back.median, back.most),
                acked.to_string(),
                lost.clone(),
                copies.clone(),
            ]);
            data.push(json!({"fault": name, "clients": clients, "pause_s": spread, "back_s": back, "lost": lost, "copies": copies}));
        }
        keep(a.engine, fault, rows, data, results)?;
    }
    Ok(())
}

/// A section for each fault: measuring one of them again leaves the others as they are.
fn keep(
    engine: Engine,
    fault: Fault,
    rows: Vec<Vec<String>>,
    data: Vec<serde_json::Value>,
    results: &mut Results,
) -> Result<()> {
    let endpoints = match fault {
        Fault::NetworkCut => {
            "know the other two nodes' endpoints (one that is cut off with the primary can't write anyway)"
        }
        _ if engine == Engine::Postgres => "know every node's endpoint, the primary's first",
        _ => "know every node's endpoint, each another one first",
    };
    let begins = match fault {
        Fault::NodeKilled => "the lost node is started",
        Fault::LeaderKilled => "that agent is started",
        Fault::NetworkCut => "the network is whole",
        Fault::DatabaseKilled | Fault::Switchover => "that happens",
    };
    let aim = if engine == Engine::Postgres { "" } else { " (aim: 10)" };
    let how = format!(
        "{} by its own replication. The longest time without any acknowledged insert, of all clients together, from the fault on. Each client inserts \
         a row every 10 ms through the writer endpoint; the clients {endpoints}. \"Back\", median and worst: from when {begins} \
         until the cluster has all its standbys again{aim}. At the end \
         every acknowledged row is looked for, and the copies of all three nodes are compared.",
        engine.version()?
    );
    let head = ["clients", "median s", "aim", "worst s", "aim", "runs", "back s", "acknowledged", "lost", "copies"];
    let head = head.map(str::to_owned).to_vec();
    results.keep(
        &format!("{}: {}", engine.section("Pause"), fault.name(engine)),
        Section { how, head, rows, data: json!(data) },
    )
}

/// What a fault did, each time.
#[derive(Default)]
struct Measured {
    /// The longest time without an acknowledgement, in seconds.
    pauses: Vec<f64>,
    /// Until the cluster was whole again, in seconds.
    back: Vec<f64>,
    reports: Vec<Report>,
}

fn measure(cluster: &Cluster, engine: Engine, fault: Fault, clients: usize, runs: usize) -> Result<Measured> {
    let mut measured = Measured::default();
    for number in 0..runs {
        let status = prepare(cluster, fault)?;
        let primary = status.primary.clone().context("a healthy cluster has a primary")?;
        let standbys = status.standbys();
        let dsn = match fault {
            Fault::NetworkCut => cluster.writer_at(&standbys.iter().map(String::as_str).collect::<Vec<_>>())?,
            _ if engine == Engine::Postgres => cluster.endpoints()?.writer,
            _ => cluster.writers()?,
        };
        let first_id = i64::try_from((clients * 1000 + number) * 1_000_000)?;
        let options = WriterOptions {
            dsn,
            clients,
            first_id,
            // MariaDB says OK to a commit whose statement it ends while that waits for the standbys.
            statement_timeout_ms: if engine == Engine::Postgres { 2000 } else { 0 },
            answer_timeout_ms: 3000,
            ..WriterOptions::default()
        };
        let writer = Writer::start(cluster.client_namespace(), options)?;
        writer.wait_acked(BEFORE * u64::try_from(clients)?)?;
        let at = now_ns();
        let victim = inject(cluster, fault, &status)?;
        if matches!(fault, Fault::LeaderKilled) {
            // There is nothing to wait for: as many writes as a second and a half's.
            writer.wait_acked(150 * u64::try_from(clients)?)?;
        } else {
            cluster.wait_new_primary(status.epoch)?;
            writer.wait_acked(30 * u64::try_from(clients)?)?;
        }
        let report = writer.stop()?;
        let pause = seconds(report.longest_pause_after_ns(at));
        let from = victim.unwrap_or(primary);
        println!("{} · {clients} clients · run {}: {pause:.3} s", fault.name(engine), number + 1);
        measured.pauses.push(pause);
        measured.reports.push(report);
        let mended = match fault {
            Fault::DatabaseKilled | Fault::Switchover => at,
            _ => now_ns(),
        };
        match fault {
            Fault::NodeKilled | Fault::LeaderKilled => cluster.start_node(&from)?,
            Fault::NetworkCut => {
                cluster.switch().heal()?;
                cluster.ask_only(&[]);
            }
            Fault::DatabaseKilled | Fault::Switchover => {}
        }
        cluster.wait_healthy()?;
        measured.back.push(seconds(now_ns() - mended));
    }
    Ok(measured)
}

/// Healthy, and with the leader of consensus where the fault needs it.
fn prepare(cluster: &Cluster, fault: Fault) -> Result<Status> {
    let status = cluster.wait_healthy()?;
    if fault != Fault::LeaderKilled || leader(&status) != status.primary {
        return Ok(status);
    }
    cluster.trine_ok(&["switchover"])?;
    cluster.wait_new_primary(status.epoch)?;
    let status = cluster.wait_healthy()?;
    ensure!(leader(&status) != status.primary, "the leader of consensus follows the primary");
    Ok(status)
}

fn leader(status: &Status) -> Option<String> {
    status.more.get("leader").and_then(|l| l.as_str()).map(str::to_owned)
}

/// Does it; the node that has to be started again, where that is not the primary.
fn inject(cluster: &Cluster, fault: Fault, status: &Status) -> Result<Option<String>> {
    let primary = status.primary.as_deref().context("a healthy cluster has a primary")?;
    if fault == Fault::NetworkCut {
        let standbys = status.standbys();
        cluster.ask_only(&standbys.iter().map(String::as_str).collect::<Vec<_>>());
    }
    match fault {
        Fault::NodeKilled => cluster.kill_nodes(&[primary])?,
        Fault::NetworkCut => cluster.switch().cut(primary)?,
        Fault::DatabaseKilled => kill(cluster.database(primary)?)?,
        Fault::Switchover => drop(cluster.trine_ok(&["switchover"])?),
        Fault::LeaderKilled => {
            let leader = leader(status).context("nobody leads the consensus")?;
            kill(cluster.agent(&leader)?)?;
            return Ok(Some(leader));
        }
    }
    Ok(None)
}
