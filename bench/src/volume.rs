//! What a replicated volume costs the database on it, compared with the same database on a plain directory.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use trine_tests::{now_ns, postgres, wait_until};

use crate::agents::{Agents, Used};
use crate::compared::{Compared, head};
use crate::lost;
use crate::machine::seconds;
use crate::results::{Results, Section};
use crate::statistics::Spread;

/// Where the plain database listens: not where a node of a local cluster does.
const PLAIN: &str = "127.0.0.9";
const PORT: u16 = 6590;

/// A long lease: what is measured is no failover.
const LONG: &str = "timing.lease_ms=10000";

/// What a node reports may be so old, in seconds.
const REPORTS: f64 = 4.0;

/// The write test: so many pages of 4 KiB, over a file of 1 GiB.
const PAGES: u64 = 5000;
const FILE: u64 = 1 << 30;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Rounds: in each, every way is measured once, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How often the primary's node is killed.
    #[arg(long, default_value_t = 10)]
    losses: usize,
    /// Length of one measurement of PostgreSQL.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Where the cluster and the plain directories are made: on the same disk.
    #[arg(long, default_value = "/var/tmp/trine-bench-volume")]
    dir: PathBuf,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { rounds: 5, losses: 10, seconds: 10, dir: "/var/tmp/trine-bench-volume".into() }
    }
}

/// What a program said; an error says what it complained of.
fn run(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A local cluster on the loopback, removed when dropped.
pub(crate) struct Local {
    trine: PathBuf,
    dir: PathBuf,
    password: String,
}

impl Local {
    fn up(dir: &Path, preset: &str, settings: &[&str]) -> Result<Self> {
        let trine = std::env::current_exe()?.with_file_name("trine");
        let dir = dir.join(preset);
        let mut this = Self { trine, dir, password: String::new() };
        let preset = format!("preset={preset}");
        let mut up = vec!["local", "up", "--engine", "volume", "--set", &preset];
        settings.iter().for_each(|s| up.extend(["--set", s]));
        this.run(&up)?;
        let secrets = fs::read_to_string(this.dir.join("n1/secrets.toml"))?;
        let line = secrets.lines().find_map(|l| l.strip_prefix("app_password = ")).context("no app_password")?;
        this.password = line.trim_matches('"').to_owned();
        Ok(this)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(&self.trine).args(arguments).arg("--dir").arg(&self.dir))
    }

    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&["status", "--json"])?)?)
    }

    /// The primary's node: its name, where its database listens, its folder.
    pub(crate) fn primary(&self) -> Result<(String, String, PathBuf)> {
        let status = self.status()?;
        let name = status["primary"].as_str().context("no primary")?;
        let node = status["nodes"].as_array().into_iter().flatten().find(|n| n["name"] == name).context("no node")?;
        let address = node["address"].as_str().context("no address")?;
        Ok((name.to_owned(), address.to_owned(), self.dir.join(name)))
    }

    pub(crate) fn wait_healthy(&self) -> Result<()> {
        wait_until("a healthy cluster", Duration::from_secs(60), || Ok(self.status()?["health"] == "healthy"))
    }

    /// How much log a standby has, in bytes, once all have the same, and have had it for longer than what nodes report is old.
    fn log(&self) -> Result<u64> {
        let (mut log, mut since) = (0, now_ns());
        wait_until("all nodes to have the same log", Duration::from_secs(60), || {
            let status = self.status()?;
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let positions: Vec<&str> = nodes.iter().filter_map(|n| n["position"].as_str()).collect();
            let same = positions.len() == 3 && positions.iter().all(|p| *p == positions[0]);
            let now = positions.first().map(|p| u64::from_str_radix(&p.replace('/', ""), 16)).transpose()?.unwrap_or(0);
            if !same || now != log {
                (log, since) = (now, now_ns());
            }
            Ok(seconds(now_ns() - since) > REPORTS)
        })?;
        Ok(log)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.run(&["local", "down", "--wipe"]);
    }
}

/// A database on a plain directory, ended when dropped.
struct Plain(Child);

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn plain_postgres(dir: &Path, password: &str) -> Result<Plain> {
    let data = dir.join("plain-postgres");
    fs::create_dir_all(&data)?;
    postgres::give(&data)?;
    let d = data.to_str().context("a path that is no text")?;
    let options = ["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--data-checksums"];
    run(postgres::program("initdb")?.args(["-D", d]).args(options))?;
    let port = PORT.to_string();
    let arguments = ["-D", d, "-p", &port, "-h", PLAIN, "-k", d];
    let child = postgres::program("postgres")?.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let plain = Plain(child);
    let sql = |sql: &str| {
        run(postgres::program("psql")?.args(["-h", d, "-p", &port, "-U", "postgres", "-d", "postgres", "-Atc", sql]))
    };
    wait_until("the plain PostgreSQL", Duration::from_secs(20), || Ok(sql("select 1").is_ok()))?;
    sql(&format!("create role app login superuser password '{password}'"))?;
    sql("create database app owner app")?;
    Ok(plain)
}

fn pgbench(address: &str, port: u16, password: &str, arguments: &[&str]) -> Result<String> {
    let mut c = Command::new(postgres::bin_dir()?.join("pgbench"));
    c.env("PGPASSWORD", password).args(arguments);
    run(c.args(["-h", address, "-p", &port.to_string(), "-U", "app", "app"]))
}

fn tps(text: &str) -> Result<f64> {
    let line = text.lines().find(|l| l.starts_with("tps = ")).with_context(|| format!("pgbench said: {text}"))?;
    Ok(line.split_whitespace().nth(2).context("tps")?.parse()?)
}

fn on_postgres(a: &Arguments) -> Result<(Vec<Compared>, [Used; 2])> {
    let local = Local::up(&a.dir, "postgres", &[LONG])?;
    let plain = plain_postgres(&a.dir, &local.password)?;
    let (_, address, _) = local.primary()?;
    for (at, port) in [(address.as_str(), 6500), (PLAIN, PORT)] {
        pgbench(at, port, &local.password, &["-i", "-q", "-s", "10"])?;
    }
    let mut all = vec![
        Compared::new("volume", "PostgreSQL, simple-update, 1 client", 0.8),
        Compared::new("volume", "PostgreSQL, simple-update, 8 clients", 0.75),
    ];
    let agents = Agents::of(&local)?;
    let mut used = <[Used; 2]>::default();
    let seconds = a.seconds.to_string();
    for _ in 0..a.rounds {
        for ((compared, clients), used) in all.iter_mut().zip(["1", "8"]).zip(&mut used) {
            let arguments = ["-n", "-N", "-c", clients, "-j", "2", "-T", &seconds];
            let before = agents.used()?;
            let volume = tps(&pgbench(&address, 6500, &local.password, &arguments)?)?;
            for ((sum, after), before) in used.seconds.iter_mut().zip(agents.used()?).zip(before) {
                *sum += after - before;
            }
            used.commits += volume * f64::from(a.seconds);
            compared.add(volume, tps(&pgbench(PLAIN, PORT, &local.password, &arguments)?)?);
        }
    }
    drop(plain);
    Ok((all, used))
}

fn redis(program: &str, address: &str, port: u16, password: &str, arguments: &[&str]) -> Result<String> {
    let mut c = Command::new(program);
    c.env("REDISCLI_AUTH", password).args(["-h", address, "-p", &port.to_string()]);
    if program == "redis-benchmark" {
        c.args(["-a", password]);
    }
    run(c.args(arguments))
}

/// SETs a second, by what redis-benchmark says last.
fn sets(text: &str) -> Result<f64> {
    let line = text.split(['\r', '\n']).rfind(|l| l.contains("requests per second"));
    let line = line.with_context(|| format!("redis-benchmark said: {text}"))?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

/// What was measured, the log that was sent for the pages, and the most memory that an agent has had.
fn on_redis(a: &Arguments) -> Result<(Vec<Compared>, u64, f64)> {
    let local = Local::up(&a.dir, "redis", &[LONG])?;
    let (_, address, folder) = local.primary()?;
    let data = a.dir.join("plain-redis");
    fs::create_dir_all(&data)?;
    let mut c = Command::new("redis-server");
    c.args(["--port", &PORT.to_string(), "--bind", PLAIN, "--save", "", "--appendonly", "yes", "--dir"]).arg(&data);
    c.args(["--requirepass", &local.password]).stdout(Stdio::null()).stderr(Stdio::null());
    let plain = Plain(c.spawn().context("starting redis-server")?);
    let password = local.password.as_str();
    let ping = || redis("redis-cli", PLAIN, PORT, password, &["ping"]);
    wait_until("the plain Redis", Duration::from_secs(20), || Ok(ping().is_ok_and(|said| said.contains("PONG"))))?;
    let mut all = vec![
        Compared::new("volume", "Redis, appendfsync always, 50 clients", 0.8),
        Compared::new("volume", "Redis, appendfsync everysec, 50 clients", 0.95),
    ];
    for _ in 0..a.rounds {
        for (compared, (policy, requests)) in all.iter_mut().zip([("always", "60000"), ("everysec", "300000")]) {
            let arguments = ["-c", "50", "-n", requests, "-t", "set", "-d", "100", "-r", "100000", "-q"];
            let mut measured = [0.0; 2];
            for (rate, (at, port)) in measured.iter_mut().zip([(address.as_str(), 6500), (PLAIN, PORT)]) {
                redis("redis-cli", at, port, password, &["config", "set", "appendfsync", policy])?;
                *rate = sets(&redis("redis-benchmark", at, port, password, &arguments)?)?;
            }
            compared.add(measured[0], measured[1]);
        }
    }
    drop(plain);
    let sent = pages_sent(&local, &folder.join("data"))?;
    Ok((all, sent, Agents::of(&local)?.memory()?))
}

/// Writes pages all over a large file, and says how much log each peer got for them.
fn pages_sent(local: &Local, mounted: &Path) -> Result<u64> {
    let path = mounted.join("pages");
    let mut file = File::create_new(&path)?;
    let megabyte = vec![7; 1 << 20];
    for _ in 0..FILE >> 20 {
        file.write_all(&megabyte)?;
    }
    file.sync_all()?;
    let before = local.log()?;
    let mut random: u64 = 1;
    for n in 0..PAGES {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all_at(&[u8::try_from(n % 251)?; 4096], (random >> 33) % (FILE / 4096) * 4096)?;
    }
    file.sync_all()?;
    let sent = local.log()? - before;
    fs::remove_file(path)?;
    Ok(sent)
}

pub(crate) fn run_all(a: &Arguments, results: &mut Results) -> Result<()> {
    fs::create_dir_all(&a.dir)?;
    let began = now_ns();
    let (mut compared, used) = on_postgres(a)?;
    let (more, sent, memory) = on_redis(a)?;
    compared.extend(more);
    let pauses = lost::node_lost(&Local::up(&a.dir, "redis", &[])?, a.losses)?;
    let pause = Spread::of(&pauses).context("no node was lost")?;
    let (rows, data) = Compared::table(&compared)?;
    fs::remove_dir_all(&a.dir)?;
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let written = megabytes(PAGES * 4096);
    let [one, eight] = used.map(|u| u.a_commit());
    results.keep(
        "Volume",
        Section {
            how: format!(
                "The database on the replicated volume of a local cluster of three, reached directly, and the same on a plain \
                 directory of the same disk, one after the other in each of {} rounds; medians, and medians of each round's ratio. \
                 All three nodes and the load share this machine; a commit waits for this node's disk and another's. {written} of \
                 random pages of 4 KiB over a file of 1 GiB sent {} of log to each of the two others (at most 25 MB wanted). The \
                 primary's node killed {} times under 4 writers, the start of Redis included: no write for {:.2} s in the median, \
                 {:.2} s at most (2 s wanted). Of the processors a commit took {:.0} us of the primary's agent and {:.0} us of each \
                 standby's with one client, {:.0} and {:.0} with eight. No agent had more than {:.0} MiB of memory, 1 GiB of pages \
                 included. {:.0} s in all.",
                a.rounds,
                megabytes(sent),
                pause.runs,
                pause.median,
                pause.most,
                one[0],
                one[1],
                eight[0],
                eight[1],
                memory,
                seconds(now_ns() - began)
            ),
            head: head("volume"),
            rows,
            data: json!({"ways": data, "pages": PAGES * 4096, "sent": sent, "node_lost": pause, "agent_memory_mib": memory,
                "agent_us_a_commit": {"primary, standby, 1 client": one, "primary, standby, 8 clients": eight}}),
        },
    )
}
