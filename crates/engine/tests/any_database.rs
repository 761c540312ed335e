//! Databases as they are configured, run on a plain directory: the presets whose programs are installed, and a program
//! that does what a test wants.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trine_engine::guard::GuardCommand;
use trine_engine::volume::{Database, DatabaseSpec, DatabaseTable, Instance, Place, preset};
use trine_engine::{EngineError, Process};
use trine_platform::{BootClock, Clock};

const PASSWORD: &str = "abcDEF123abcDEF123";

struct Node {
    dir: TempDir,
    spec: DatabaseSpec,
}

fn guard() -> GuardCommand {
    GuardCommand { program: env!("CARGO_BIN_EXE_guard_for_tests").into(), args: Vec::new() }
}

fn place(dir: &Path) -> Place {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::create_dir_all(dir.join("run")).unwrap();
    fs::create_dir_all(dir.join("log")).unwrap();
    Place::of(dir, IpAddr::V4(Ipv4Addr::LOCALHOST), port, PASSWORD)
}

/// A database of a table on top of a preset; `None`: its program is not installed here.
fn node(base: Option<&str>, table: &str) -> Option<Node> {
    let dir = tempfile::Builder::new().prefix("trine-any").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let own = toml::from_str::<DatabaseTable>(table).unwrap().check().unwrap();
    let part = match base {
        Some(name) => own.over(preset(name).unwrap()),
        None => own,
    };
    let database: Database = part.complete().unwrap();
    match database.resolve(place(dir.path())) {
        Ok(spec) => Some(Node { dir, spec }),
        Err(e @ (EngineError::NoBinaries(_) | EngineError::Config(_))) if base.is_some() => {
            eprintln!("not tried: {e}");
            None
        }
        Err(e) => panic!("{}", e.chain()),
    }
}

/// The first data, made beside and put in place, as the engine does.
async fn bootstrap(spec: &DatabaseSpec) {
    let fresh = spec.place.dir.join("data.new");
    spec.with_data(&fresh).unwrap().initialise().await.map_err(|e| panic!("{}", e.chain())).unwrap();
    fs::rename(fresh, &spec.place.data).unwrap();
}

async fn gone(instance: &Instance) {
    let mut state = instance.process();
    let stopped = state.wait_for(|s| *s == Process::Stopped);
    tokio::time::timeout(Duration::from_secs(10), stopped).await.unwrap().unwrap();
}

/// What a client of this kind is answered, as the user that clients are given.
fn client(name: &str, spec: &DatabaseSpec, sql: &str) -> String {
    let port = spec.place.port.to_string();
    let shell = |script: &str| {
        let mut c = Command::new("sh");
        c.args(["-c", script, "sh", &port, sql]).env("PW", PASSWORD);
        c.output().unwrap()
    };
    let output = shell(match name {
        "redis" => "export REDISCLI_AUTH=\"$PW\"; redis-cli -p $1 $2",
        "postgres" => "PGPASSWORD=\"$PW\" psql -XAtq -h 127.0.0.1 -p $1 -U app -d app -c \"$2\"",
        "mariadb" => "MYSQL_PWD=\"$PW\" mariadb -N -h 127.0.0.1 -P $1 -u app app -e \"$2\"",
        "firebird" => "echo \"set heading off; $2; commit;\" | isql-fb -q -user app -password \"$PW\" 127.0.0.1/$1:app",
        _ => {
            "python3 -c 'import sys, base64, urllib.request as u\n\
              r = u.Request(\"http://127.0.0.1:\" + sys.argv[1], sys.argv[2].encode())\n\
              r.add_header(\"Authorization\", \"Basic \" + base64.b64encode((\"app:\" + sys.argv[3]).encode()).decode())\n\
              print(u.urlopen(r).read().decode())' \"$1\" \"$2\" \"$PW\""
        }
    });
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{name}: {sql}: {said} {}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A row of a client's, and how it is found again.
fn row(name: &str) -> (&'static [&'static str], &'static str) {
    match name {
        "redis" => (&["SET a 42"], "GET a"),
        "firebird" => (&["create table t (a int)", "insert into t values (42)"], "select a from t"),
        _ => (&["create table t (a int primary key)", "insert into t values (42)"], "select a from t"),
    }
}

/// From nothing to a killed one that starts again.
async fn whole_life(name: &str) {
    let Some(node) = node(Some(name), "") else { return };
    let spec = &node.spec;
    bootstrap(spec).await;
    let instance = Instance::new(spec.clone(), guard());
    let began = BootClock.now();
    instance.start().await.map_err(|e| panic!("{}", e.chain())).unwrap();
    eprintln!("{name} is ready after {:?}", BootClock.now().since(began));
    assert_eq!(*instance.process().borrow(), Process::Running);
    spec.ask(&spec.health.check).await.unwrap();
    assert!(instance.connect().await.is_ok());
    let (writes, read) = row(name);
    writes.iter().for_each(|sql| drop(client(name, spec, sql)));
    // The password is where only the database's user reads it.
    let (guard_pid, database) = instance.pids().unwrap();
    for pid in [guard_pid, database] {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains(PASSWORD), "{name}: {}", String::from_utf8_lossy(&line));
    }
    assert_eq!(fs::metadata(&spec.place.run).unwrap().mode() & 0o077, 0);

    // Its agent is started again.
    let again = Instance::new(spec.clone(), guard());
    assert!(again.attach().await.unwrap());
    again.start().await.unwrap();
    assert_eq!(again.pids(), Some((guard_pid, database)));

    match again.stop().await {
        // Firebird's exit code is 2 when somebody was connected.
        Ok(()) => assert!(matches!(again.ending().and_then(|e| e.code), Some(0 | 2)), "{:?}", again.ending()),
        Err(e) if name == "firebird" => {
            eprintln!("{e}");
            again.kill();
        }
        Err(e) => panic!("{e}"),
    }
    gone(&instance).await;
    instance.start().await.unwrap();
    instance.kill();
    gone(&instance).await;
    instance.start().await.map_err(|e| panic!("after a kill: {}", e.chain())).unwrap();
    assert!(client(name, spec, read).contains("42"), "a row is lost");
    instance.push(BootClock.now());
    gone(&instance).await;
    assert!(!Instance::new(spec.clone(), guard()).attach().await.unwrap());
    drop(node.dir);
}

/// `postgres --single` ends with 0 whatever became of its statements.
#[tokio::test]
async fn first_statements_that_fail_are_an_error() {
    let Some(node) = node(Some("postgres"), "files = { 'init.sql' = \"\"\"create role app logout;\n\n\"\"\" }") else {
        return;
    };
    let e = node.spec.initialise().await.unwrap_err().to_string();
    assert!(e.contains("syntax error") || e.contains("unrecognized role option"), "{e}");
    assert_eq!(fs::read_dir(&node.spec.place.data).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    whole_life("redis").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    whole_life("postgres").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb() {
    whole_life("mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firebird() {
    whole_life("firebird").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    whole_life("sqlite").await;
}

#[tokio::test]
async fn redis_keeps_what_it_acknowledged_and_wants_its_password() {
    let Some(node) = node(Some("redis"), "") else { return };
    bootstrap(&node.spec).await;
    let instance = Instance::new(node.spec.clone(), guard());
    let say = async |text: String| {
        let mut to = instance.connect().await.unwrap();
        to.write_all(text.as_bytes()).await.unwrap();
        let mut said = String::new();
        to.read_to_string(&mut said).await.unwrap();
        said
    };
    instance.start().await.unwrap();
    assert!(say("SET a 1\r\nQUIT\r\n".into()).await.contains("NOAUTH"));
    assert_eq!(say(format!("AUTH {PASSWORD}\r\nSET a 1\r\nQUIT\r\n")).await, "+OK\r\n+OK\r\n+OK\r\n");
    instance.kill();
    gone(&instance).await;
    instance.start().await.unwrap();
    assert_eq!(say(format!("AUTH {PASSWORD}\r\nGET a\r\nQUIT\r\n")).await, "+OK\r\n$1\r\n1\r\n+OK\r\n");
    instance.stop().await.unwrap();
}

/// The user that tests' programs run as.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "user = \"nobody\"" } else { "" }
}

fn shell(script: &str, rest: &str) -> Node {
    let table = format!("command = \"sh\"\nargs = ['-c', '''{script}''', 'sh', '{{run}}']\n{}\n{rest}", user());
    let node = node(None, &table).unwrap();
    fs::create_dir(&node.spec.place.data).unwrap();
    node
}

#[tokio::test]
async fn a_command_that_ends_at_once_is_an_error_with_its_last_words() {
    let node = shell("echo no room >&2; exit 3", "");
    for _ in 0..5 {
        let e = Instance::new(node.spec.clone(), guard()).start().await.unwrap_err().to_string();
        // Its exit code is lost when it was quicker than the agent.
        assert!(e.contains("did not start: it ended"), "{e}");
        assert!(e.contains("no room"), "{e}");
    }
}

#[tokio::test]
async fn one_that_is_never_ready_is_an_error_after_its_time() {
    let node = shell("sleep 60", "ready = { command = ['sh', '-c', 'echo still loading; exit 1'], within_ms = 300 }");
    let instance = Instance::new(node.spec.clone(), guard());
    let e = instance.start().await.unwrap_err().to_string();
    assert!(e.contains("300ms") && e.contains("still loading"), "{e}");
    instance.kill();
    gone(&instance).await;
}

#[tokio::test]
async fn one_that_hangs_is_noticed_after_so_many_failures() {
    let checks = "ready = { command = ['true'] }\n\
                  health = { command = ['sh', '-c', 'echo x >> \"$1/asked\"; exec sleep 9', 'sh', '{run}'], \
                  deadline_ms = 50, every_ms = 10, failures = 4 }";
    let node = shell("sleep 60", checks);
    let instance = Instance::new(node.spec.clone(), guard());
    instance.start().await.unwrap();
    let e = instance.until_hung().await.to_string();
    assert!(e.contains("50ms"), "{e}");
    assert_eq!(fs::read_to_string(node.spec.place.run.join("asked")).unwrap(), "x\n".repeat(4));
    instance.kill();
    gone(&instance).await;
}

#[tokio::test]
async fn a_stop_has_patience_and_an_end() {
    let rest = "ready = { command = ['sh', '-c', 'test -e \"$1/up\"', 'sh', '{run}'] }\nstop_signal = 'USR1'\nstop_patience_ms = 200";
    let node = shell("trap : USR1; : > \"$1/up\"; while :; do sleep 0.02; done", rest);
    let instance = Instance::new(node.spec.clone(), guard());
    instance.start().await.unwrap();
    let e = instance.stop().await.unwrap_err().to_string();
    assert!(e.contains("200ms"), "{e}");
    instance.kill();
    gone(&instance).await;

    let node = shell("trap 'exit 0' USR1; : > \"$1/up\"; while :; do sleep 0.02; done", rest);
    let instance = Instance::new(node.spec.clone(), guard());
    instance.start().await.unwrap();
    instance.stop().await.unwrap();
    assert_eq!(instance.ending().and_then(|e| e.code), Some(0));
}

#[tokio::test]
async fn what_has_lost_its_guard_is_found_where_it_works() {
    let node = shell("sleep 61 & sleep 61", "ready = { command = ['true'] }");
    let instance = Instance::new(node.spec.clone(), guard());
    instance.start().await.unwrap();
    let (guard_pid, first) = instance.pids().unwrap();
    let children = || {
        let pids = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
        pids.split_ascii_whitespace().map(|p| PathBuf::from(format!("/proc/{p}/exe"))).collect::<Vec<_>>()
    };
    // It counts as ready before the shell has come that far.
    let mut below = children();
    while below.len() < 2 {
        tokio::task::yield_now().await;
        below = children();
    }
    let kill = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    // A new agent that never knew the guard; both are killed before it looks.
    kill(guard_pid);
    kill(first);
    let another = Instance::new(node.spec.clone(), guard());
    assert!(!another.attach().await.unwrap());
    assert!(below.iter().all(|p| fs::read_link(p).is_err()), "{below:?}");
}

#[tokio::test]
async fn a_first_data_that_fails_leaves_nothing() {
    let init = "init = [['sh', '-c', 'mkdir \"$1/a\"; echo b > \"$1/a/b\"', 'sh', '{data}'], \
                ['sh', '-c', 'echo x > \"$1/x\"; echo that went wrong >&2; exit 7', 'sh', '{data}']]";
    let node = shell("sleep 60", init);
    let e = node.spec.initialise().await.unwrap_err().to_string();
    assert!(e.contains("that went wrong") && e.contains('7'), "{e}");
    assert_eq!(fs::read_dir(&node.spec.place.data).unwrap().count(), 0);

    let node =
        shell("sleep 60", "init = [['sh', '-c', ': > \"$1/x\"; sleep 9', 'sh', '{data}']]\ninit_deadline_ms = 1000");
    let e = node.spec.initialise().await.unwrap_err().to_string();
    assert!(e.contains("did not end within 1s"), "{e}");
    assert_eq!(fs::read_dir(&node.spec.place.data).unwrap().count(), 0);

    fs::write(node.spec.place.data.join("theirs"), "").unwrap();
    assert!(matches!(node.spec.initialise().await, Err(EngineError::IncompleteCopy { .. })));
    assert!(node.spec.place.data.join("theirs").exists(), "what was there was removed");
}

#[tokio::test]
async fn what_must_not_outlive_a_process_is_removed_before_each_start() {
    let node =
        shell("sleep 60", "ready = { command = ['true'] }\nremove = ['db.pid']\nfiles = { 'x.conf' = 'p={port}' }");
    fs::write(node.spec.place.data.join("db.pid"), "1").unwrap();
    fs::write(node.spec.place.data.join("db"), "1").unwrap();
    fs::create_dir_all(&node.spec.place.run).unwrap();
    fs::write(node.spec.place.run.join("old.sock"), "1").unwrap();
    let instance = Instance::new(node.spec.clone(), guard());
    instance.start().await.unwrap();
    let names = |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(&node.spec.place.data), ["db"]);
    assert_eq!(names(&node.spec.place.run), ["x.conf"]);
    let text = fs::read_to_string(node.spec.place.run.join("x.conf")).unwrap();
    assert_eq!(text, format!("p={}", node.spec.place.port));
    instance.kill();
    gone(&instance).await;
}
