//! `trine local up`: makes a cluster, starts it, and waits until it is healthy.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use toml::Table;
use trine_agent::CONFIG_FILE;
use trine_api::{Client, Health, Status, Uris};
use trine_protocol::NodeName;

use crate::args::{NodeSpec, Up};
use crate::connect;
use crate::create::{self, Plan, Wanted, cant};
use crate::daemon;
use crate::failure::{Done, Failure};
use crate::print;
use crate::progress::Progress;
use crate::settings;

use super::cluster::{Cluster, Node, Record, Started, absolute};
use super::{down, ports, reach};

const LOOK_EVERY: Duration = Duration::from_millis(150);
/// How long what was started may take to stop again after a failure.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Brings a local cluster up.
pub(crate) async fn up(args: &Up) -> Done {
    let dir = absolute(&args.dir)?;
    let overrides = settings::overrides(args.config.as_deref(), &args.set)?;
    let record = Record::read(&dir)?;
    let made = record.as_ref().is_none_or(|r| !r.complete);
    let cluster = match record {
        Some(record) if record.complete => existing(args, Cluster::of(dir, record), overrides)?,
        Some(record) => {
            // An earlier call was interrupted while it made the files; nothing has run yet.
            let half = Cluster::of(dir.clone(), record);
            down::wipe(&half)?;
            make(args, &dir, &overrides).await?
        }
        None => make(args, &dir, &overrides).await?,
    };
    let mut started = Vec::new();
    let done = tokio::select! {
        done = bring_up(args, &cluster, &mut started) => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
    };
    let failure = match done {
        Ok(uris) => return show(args, &cluster, &uris),
        Err(failure) => failure,
    };
    let refused = started.iter_mut().any(Started::has_refused);
    let nodes: Vec<&Node> = started.iter().map(|s: &Started| &s.node).collect();
    if args.keep || nodes.is_empty() {
        return Err(failure);
    }
    print::note("stopping what was started (--keep leaves it running)");
    if let Err(e) = down::stop(&nodes, STOP_WITHIN).await {
        print::note(format!("trine: {}", e.message));
        return Err(failure);
    }
    // What an agent refuses to begin with must not be kept for the next try. Data, once there is any, stays.
    let has_data = cluster.nodes.iter().any(|n| n.dir.join("data").exists());
    if made && refused && !has_data {
        down::wipe(&cluster)?;
        return Err(Failure { hint: None, ..failure });
    }
    Err(failure)
}

/// A new cluster's files.
async fn make(args: &Up, dir: &Path, overrides: &Table) -> Done<Cluster> {
    let others = create::entries(dir)?;
    if let Some(first) = others.first() {
        let more = if others.len() > 1 { format!(" and {} more", others.len() - 1) } else { String::new() };
        let message = format!("{} holds something else ({first}{more}) and no trine cluster", dir.display());
        return Err(Failure::wrong_use(message).hint("use a new or an empty folder"));
    }
    let names = ["n1", "n2", "n3"].iter().zip(["a", "b", "c"]).zip(1..);
    let nodes = names
        .map(|((name, zone), n)| {
            Ok(NodeSpec {
                name: name.parse::<NodeName>().map_err(|e| Failure::because("node", &e))?,
                address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)),
                zone: zone.to_owned(),
                priority: None,
                voter: true,
            })
        })
        .collect::<Done<Vec<_>>>()?;
    let name = cluster_name(dir);
    let engine = args.engine.as_deref().unwrap_or("postgres");
    let wanted = Wanted { cluster: &name, engine, nodes: &nodes, overrides, file: args.config.as_deref() };
    let plan = Plan::new(&wanted, |spec| dir.join(spec.name.as_str()))?;
    // Everything that can be known beforehand, before anything is made.
    for config in plan.configs() {
        reach::check(config, dir)?;
        ports::check(config)?;
    }
    let mut record = Record {
        cluster: name,
        cluster_id: plan.cluster_id.clone(),
        engine: engine.to_owned(),
        nodes: nodes.iter().map(|n| n.name.clone()).collect(),
        complete: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    create::folder(dir, 0o755)?;
    record.write(dir)?;
    plan.write(dir)?;
    if let Some(data) = &args.adopt {
        let seed = plan.configs().find(|c| c.seed_marker().exists());
        let adopted = match seed {
            Some(config) => daemon::adopt_into(config, data).await,
            None => Err(Failure::failed("no node may lead, so none can adopt")),
        };
        if let Err(failure) = adopted {
            down::wipe(&Cluster::of(dir.to_owned(), record))?;
            return Err(failure);
        }
    }
    record.complete = true;
    record.write(dir)?;
    print::note(format!("made cluster {} in {}", record.cluster, dir.display()));
    Ok(Cluster::of(dir.to_owned(), record))
}

/// The folder's name, if it will do.
fn cluster_name(dir: &Path) -> String {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let good =
        !name.is_empty() && name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if good { name } else { "local".to_owned() }
}

/// A cluster that was made before; new settings are merged into its files.
fn existing(args: &Up, cluster: Cluster, overrides: Table) -> Done<Cluster> {
    if args.adopt.is_some() {
        let message = format!("{} holds a cluster: only a new one can adopt a data directory", cluster.dir.display());
        return Err(Failure::wrong_use(message));
    }
    if let Some(engine) = args.engine.as_ref().filter(|e| **e != cluster.record.engine) {
        let message = format!("{} holds a cluster of {}, not {engine}", cluster.dir.display(), cluster.record.engine);
        return Err(Failure::wrong_use(message).hint("use another folder, or `trine local down --wipe` first"));
    }
    if !overrides.is_empty() {
        if let Some((process, _)) = cluster.processes().first() {
            let message =
                format!("{} runs (process {}); its settings can't be changed now", cluster.dir.display(), process.pid);
            return Err(Failure::wrong_use(message).hint("`trine local down` first"));
        }
        for (node, text) in merged(args, &cluster, &overrides)? {
            let fresh = node.with_extension("toml.new");
            fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &node)).map_err(|e| cant("write", &node, &e))?;
        }
    }
    for node in &cluster.nodes {
        let config = node.config()?;
        reach::check(&config, &node.dir)?;
        if node.agent().is_none() {
            ports::check(&config)?;
        }
    }
    Ok(cluster)
}

/// Every node's file with new settings, checked before any of them is written.
fn merged(args: &Up, cluster: &Cluster, overrides: &Table) -> Done<Vec<(PathBuf, String)>> {
    let files = cluster.nodes.iter().map(|node| {
        let path = node.dir.join(CONFIG_FILE);
        let old = fs::read_to_string(&path).map_err(|e| cant("read", &path, &e))?;
        let mut table: Table =
            toml::from_str(&old).map_err(|e| Failure::wrong_use(format!("{}: {}", path.display(), e.message())))?;
        settings::merge(&mut table, overrides.clone());
        let text = settings::write(&table)?;
        settings::check(&text, args.config.as_deref())?;
        Ok((path, text))
    });
    files.collect()
}

async fn bring_up(args: &Up, cluster: &Cluster, started: &mut Vec<Started>) -> Done<Uris> {
    let lock = cluster.lock()?;
    for node in &cluster.nodes {
        if node.agent().is_none() {
            started.push(node.start()?);
        }
    }
    drop(lock);
    let client = connect::local(cluster)?;
    let mut progress = Progress::new(cluster.nodes.iter().map(|n| n.name.clone()));
    let status = healthy(args, cluster, &client, started, &mut progress).await?;
    progress.finish(&status);
    Ok(client.uris().await?)
}

async fn healthy(
    args: &Up,
    cluster: &Cluster,
    client: &Client,
    started: &mut [Started],
    progress: &mut Progress,
) -> Done<Status> {
    let give_up = Instant::now() + Duration::from_secs(args.timeout);
    let mut last = None;
    loop {
        if let Some(failure) = started.iter_mut().find_map(Started::ended) {
            return Err(failure);
        }
        match client.status().await {
            Ok(status) if status.health == Health::Healthy => return Ok(status),
            Ok(status) => {
                progress.show(&status);
                last = Some(status);
            }
            // The agents are not there yet.
            Err(_) => progress.waiting("starting"),
        }
        if Instant::now() >= give_up {
            return Err(too_late(args.timeout, cluster, last.as_ref()));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn too_late(seconds: u64, cluster: &Cluster, last: Option<&Status>) -> Failure {
    let state = last.map_or_else(
        || "no agent answers".to_owned(),
        |s| {
            let node = |n: &trine_api::NodeStatus| match &n.problem {
                Some(problem) => format!("{} is {} ({problem})", n.name, n.state),
                None => format!("{} is {}", n.name, n.state),
            };
            format!("it is {}: {}", s.health, s.nodes.iter().map(node).collect::<Vec<_>>().join(", "))
        },
    );
    let logs = cluster.dir.join("n*/log");
    Failure::failed(format!("not healthy after {seconds} s: {state}"))
        .hint(format!("the logs are {}; --timeout gives it longer", logs.display()))
}

fn show(args: &Up, cluster: &Cluster, uris: &Uris) -> Done {
    if args.json {
        print::json(&serde_json::json!({
            "cluster": cluster.record.cluster,
            "dir": cluster.dir,
            "writer": uris.writer,
            "reader": uris.reader,
        }));
        return Ok(());
    }
    print::line(format!("{} is healthy", cluster.record.cluster));
    print::line(format!("  writer  {}", uris.writer));
    print::line(format!("  reader  {}", uris.reader));
    print::line(format!("  status  trine status --dir {}", cluster.dir.display()));
    print::line(format!("  stop    trine local down --dir {}", cluster.dir.display()));
    Ok(())
}
