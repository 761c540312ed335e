//! Network namespaces: machines' networks on one machine, and what can go wrong with them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Process};

/// Every namespace made here is called so, then its maker's process number: leftovers of dead makers can be told.
const PREFIX: &str = "trinetest";

/// Runs a command, and gives its output.
///
/// # Errors
/// It can't be run, or it fails; with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(line: &str) -> Result<()> {
    run(Command::new("ip").args(line.split_whitespace())).map(drop)
}

/// What these tests need and this machine lacks; empty when all is there.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root (or a user namespace: `make test` makes one where the system allows it)".into());
    }
    for (tool, package) in [("ip", "iproute2"), ("iptables", "iptables"), ("nsenter", "util-linux"), ("mount", "mount")]
    {
        if !on_path(tool) {
            missing.push(format!("the program {tool} (package {package})"));
        }
    }
    missing
}

/// Is there such a program?
#[must_use]
pub fn on_path(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|d| PathBuf::from(d).join(tool).is_file())
}

/// One network namespace; deleted, with every process in it, when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one, with its loopback up.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(purpose: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}-{purpose}", process::own_id());
        ip(&format!("netns add {name}"))?;
        let made = Self { name };
        ip(&format!("-n {} link set lo up", made.name))?;
        Ok(made)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}", self.name))
    }

    /// A command that will run in this network. Only the network: files and mounts are everybody's.
    #[must_use]
    pub fn command(&self, program: &std::ffi::OsStr) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        c
    }

    /// Runs the future that this makes, in this network.
    ///
    /// # Errors
    /// It does.
    pub fn block_on<T: Send + 'static>(&self, what: impl AsyncFnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        self.enter(move || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(what()))
    }

    /// Runs something of this process itself in this network, in a thread of its own.
    ///
    /// # Errors
    /// The thread can't get there, or what it does fails.
    pub fn enter<T: Send + 'static>(&self, what: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        self.spawn(what).join().map_err(|_| anyhow::anyhow!("a thread in {} panicked", self.name))?
    }

    /// As [`Self::enter`], without waiting for its end.
    pub fn spawn<T: Send + 'static>(&self, what: impl FnOnce() -> Result<T> + Send + 'static) -> JoinHandle<Result<T>> {
        let path = self.path();
        std::thread::spawn(move || {
            let file = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            let network = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(network)).context("entering a network")?;
            what()
        })
    }

    /// The processes in it.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        processes_of(&self.path())
    }

    /// Ends every process in it, and waits until they are gone.
    pub fn kill_all(&self) {
        kill_in(&self.path());
    }

    fn iptables(&self, rule: &str) -> Result<()> {
        let line = format!("iptables -w {rule}");
        let mut parts = line.split_whitespace();
        let program = parts.next().unwrap_or_default();
        run(self.command(program.as_ref()).args(parts)).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill_all();
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn processes_of(path: &std::path::Path) -> Vec<Process> {
    let Ok(ours) = fs::metadata(path) else { return Vec::new() };
    process::all()
        .into_iter()
        .filter(|p| {
            fs::metadata(format!("/proc/{}/ns/net", p.pid))
                .is_ok_and(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino()))
        })
        .collect()
}

fn kill_in(path: &std::path::Path) {
    let _ = crate::wait::wait_until("the namespace's processes to end", std::time::Duration::from_secs(10), || {
        let there: Vec<Process> = processes_of(path).into_iter().filter(|p| p.state != 'Z').collect();
        process::kill_all(&there)?;
        Ok(there.is_empty())
    });
}

/// Removes the namespaces, and what runs in them, of test runs that were themselves killed.
pub fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let maker = name.strip_prefix(PREFIX).and_then(|r| r.split('-').nth(1)).and_then(|pid| pid.parse().ok());
        if let Some(maker) = maker
            && maker != process::own_id()
            && !Process::alive(maker)
        {
            kill_in(&PathBuf::from("/run/netns").join(&name));
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Machines on one switch: each in a namespace of its own.
#[derive(Debug)]
pub struct Switch {
    /// By the machine's name.
    machines: BTreeMap<String, (Namespace, String)>,
    /// Holds the bridge. Dropped last.
    _hub: Namespace,
}

impl Switch {
    /// A switch with these machines: (name, address in 10.77.0.0/24).
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(machines: &[(String, String)]) -> Result<Self> {
        let hub = Namespace::new("hub")?;
        ip(&format!("-n {} link add br0 type bridge", hub.name()))?;
        ip(&format!("-n {} link set br0 up", hub.name()))?;
        let mut made = BTreeMap::new();
        for (name, address) in machines {
            let ns = Namespace::new(name)?;
            ip(&format!("-n {} link add name p-{name} type veth peer name eth0 netns {}", hub.name(), ns.name()))?;
            ip(&format!("-n {} link set p-{name} master br0 up", hub.name()))?;
            ip(&format!("-n {} addr add {address}/24 dev eth0", ns.name()))?;
            ip(&format!("-n {} link set eth0 up", ns.name()))?;
            made.insert(name.clone(), (ns, address.clone()));
        }
        Ok(Self { machines: made, _hub: hub })
    }

    fn get(&self, machine: &str) -> &(Namespace, String) {
        self.machines.get(machine).unwrap_or_else(|| panic!("no machine is called {machine}"))
    }

    /// A machine's network.
    #[must_use]
    pub fn namespace(&self, machine: &str) -> &Namespace {
        &self.get(machine).0
    }

    /// Nothing of `from` reaches `to` any more. (Everything is dropped where it arrives: a sender notices nothing.)
    ///
    /// # Errors
    /// iptables refuses.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        self.get(to).0.iptables(&format!("-A INPUT -s {} -j DROP", self.get(from).1))
    }

    /// Nothing passes between the two.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn cut_pair(&self, a: &str, b: &str) -> Result<()> {
        self.cut_one_way(a, b)?;
        self.cut_one_way(b, a)
    }

    /// The machine's cable is pulled.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn cut(&self, machine: &str) -> Result<()> {
        self.others(machine).try_for_each(|other| self.cut_pair(machine, other))
    }

    /// The machine still sends, and hears nothing.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn deafen(&self, machine: &str) -> Result<()> {
        self.others(machine).try_for_each(|other| self.cut_one_way(other, machine))
    }

    /// The machine still hears, and nothing that it sends arrives.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn mute(&self, machine: &str) -> Result<()> {
        self.others(machine).try_for_each(|other| self.cut_one_way(machine, other))
    }

    /// Nothing to or from this TCP port passes between the machine and any other; all else does.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn cut_port(&self, machine: &str, port: u16) -> Result<()> {
        for at in self.machines.keys() {
            let sources: Vec<&str> = if at == machine { self.others(machine).collect() } else { vec![machine] };
            for from in sources {
                for side in ["--sport", "--dport"] {
                    let from = &self.get(from).1;
                    self.get(at).0.iptables(&format!("-A INPUT -s {from} -p tcp {side} {port} -j DROP"))?;
                }
            }
        }
        Ok(())
    }

    /// Of all that the machine sends and is sent, so many of a thousand packets are lost.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn lose_packets(&self, machine: &str, per_mille: u32) -> Result<()> {
        let probability = f64::from(per_mille) / 1000.0;
        let lose = format!("-m statistic --mode random --probability {probability} -j DROP");
        self.others(machine).try_for_each(|other| {
            self.get(machine).0.iptables(&format!("-A INPUT -s {} {lose}", self.get(other).1))?;
            self.get(other).0.iptables(&format!("-A INPUT -s {} {lose}", self.get(machine).1))
        })
    }

    /// Of the large packets (more than 1000 bytes) that one machine sends another, so many a second pass, and the rest are lost.
    /// Small ones pass: heartbeats and acknowledgements, but not much data.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn narrow(&self, from: &str, to: &str, a_second: u32) -> Result<()> {
        let large = format!("-s {} -m length --length 1001:", self.get(from).1);
        let to = &self.get(to).0;
        to.iptables(&format!("-A INPUT {large} -m limit --limit {a_second}/second --limit-burst 1 -j ACCEPT"))?;
        to.iptables(&format!("-A INPUT {large} -j DROP"))
    }

    /// Everything passes again, everywhere.
    ///
    /// # Errors
    /// iptables refuses.
    pub fn heal(&self) -> Result<()> {
        self.machines.values().try_for_each(|(ns, _)| ns.iptables("-F INPUT"))
    }

    fn others<'a>(&'a self, machine: &'a str) -> impl Iterator<Item = &'a str> {
        self.machines.keys().map(String::as_str).filter(move |m| *m != machine)
    }
}
