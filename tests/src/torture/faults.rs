//! Does what a plan says, and makes it good again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;

use super::kind::{Kind, Role};
use super::plan::{Planned, Step};
use crate::cluster::{Cluster, DATABASE_PORT, PEER_PORT};
use crate::disks::OwnDisk;
use crate::process::{self, Process};
use crate::status::Status;
use crate::wait::wait_until;

/// How much of a second a slow disk stands still, and works.
const SLOW: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(100));

/// Whom a step strikes, now that it is known who leads.
#[derive(Clone, Debug)]
pub struct Victim {
    /// The node. For what strikes all of them: the primary.
    pub node: String,
    /// The other two.
    pub others: [String; 2],
    /// Who led at that moment.
    pub primary: String,
}

impl Victim {
    /// The one that the step means in this state of the cluster.
    ///
    /// # Errors
    /// There is no primary, or not three nodes.
    pub fn of(step: &Step, status: &Status) -> Result<Self> {
        let primary = status.primary.clone().context("there is no primary")?;
        let standbys = status.standbys();
        let node = match step.on {
            Role::Primary | Role::Cluster => primary.clone(),
            Role::Standby => standbys.get(step.salt as usize % 2).context("there is no standby")?.clone(),
        };
        let mut others = status.nodes.iter().map(|n| n.name.clone()).filter(|n| *n != node);
        let (Some(a), Some(b)) = (others.next(), others.next()) else { bail!("a cluster of three is needed") };
        Ok(Self { node, others: [a, b], primary })
    }

    fn other(&self, salt: u32) -> &str {
        &self.others[salt as usize % 2]
    }
}

/// What a step has done so far that must be made good.
#[derive(Debug, Default)]
pub struct Harm {
    /// Nodes of which every process was killed.
    lost: BTreeSet<String>,
    /// Nodes whose agent was killed alone.
    agents: BTreeSet<String>,
    /// Nodes whose disk hangs: whoever wants to change a file there waits, this process too.
    hung: BTreeSet<String>,
}

/// A file that fills a node's disk.
fn filler(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.node(node).dir.join("filler")
}

fn disk<'a>(cluster: &'a Cluster, node: &str) -> Result<&'a OwnDisk> {
    cluster.disk_of(node).with_context(|| format!("{node} has no file system of its own"))
}

/// A process of the database that is not its first, or what holds its container.
fn database_process(cluster: &Cluster, node: &str, salt: u32) -> Result<Process> {
    let first = cluster.database(node)?;
    let mut found: Vec<Process> = process::tree(first).into_iter().filter(|p| p.pid != first).collect();
    if cluster.is_on_volume() {
        found.extend(cluster.guarded(node).ok().filter(|p| p.pid != first));
    }
    found.sort_by_key(|p| p.pid);
    let at = salt as usize % found.len().max(1);
    if found.is_empty() { bail!("{node}'s database has no processes of its own") } else { Ok(found.swap_remove(at)) }
}

/// Every process of these nodes, as if the power had failed. What waits for a disk that hangs ends when the disk goes on.
fn kill_everything(cluster: &Cluster, nodes: &[&str]) -> Result<()> {
    let there: Vec<Process> = nodes.iter().flat_map(|n| cluster.node(n).processes()).collect();
    process::kill_all(&there)?;
    // And what they have just begun.
    let there: Vec<Process> = nodes.iter().flat_map(|n| cluster.node(n).processes()).collect();
    process::kill_all(&there)
}

/// Begins a fault; what exactly was done.
///
/// # Errors
/// It can't be done: what it strikes is not there.
pub fn strike(cluster: &Cluster, fault: Planned, victim: &Victim, harm: &mut Harm) -> Result<String> {
    let node = victim.node.as_str();
    let other = victim.other(fault.salt);
    let at = |what: &str| format!("{node}: {what}");
    let send = |pid: u32, signal: Signal, what: &str| -> Result<String> {
        cluster.signal(pid, signal)?;
        Ok(at(&format!("{what} ({pid}) {}", if signal == Signal::KILL { "killed" } else { "frozen" })))
    };
    match fault.kind {
        Kind::DatabaseKilled => send(cluster.database(node)?, Signal::KILL, "database"),
        Kind::DatabaseFrozen => send(cluster.database(node)?, Signal::STOP, "database"),
        Kind::GuardKilled => send(cluster.guard(node)?, Signal::KILL, "guard"),
        Kind::GuardFrozen => send(cluster.guard(node)?, Signal::STOP, "guard"),
        Kind::AgentFrozen => send(cluster.agent(node)?, Signal::STOP, "agent"),
        Kind::AgentKilled => {
            harm.agents.insert(node.to_owned());
            send(cluster.agent(node)?, Signal::KILL, "agent")
        }
        Kind::ProcessKilled | Kind::ProcessFrozen => {
            let signal = if fault.kind == Kind::ProcessKilled { Signal::KILL } else { Signal::STOP };
            let process = database_process(cluster, node, fault.salt)?;
            send(process.pid, signal, &process.title)
        }
        Kind::NodeFrozen => {
            cluster.signal_node(node, Signal::STOP)?;
            Ok(at("every process frozen"))
        }
        Kind::NodeLost => {
            harm.lost.insert(node.to_owned());
            kill_everything(cluster, &[node])?;
            Ok(at("every process killed"))
        }
        Kind::TwoLost => {
            harm.lost.extend([node.to_owned(), other.to_owned()]);
            kill_everything(cluster, &[node, other])?;
            Ok(format!("{node}, {other}: every process killed"))
        }
        Kind::PowerOff => {
            let all: Vec<&str> = cluster.nodes().iter().map(|n| n.name.as_str()).collect();
            harm.lost.extend(all.iter().map(|n| (*n).to_owned()));
            kill_everything(cluster, &all)?;
            Ok("every process of every node killed".to_owned())
        }
        Kind::DiskHangs => {
            disk(cluster, node)?.freeze()?;
            harm.hung.insert(node.to_owned());
            Ok(at("disk hangs"))
        }
        Kind::DiskFull if harm.hung.contains(node) => bail!("{node}'s disk hangs"),
        Kind::DiskFull => {
            fill(cluster, node)?;
            Ok(at("disk full"))
        }
        Kind::MountLost => {
            tear_off(cluster, node)?;
            Ok(at("mount torn off"))
        }
        // These go on until the step is over: `during` does them.
        Kind::DiskSlow => disk(cluster, node).map(|_| at("disk slow")),
        Kind::Switchover | Kind::Failover | Kind::Rebuild | Kind::RollingRestart => Ok(String::new()),
        _ => cut(cluster, fault, victim),
    }
}

/// Faults of the network.
fn cut(cluster: &Cluster, fault: Planned, victim: &Victim) -> Result<String> {
    let (switch, node, other) = (cluster.switch(), victim.node.as_str(), victim.other(fault.salt));
    match fault.kind {
        Kind::Isolated => switch.cut(node).map(|()| format!("{node}: cable pulled")),
        Kind::Deaf => switch.deafen(node).map(|()| format!("{node}: hears nothing")),
        Kind::Mute => switch.mute(node).map(|()| format!("{node}: is not heard")),
        Kind::CutFromNodes => {
            victim.others.iter().try_for_each(|o| switch.cut_pair(node, o))?;
            Ok(format!("{node}: cut from {}, not from clients", victim.others.join(" and ")))
        }
        Kind::PairCut => switch.cut_pair(node, other).map(|()| format!("{node}: cut from {other}")),
        Kind::HalfPairCut => switch.cut_one_way(node, other).map(|()| format!("{node}: not heard by {other}")),
        Kind::PeersCut => switch.cut_port(node, PEER_PORT).map(|()| format!("{node}: agents don't reach it")),
        Kind::ReplicationCut => {
            switch.cut_port(node, DATABASE_PORT).map(|()| format!("{node}: databases don't reach it"))
        }
        Kind::PacketLoss => {
            let per_mille = [10, 30, 100, 200, 400][fault.salt as usize % 5];
            switch.lose_packets(node, per_mille)?;
            Ok(format!("{node}: {per_mille} of 1000 packets lost"))
        }
        Kind::AllCut => {
            let nodes: Vec<&str> = cluster.nodes().iter().map(|n| n.name.as_str()).collect();
            for (at, a) in nodes.iter().enumerate() {
                nodes.iter().skip(at + 1).try_for_each(|b| switch.cut_pair(a, b))?;
            }
            Ok("no node reaches another".to_owned())
        }
        kind => bail!("{kind:?} is no fault of the network"),
    }
}

/// A disk that hangs and goes on by turns, until it is told to stop.
pub fn slow_disk(cluster: &Cluster, node: &str, stop: &AtomicBool) {
    let Some(disk) = cluster.disk_of(node) else { return };
    while !stop.load(Ordering::Relaxed) {
        // Another fault of the same step may have it frozen already.
        if disk.freeze().is_ok() {
            thread::sleep(SLOW.0);
            let _ = disk.thaw();
        }
        thread::sleep(SLOW.1);
    }
}

/// Ends the mount that a node's database is on, whatever uses it. The kernel gives up a FUSE connection before it looks whether the
/// mount can go, which it can't: the database's files are open.
fn tear_off(cluster: &Cluster, node: &str) -> Result<()> {
    let at = cluster.node(node).data();
    let mounted = |table: String| table.lines().any(|l| l.split(' ').nth(4) == at.to_str());
    if !mounted(fs::read_to_string("/proc/self/mountinfo")?) {
        bail!("{node} has nothing mounted");
    }
    // `umount` says that it is busy.
    let _ = Command::new("umount").args(["-i", "-f"]).arg(&at).stdin(Stdio::null()).output()?;
    match fs::read_dir(&at) {
        Ok(_) if mounted(fs::read_to_string("/proc/self/mountinfo")?) => bail!("{node}'s mount still works"),
        _ => Ok(()),
    }
}

/// Takes all that is free, in large pieces and then in small ones.
fn fill(cluster: &Cluster, node: &str) -> Result<()> {
    let path = filler(cluster, node);
    let mut file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let mut end = 0;
    for piece in [1_u64 << 28, 1 << 20, 1 << 12] {
        while fallocate(&file, FallocateFlags::empty(), end, piece).is_ok() {
            end += piece;
        }
    }
    // What can be had by writing only.
    let _ = file.write_all(&vec![0; 1 << 16]);
    Ok(())
}

/// Makes everything good again, and starts what was killed, as a service manager would. Agents that are gone and that
/// nobody killed: their nodes.
///
/// # Errors
/// The system refuses, or an agent can't be started.
pub fn heal(cluster: &Cluster, harm: &Harm) -> Result<Vec<String>> {
    for n in cluster.nodes() {
        if let Some(disk) = cluster.disk_of(&n.name) {
            // That it does not hang is what is wanted.
            let _ = disk.thaw();
        }
        let _ = fs::remove_file(filler(cluster, &n.name));
    }
    cluster.switch().heal()?;
    for n in cluster.nodes() {
        cluster.signal_node(&n.name, Signal::CONT)?;
    }
    let lost: Vec<&str> = harm.lost.iter().map(String::as_str).collect();
    cluster.kill_nodes(&lost)?;
    let mut ended = Vec::new();
    for n in cluster.nodes() {
        if cluster.agent(&n.name).is_ok() {
            continue;
        }
        if !harm.lost.contains(&n.name) && !harm.agents.contains(&n.name) {
            ended.push(n.name.clone());
        }
        wait_until(&format!("{} to start", n.name), Duration::from_secs(10), || {
            cluster.start_node(&n.name).map(|()| true)
        })?;
    }
    Ok(ended)
}
