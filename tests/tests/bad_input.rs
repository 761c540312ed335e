//! What people, disks and strangers get wrong: a clear error, the right exit code, nothing overwritten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use trine_tests::scenario::alone;
use trine_tests::{Cluster, DiskKind, Options, Scenario, namespace, postgres, scenario, wait_until};

const SOON: Duration = Duration::from_secs(30);
const FAILED: i32 = 1;
const WRONG_USE: i32 = 2;

/// Every file below a directory, with its size and when it was changed: "nothing overwritten" means that this stays.
fn contents(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
            let m = fs::symlink_metadata(&path).unwrap();
            if m.is_dir() {
                todo.push(path);
            } else {
                found.insert(path, (m.size(), m.mtime(), m.mtime_nsec()));
            }
        }
    }
    found
}

/// It ended with this code, and its message has all of these words.
fn refused(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "ended with {} instead of {code}, and said: {said}", output.status);
    for word in words {
        ensure!(said.contains(word), "the message does not contain {word:?}: {said}");
    }
    ensure!(!said.contains("panicked"), "it panicked: {said}");
    Ok(())
}

/// The files of a new cluster, nothing started.
fn files_only(name: &str) -> Result<Cluster> {
    let options = Options::network();
    let cluster = Cluster::lay_out(name, &options)?;
    cluster.init(&options)?;
    Ok(cluster)
}

#[test]
fn wrong_configuration_is_refused_by_name() -> Result<()> {
    let _turn = alone()?;
    let cluster = files_only("config")?;
    let path = cluster.config("n1");
    let good = fs::read_to_string(&path)?;
    let file = path.to_string_lossy().into_owned();
    let with = |extra: &str| format!("{good}\n{extra}\n");
    let twice = good.replacen("\"n2\"", "\"n3\"", 1);
    let cases: &[(String, &[&str])] = &[
        (format!("colour = \"red\"\n{good}"), &["colour"]),
        (with("[timing]\nleese_ms = 5"), &["leese_ms"]),
        (with("[sync]\nacks = \"two\""), &["acks"]),
        (with("[sync]\nacks = 3"), &["acks"]),
        (with("[sync]\ndurability = \"maybe\""), &["durability", "strict", "available"]),
        (with("[timing]\nlease_ms = 1"), &["lease_ms"]),
        (with("[ports]\nwriter = 70000"), &["writer"]),
        (with("[ports]\nwriter = 6433"), &["6433"]),
        (twice, &["n3", "twice"]),
        (good.replace("node = \"n1\"", "node = \"n7\""), &["n7"]),
        (good.replace("10.77.0.2", "10.77.0.two"), &["10.77.0.two"]),
        (good.replace("\"postgres\"", "\"oracle\""), &["oracle", "postgres"]),
        ("= not toml".to_owned(), &[]),
        (String::new(), &[]),
    ];
    for (text, words) in cases {
        ensure!(*text != good, "a case that changes nothing: {words:?}");
        fs::write(&path, text)?;
        let before = contents(cluster.dir());
        let output = cluster.run_agent("n1")?;
        refused(&output, WRONG_USE, &[&[file.as_str()], *words].concat())?;
        ensure!(contents(cluster.dir()) == before, "a refused configuration changed something: {words:?}");
    }
    fs::remove_file(&path)?;
    refused(&cluster.run_agent("n1")?, WRONG_USE, &[&file])
}

#[test]
fn settings_that_replication_needs_are_refused_with_the_reason() -> Result<()> {
    let _turn = alone()?;
    let cluster = files_only("parameters")?;
    let path = cluster.config("n1");
    let good = fs::read_to_string(&path)?;
    for name in ["synchronous_standby_names", "port", "wal_level", "primary_conninfo", "fsync", "hba_file"] {
        fs::write(&path, format!("{good}\n[engine.parameters]\n{name} = \"off\"\n"))?;
        let before = contents(cluster.dir());
        let output = cluster.run_agent("n1")?;
        refused(&output, WRONG_USE, &[name])?;
        ensure!(contents(cluster.dir()) == before, "a refused setting changed something: {name}");
    }
    Ok(())
}

#[test]
fn missing_binaries_are_named() -> Result<()> {
    let _turn = alone()?;
    let cluster = files_only("binaries")?;
    cluster.edit_config("n1", |c| {
        let engine = c.get_mut("engine").and_then(toml::Value::as_table_mut).expect("[engine]");
        engine.insert("bin_dir".into(), "/nowhere/bin".into());
    })?;
    let before = contents(cluster.dir());
    let output = cluster.run_agent("n1")?;
    let code = output.status.code().unwrap_or_default();
    ensure!(code == FAILED || code == WRONG_USE, "ended with {}", output.status);
    refused(&output, code, &["/nowhere/bin"])?;
    ensure!(contents(cluster.dir()) == before, "an agent without a database changed something");
    Ok(())
}

#[test]
fn wrong_use_of_the_command_line() -> Result<()> {
    let _turn = alone()?;
    let cluster = Cluster::lay_out("usage", &Options::local())?;
    let run = |arguments: &[&str]| -> Result<Output> { Ok(cluster.command().args(arguments).output()?) };
    let dir = cluster.dir().to_string_lossy().into_owned();
    refused(&run(&["local", "up"])?, WRONG_USE, &["--dir"])?;
    refused(&run(&["no-such-command"])?, WRONG_USE, &["no-such-command"])?;
    refused(&run(&["local", "up", "--dir", &dir, "--set", "nonsense"])?, WRONG_USE, &["nonsense"])?;
    refused(&run(&["local", "up", "--dir", &dir, "--set", "timing.leese_ms=5"])?, WRONG_USE, &["leese_ms"])?;
    refused(&run(&["local", "up", "--dir", &dir, "--engine", "oracle"])?, WRONG_USE, &["oracle"])?;
    refused(&run(&["switchover", "--dir", &dir, "--to", "N 1"])?, WRONG_USE, &["N 1"])?;
    let output = run(&["status", "--dir", &dir])?;
    ensure!(!output.status.success(), "a status of nothing");
    fs::write(cluster.dir().join("thesis.txt"), "the only copy")?;
    refused(&run(&["local", "up", "--dir", &dir])?, WRONG_USE, &[&dir, "thesis.txt"])?;
    ensure!(fs::read_to_string(cluster.dir().join("thesis.txt"))? == "the only copy", "it was overwritten");
    ensure!(contents(cluster.dir()).len() == 1, "something was added to a directory that holds something else");
    Ok(())
}

#[test]
fn ports_in_use_are_named_and_nothing_is_left_running() -> Result<()> {
    let _turn = alone()?;
    let cluster = Cluster::lay_out("ports", &Options::local())?;
    for port in ["127.0.0.2:6432", "127.0.0.3:6401", "127.0.0.1:6500"] {
        let network = cluster.client_namespace();
        let taken = network.enter(move || Ok(TcpListener::bind(port)?))?;
        let output = cluster.command().args(["local", "up", "--dir"]).arg(cluster.dir()).output()?;
        let number = port.rsplit(':').next().expect("a port");
        refused(&output, FAILED, &[number])?;
        wait_until("nothing to be left running", SOON, || Ok(network.processes().iter().all(|p| p.state == 'Z')))?;
        drop(taken);
    }
    Ok(())
}

/// Stops n3, changes its files, starts it again, and waits until the cluster says what is wrong with it.
fn n3_is_refused(s: &Scenario, spoil: impl FnOnce(&Path) -> Result<()>, words: &[&str]) -> Result<()> {
    let writer = s.writer()?;
    let status = s.cluster.wait_healthy()?;
    let lead = status.primary.clone().unwrap_or_default();
    if lead == "n3" {
        s.cluster.trine_ok(&["switchover"])?;
        s.cluster.wait_healthy()?;
    }
    s.cluster.kill_node("n3")?;
    let data = s.cluster.node("n3").data();
    let aside = s.cluster.dir().join("aside");
    fs::rename(&data, &aside)?;
    spoil(&data)?;
    let before = contents(&data);
    // Either the agent does not even start, or it says so while it runs.
    match s.cluster.start_node("n3") {
        Ok(()) => {
            let seen = s.cluster.wait_status(&format!("n3 to be refused with {words:?}"), SOON, |s| {
                s.node("n3").is_some_and(|n| n.problem.as_ref().is_some_and(|p| words.iter().all(|w| p.contains(w))))
            })?;
            println!("n3: {:?}", seen.node("n3").map(|n| (&n.state, &n.problem)));
        }
        Err(e) => {
            let said = format!("{e:#}");
            ensure!(words.iter().all(|w| said.contains(w)), "the message does not contain {words:?}: {said}");
        }
    }
    writer.wait_acked(20)?;
    ensure!(contents(&data) == before, "a data directory that is not the node's own was changed");
    // A person puts the right one back.
    s.cluster.kill_node("n3")?;
    fs::remove_dir_all(&data)?;
    fs::rename(&aside, &data)?;
    s.cluster.start_node("n3")
}

/// A data directory of a cluster of its own.
fn other_cluster(data: &Path) -> Result<()> {
    fs::create_dir(data)?;
    postgres::give(data)?;
    namespace::run(postgres::program("initdb")?.args(["-U", "trine", "-A", "trust", "-N", "-D"]).arg(data)).map(drop)
}

#[test]
fn data_of_another_cluster_is_left_alone() {
    scenario("other-cluster", &Options::local(), |s| n3_is_refused(s, other_cluster, &["refusing to mix"]));
}

#[test]
fn data_of_a_newer_major_version_is_left_alone() {
    scenario("newer-version", &Options::local(), |s| {
        n3_is_refused(
            s,
            |data| {
                other_cluster(data)?;
                Ok(fs::write(data.join("PG_VERSION"), "99\n")?)
            },
            &["99"],
        )
    });
}

/// The disk is full at several steps of the first copy: said each time, nothing breaks, and it goes on by itself when
/// there is room.
#[test]
fn full_disk_while_cloning() {
    let options = Options { disks: vec![("n3", DiskKind::Small(1024))], ..Options::network() };
    scenario("full-disk", &options, |s| {
        let writer = s.writer()?;
        if s.cluster.primary()? == "n3" {
            s.cluster.trine_ok(&["switchover"])?;
            s.cluster.wait_healthy()?;
        }
        s.cluster.kill_node("n3")?;
        let dir = &s.cluster.node("n3").dir;
        fs::remove_dir_all(dir.join("data"))?;
        let kept: u64 = contents(dir).values().map(|c| c.0).sum::<u64>() / (1 << 20);
        let kept = u32::try_from(kept)?;
        s.cluster.disk().resize(kept + 4)?;
        s.cluster.start_node("n3")?;
        for more in [4, 16, 32] {
            s.cluster.disk().resize(kept + more)?;
            let told = s.cluster.wait_status("the full disk to be reported", SOON, |s| {
                let problem = s.node("n3").and_then(|n| n.problem.clone()).unwrap_or_default().to_lowercase();
                problem.contains("full") || problem.contains("no space")
            })?;
            ensure!(told.primary.is_some(), "a full disk on a standby cost the primary");
            writer.wait_acked(20)?;
        }
        s.cluster.disk().resize(2048)
    });
}

#[test]
fn corrupt_state_files_are_named_and_never_replaced() {
    scenario("corrupt-state", &Options::network(), |s| {
        let writer = s.writer()?;
        if s.cluster.primary()? == "n3" {
            s.cluster.trine_ok(&["switchover"])?;
            s.cluster.wait_healthy()?;
        }
        s.cluster.kill_node("n3")?;
        let files: Vec<PathBuf> = contents(&s.cluster.node("n3").dir.join("state")).into_keys().collect();
        ensure!(!files.is_empty(), "n3 has no state");
        // `probe` holds nothing: writing it shows that the disk still works.
        for file in files.into_iter().filter(|f| !f.ends_with("probe")) {
            let good = fs::read(&file)?;
            if good.is_empty() {
                continue;
            }
            fs::write(&file, vec![0xA5; good.len()])?;
            let output = s.cluster.run_agent("n3")?;
            let name = file.file_name().expect("a name").to_string_lossy();
            refused(&output, FAILED, &[&name])?;
            ensure!(fs::read(&file)? == vec![0xA5; good.len()], "{} was replaced", file.display());
            fs::write(&file, good)?;
        }
        writer.wait_acked(20)?;
        s.cluster.start_node("n3")
    });
}

#[test]
fn a_stranger_with_another_clusters_certificate_is_not_let_in() {
    scenario("stranger", &Options::network(), |s| {
        let writer = s.writer()?;
        if s.cluster.primary()? == "n3" {
            s.cluster.trine_ok(&["switchover"])?;
            s.cluster.wait_healthy()?;
        }
        let epoch = s.cluster.status()?.epoch;
        let other = s.cluster.dir().join("other");
        let mut c = s.cluster.command();
        c.args(["init", "--cluster", "test", "--out"]).arg(&other);
        for n in s.cluster.nodes() {
            c.arg("--node").arg(format!("{}={},zone={}", n.name, n.address, n.name));
        }
        namespace::run(&mut c)?;
        s.cluster.kill_node("n3")?;
        let tls = s.cluster.node("n3").dir.join("tls");
        let good: Vec<(PathBuf, Vec<u8>)> =
            contents(&tls).into_keys().map(|p| Ok((p.clone(), fs::read(&p)?))).collect::<Result<_>>()?;
        let put_back = || good.iter().try_for_each(|(p, text)| fs::write(p, text));

        // All of another cluster: the configuration's cluster_id tells, before anybody is asked.
        for (path, _) in &good {
            fs::copy(other.join("n3/tls").join(path.file_name().expect("a name")), path)?;
        }
        let output = s.cluster.run_agent("n3")?;
        ensure!(
            !output.status.success() && output.status.code() != Some(124),
            "it ran with another cluster's certificate"
        );

        // A certificate of the other nodes' names is no better.
        put_back()?;
        for name in ["node.pem", "node.key"] {
            fs::copy(s.cluster.node("n2").dir.join("tls").join(name), tls.join(name))?;
        }
        let output = s.cluster.run_agent("n3")?;
        ensure!(!output.status.success() && output.status.code() != Some(124), "n3 ran as n2");
        refused(&output, output.status.code().unwrap_or_default(), &["n2"])?;

        put_back()?;
        writer.wait_acked(20)?;
        ensure!(s.cluster.status()?.epoch == epoch, "a stranger ended epoch {epoch}");
        s.cluster.start_node("n3")
    });
}

/// A few bytes that begin like something, and random ones, from a fixed seed.
fn garbage() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /../../etc/passwd HTTP/1.1\r\n".to_vec(),
        b"POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        // PostgreSQL: a startup packet of 2 GiB, one of 4 bytes, one without an end, a cancel of nobody.
        vec![0x7F, 0xFF, 0xFF, 0xFF, 0, 3, 0, 0],
        vec![0, 0, 0, 4],
        vec![0, 0, 0, 100, 0, 3, 0, 0, b'u', b's', b'e', b'r'],
        vec![0, 0, 0, 16, 0x04, 0xD2, 0x16, 0x2E, 0, 0, 0, 1, 0, 0, 0, 2],
        // SSLRequest, then no TLS.
        [&[0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F], &b"no tls at all"[..]].concat(),
        // A TLS record of the greatest length, of zeros.
        [&[0x16, 3, 1, 0xFF, 0xFF][..], &[0; 300]].concat(),
        Vec::new(),
    ];
    let mut x: u64 = 0x9E37_79B9_7F4A_7C15;
    for length in [1_usize, 7, 64, 1000, 20_000] {
        let random = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        });
        all.push(random.take(length).collect());
    }
    all
}

#[test]
fn garbage_on_every_port() {
    scenario("garbage", &Options::local(), |s| {
        let writer = s.writer()?;
        let before = s.cluster.wait_healthy()?;
        let agents: Vec<u32> = s.cluster.nodes().iter().map(|n| s.cluster.agent(&n.name)).collect::<Result<_>>()?;
        let addresses: Vec<String> = s.cluster.nodes().iter().map(|n| n.address.clone()).collect();
        s.cluster.client_namespace().enter(move || {
            let mut open = Vec::new();
            for address in &addresses {
                for port in [6432, 6433, 6400, 6401, 6500] {
                    let at: SocketAddr = format!("{address}:{port}").parse()?;
                    for bytes in garbage() {
                        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
                        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
                        // Refusing it in the middle is as good as reading it all.
                        let _ = stream.write_all(&bytes);
                        let _ = stream.read(&mut [0; 256]);
                        if bytes.len() % 2 == 0 {
                            // Some stay open, half said.
                            open.push(stream);
                        }
                    }
                }
            }
            Ok(())
        })?;
        writer.wait_acked(100)?;
        let after = s.cluster.wait_healthy()?;
        ensure!(after.epoch == before.epoch, "garbage ended epoch {}", before.epoch);
        for (node, pid) in s.cluster.nodes().iter().zip(agents) {
            ensure!(s.cluster.agent(&node.name)? == pid, "garbage ended the agent of {}", node.name);
        }
        Ok(())
    });
}

#[test]
fn changes_need_the_token() {
    scenario("token", &Options::network(), |s| {
        let before = s.cluster.wait_healthy()?;
        let url = format!("https://{}:6400", s.cluster.node("n1").address);
        let ca = s.cluster.dir().join("ca/ca.pem");
        for token in [None, Some("wrong-token-wrong-token")] {
            for what in ["switchover", "status"] {
                let mut c = s.cluster.command();
                c.args([what, "--api", &url, "--ca"]).arg(&ca).env_remove("TRINE_TOKEN");
                if let Some(token) = token {
                    c.env("TRINE_TOKEN", token);
                }
                let output = c.output()?;
                ensure!(!output.status.success(), "{what} without the token: {output:?}");
                let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
                ensure!(said.contains("token"), "the message does not speak of the token: {said}");
            }
        }
        let now = s.cluster.status()?;
        ensure!(now.epoch == before.epoch, "a request without the token was carried out");
        s.writer()?.wait_acked(10)
    });
}
