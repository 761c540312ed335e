//! Databases in containers, on a plain directory. They need Docker, and say so when there is none.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trine_engine::Process;
use trine_engine::guard::GuardCommand;
use trine_engine::volume::{DatabaseSpec, DatabaseTable, Instance, Place, preset};
use trine_platform::{BootClock, Clock};

struct Node {
    _dir: TempDir,
    spec: DatabaseSpec,
    docker: Docker,
}

/// The daemon that the script starts when none runs, with an image of this machine's Redis.
#[derive(Clone)]
struct Docker {
    socket: PathBuf,
}

impl Docker {
    fn start() -> Option<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/docker-for-tests.sh");
        let output = Command::new("bash").arg(script).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            eprintln!("NOT TRIED, there is no Docker here: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self { socket: said.trim().into() })
    }

    fn command(&self, args: &[&str]) -> String {
        let at = format!("unix://{}", self.socket.display());
        let output = Command::new("docker").args(["-H", &at]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

fn guard() -> GuardCommand {
    GuardCommand { program: env!("CARGO_BIN_EXE_guard_for_tests").into(), args: Vec::new() }
}

fn node(base: Option<&str>, table: &str) -> Option<Node> {
    let docker = Docker::start()?;
    let dir = tempfile::Builder::new().prefix("trine-box").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    for folder in ["run", "log", "data"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::set_permissions(dir.path().join("data"), Permissions::from_mode(0o777)).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let table =
        if table.contains("socket =") { table.to_owned() } else { format!("socket = {:?}\n{table}", docker.socket) };
    let own = toml::from_str::<DatabaseTable>(&table).unwrap().check().map_err(|e| panic!("{e}")).unwrap();
    let part = base.map_or_else(|| own.clone(), |name| own.clone().over(preset(name).unwrap()));
    let place = Place::of(dir.path(), IpAddr::V4(Ipv4Addr::LOCALHOST), port, "abcDEF123abcDEF123").named("tests", "n1");
    let spec = part.complete().unwrap().resolve(place).map_err(|e| panic!("{}", e.chain())).unwrap();
    Some(Node { _dir: dir, spec, docker })
}

const REDIS: &str = "image = 'trine-tests/redis:1'\nuser = '999:999'\npull = 'never'";

async fn started(node: &Node) -> Instance {
    let instance = Instance::new(node.spec.clone(), guard());
    instance.start().await.map_err(|e| panic!("{}", e.chain())).unwrap();
    instance
}

async fn refused(node: &Node) -> String {
    let instance = Instance::new(node.spec.clone(), guard());
    let e = instance.start().await.unwrap_err().chain();
    instance.kill();
    gone(&instance).await;
    assert!(!instance.attach().await.unwrap());
    e
}

async fn gone(instance: &Instance) {
    let mut state = instance.process();
    let stopped = state.wait_for(|s| *s == Process::Stopped);
    tokio::time::timeout(Duration::from_secs(10), stopped).await.unwrap().unwrap();
}

impl Node {
    fn id(&self) -> String {
        let label = format!("label=trine.dir={}", self.spec.place.dir.display());
        self.docker.command(&["ps", "-aq", "--no-trunc", "--filter", &label])
    }

    /// Processes in the container's cgroups.
    fn processes(&self, id: &str) -> Vec<String> {
        assert_eq!(id.len(), 64, "{id}");
        let groups = |e: &fs::DirEntry| fs::read_to_string(e.path().join("cgroup")).unwrap_or_default();
        let all = fs::read_dir("/proc").unwrap().flatten().filter(|e| groups(e).contains(id));
        let stat = |e: fs::DirEntry| fs::read_to_string(e.path().join("stat")).unwrap_or_default();
        // What is left of an exited process until its parent looks holds nothing.
        let stats = all.map(stat).filter(|s| !s.is_empty() && !s.contains(") Z "));
        stats.map(|s| s.chars().take(60).collect()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_life() {
    let Some(node) = node(Some("redis"), REDIS) else { return };
    let began = BootClock.now();
    let instance = started(&node).await;
    eprintln!("ready after {:?}", BootClock.now().since(began));
    let id = node.id();
    assert!(!node.processes(&id).is_empty());
    assert!(node.spec.place.data.join("appendonlydir").exists());
    let log = fs::read_to_string(node.spec.place.dir.join("log/database.log")).unwrap();
    assert!(log.contains("Ready to accept connections"), "{log}");

    // Its agent is started again.
    let again = Instance::new(node.spec.clone(), guard());
    assert!(again.attach().await.unwrap());
    again.start().await.unwrap();
    assert_eq!(again.pids(), instance.pids());

    again.stop().await.map_err(|e| panic!("{e}")).unwrap();
    assert_eq!(again.ending().and_then(|e| e.code), Some(0), "{:?}", again.ending());
    gone(&instance).await;
    assert!(!again.attach().await.unwrap());
    assert_eq!(node.id(), "", "the container is removed");

    // Killed, and by the deadline.
    for end in ["kill", "deadline"] {
        instance.start().await.map_err(|e| panic!("{}", e.chain())).unwrap();
        let id = node.id();
        let began = BootClock.now();
        if end == "kill" {
            instance.kill()
        } else {
            instance.push(BootClock.now())
        }
        gone(&instance).await;
        eprintln!("{end}: gone after {:?}", BootClock.now().since(began));
        assert_eq!(node.processes(&id), Vec::<String>::new(), "{end}");
        // Nobody starts it again behind the guard's back.
        assert_eq!(node.docker.command(&["start", &id]), "", "{end}: it was started");
        assert!(!instance.attach().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_wrong_is_named() {
    let Some(bad) = node(None, "image = 'trine-tests/none:1'\nport = 1\npull = 'never'") else { return };
    let e = refused(&bad).await;
    assert!(e.contains("trine-tests/none:1 is not on this machine") && e.contains("database.pull"), "{e}");
    let bad = node(None, "image = 'localhost:1/none:1'\nport = 1").unwrap();
    let e = refused(&bad).await;
    assert!(e.contains("localhost:1/none:1 can't be pulled"), "{e}");
    let bad = node(None, "socket = '/no/such.sock'\nimage = 'x:1'\nport = 1").unwrap();
    let e = refused(&bad).await;
    assert!(e.contains("no socket at /no/such.sock") && e.contains("database.socket"), "{e}");
    let bad = node(Some("redis"), &format!("{REDIS}\nargs = ['redis-server', '--no-such-setting', 'x']")).unwrap();
    let e = refused(&bad).await;
    assert!(e.contains("exit code 1") && e.contains("Bad directive"), "{e}");
    let bad = node(Some("redis"), &format!("{REDIS}\nargs = ['no-such-program']")).unwrap();
    let e = refused(&bad).await;
    assert!(e.contains("no-such-program") && e.contains("database.args"), "{e}");
    let bad = node(Some("redis"), &format!("{REDIS}\nmounts = ['/no/such/folder:/x:ro']")).unwrap();
    let e = refused(&bad).await;
    assert!(e.contains("/no/such/folder") && e.contains("database.mounts"), "{e}");
    let bad = node(Some("redis"), &format!("{REDIS}\nnetwork = 'no-such-network'")).unwrap();
    let e = refused(&bad).await;
    assert!(e.contains("no-such-network") && e.contains("database.network"), "{e}");
    let bad = node(Some("redis"), REDIS).unwrap();
    let _taken = TcpListener::bind(("127.0.0.1", bad.spec.place.port)).unwrap();
    let e = refused(&bad).await;
    assert!(e.contains("ports.database: 127.0.0.1:"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_the_host_network_mounts_and_a_check_inside() {
    let table = format!(
        "{REDIS}\nnetwork = 'host'\nmemory_mb = 64\ncpus = 0.5\nmounts = ['/etc:/machine:ro']\n\
         ready = {{ command = ['test', '-e', '/machine/hosts'] }}\nenv = {{ HERE = '{{data}}' }}"
    );
    let Some(node) = node(Some("redis"), &table) else { return };
    let instance = started(&node).await;
    node.spec.ask(&node.spec.health.check).await.unwrap();
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.RestartPolicy.Name}} {{.Config.User}} {{.Config.Env}}";
    let said = node.docker.command(&["inspect", "-f", format, &node.id()]);
    assert!(said.starts_with("67108864 500000000 no 999:999 [") && said.contains("HERE=/data"), "{said}");
    instance.kill();
    gone(&instance).await;
    assert!(!instance.attach().await.unwrap());
}

/// A daemon in between, which takes a start, and asks the real one only after it is told: `sleepy` as dockerd may be.
fn sleepy(real: PathBuf, at: &Path) -> (Arc<AtomicBool>, Arc<AtomicBool>) {
    let (asked, go_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let told = (Arc::clone(&asked), Arc::clone(&go_on));
    let listener = tokio::net::UnixListener::bind(at).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (real, (asked, go_on)) = (real.clone(), told.clone());
            tokio::spawn(async move {
                let mut daemon = tokio::net::UnixStream::connect(real).await.unwrap();
                let (mut from, mut to) = client.into_split();
                let (mut back, mut there) = daemon.split();
                let ahead = async {
                    let mut buffer = [0; 65536];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        if buffer[..n].starts_with(b"POST") && String::from_utf8_lossy(&buffer[..n]).contains("/start")
                        {
                            asked.store(true, Ordering::SeqCst);
                            while !go_on.load(Ordering::SeqCst) {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                        }
                        there.write_all(&buffer[..n]).await.unwrap();
                    }
                    // Whoever asked may be gone: the daemon has the request all the same.
                    tokio::time::sleep(Duration::from_secs(3)).await;
                };
                let behind = async {
                    let _ = tokio::io::copy(&mut back, &mut to).await;
                };
                tokio::join!(ahead, behind);
            });
        }
    });
    (asked, go_on)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_the_daemon_gets_to_after_the_end_comes_to_nothing() {
    let Some(docker) = Docker::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("sleepy.sock");
    let (asked, go_on) = sleepy(docker.socket.clone(), &at);
    let node = node(Some("redis"), &format!("socket = {at:?}\n{REDIS}")).unwrap();
    let instance = Instance::new(node.spec.clone(), guard());
    let starting = tokio::spawn({
        let instance = instance.clone();
        async move { instance.start().await }
    });
    while !asked.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let node = Node { docker, ..node };
    let id = node.id();
    instance.push(BootClock.now());
    gone(&instance).await;
    assert!(starting.await.unwrap().is_err());
    // Only now, when the node has said that nothing runs, the daemon gets to it.
    go_on.store(true, Ordering::SeqCst);
    let began = BootClock.now();
    while BootClock.now().since(began) < Duration::from_secs(2) {
        assert_eq!(node.processes(&id).len(), 0, "it was started");
        assert!(tokio::net::TcpStream::connect(("127.0.0.1", node.spec.place.port)).await.is_err());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let state = node.docker.command(&["inspect", "-f", "{{.State.Status}} {{.State.StartedAt}}", &id]);
    assert!(state.starts_with("created 0001"), "{state}");
    assert!(!instance.attach().await.unwrap());
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_whoever_dies_or_is_frozen() {
    use rustix::process::Signal;
    let Some(node) = node(Some("redis"), REDIS) else { return };
    for case in ["guard killed", "guard frozen", "holder frozen", "paused", "all killed"] {
        let instance = started(&node).await;
        let (guard_pid, holder) = instance.pids().unwrap();
        let id = node.id();
        match case {
            "guard killed" => signal(guard_pid, Signal::KILL),
            "guard frozen" => signal(guard_pid, Signal::STOP),
            "holder frozen" => signal(holder, Signal::STOP),
            "paused" => drop(node.docker.command(&["pause", &id])),
            _ => {
                // Frozen first: none of them sees another's end.
                [guard_pid, holder].iter().for_each(|p| signal(*p, Signal::STOP));
                [guard_pid, holder].iter().for_each(|p| signal(*p, Signal::KILL));
            }
        }
        match case {
            "guard killed" | "all killed" => {}
            "guard frozen" => instance.kill(),
            _ => instance.push(BootClock.now()),
        }
        gone(&instance).await;
        assert_eq!(node.processes(&id), Vec::<String>::new(), "{case}");
        assert!(!instance.attach().await.unwrap());
        assert_eq!(node.id(), "", "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_agent_left_is_found_and_others_are_not_touched() {
    use rustix::process::Signal;
    let Some(node) = node(Some("redis"), REDIS) else { return };
    let other = self::node(Some("redis"), REDIS).unwrap();
    let (instance, neighbour) = (started(&node).await, started(&other).await);
    let id = node.id();
    let (guard_pid, holder) = instance.pids().unwrap();
    // Nobody of this node is left to see it; the record is lost, too.
    drop(instance);
    [guard_pid, holder].iter().for_each(|p| signal(*p, Signal::STOP));
    let record = node.spec.place.dir.join("run/containers.json");
    fs::remove_file(&record).unwrap();
    let another = Instance::new(node.spec.clone(), guard());
    [guard_pid, holder].iter().for_each(|p| signal(*p, Signal::KILL));
    assert!(!another.attach().await.unwrap());
    assert_eq!(node.processes(&id), Vec::<String>::new());
    assert_eq!(node.id(), "");
    assert!(!other.processes(&other.id()).is_empty());
    neighbour.kill();
    gone(&neighbour).await;
    assert!(!neighbour.attach().await.unwrap());
}
