//! The harness itself: if it could not cut a network or see a loss, every other test would pass for nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use trine_tests::cluster::Node;
use trine_tests::namespace::{Namespace, Switch};
use trine_tests::process::{self, Process};
use trine_tests::scenario::alone;
use trine_tests::wait_until;

/// Does a ping from one machine reach the other, and its answer come back?
fn reaches(switch: &Switch, from: &str, to: &str) -> bool {
    // Not every machine has `ping`: a shell's own TCP connection, to a port where nobody listens, is refused at once.
    let address = if to == "a" { "10.77.0.1" } else { "10.77.0.2" };
    let attempt = format!("exec 3<>/dev/tcp/{address}/9");
    let output = switch
        .namespace(from)
        .command("timeout".as_ref())
        .args(["0.4", "bash", "-c", &attempt])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).contains("refused")
}

#[test]
fn cables_are_cut_and_healed() {
    let _turn = alone().unwrap();
    let machine = |n: &str, at: &str| (n.to_owned(), at.to_owned());
    let switch = Switch::new(&[machine("a", "10.77.0.1"), machine("b", "10.77.0.2")]).unwrap();
    wait_until("the network", Duration::from_secs(5), || Ok(reaches(&switch, "a", "b"))).unwrap();
    for fault in [Switch::cut, Switch::deafen, Switch::mute] {
        fault(&switch, "a").unwrap();
        assert!(!reaches(&switch, "a", "b") && !reaches(&switch, "b", "a"));
        switch.heal().unwrap();
        assert!(reaches(&switch, "a", "b") && reaches(&switch, "b", "a"));
    }
    switch.cut_port("b", 9).unwrap();
    assert!(!reaches(&switch, "a", "b"));
    switch.heal().unwrap();
    assert!(reaches(&switch, "a", "b"));
}

#[test]
fn a_namespace_ends_with_everything_in_it() {
    let _turn = alone().unwrap();
    let namespace = Namespace::new("t").unwrap();
    let mut child = namespace.command("sleep".as_ref()).arg("1000").spawn().unwrap();
    wait_until("the process to be seen", Duration::from_secs(5), || {
        Ok(namespace.processes().iter().any(|p| p.title.contains("sleep 1000")))
    })
    .unwrap();
    let pid = child.id();
    let reaped = std::thread::spawn(move || child.wait());
    drop(namespace);
    reaped.join().unwrap().unwrap();
    assert!(!Process::alive(pid));
}

/// Else a frozen one would never be thawed: Firebird stands in /tmp, and its command line says nothing of its files.
#[test]
fn what_a_nodes_processes_have_started_is_a_part_of_it_wherever_it_stands() {
    // Nobody looks into it.
    let dir = PathBuf::from(format!("/var/tmp/trine-of-{}", std::process::id()));
    let mut shell = Command::new("sh").args(["-c", "cd /; sleep 1000; true"]).arg(&dir).spawn().unwrap();
    let node = Node { name: "n1".to_owned(), address: String::new(), dir };
    let found = || node.processes().into_iter().find(|p| p.title.contains("sleep 1000"));
    wait_until("the process to be seen", Duration::from_secs(5), || Ok(found().is_some())).unwrap();
    for process in node.processes() {
        process::kill(process.pid).unwrap();
    }
    shell.wait().unwrap();
}

#[test]
fn namespaces_are_separate_from_the_machine() {
    let _turn = alone().unwrap();
    let namespace = Namespace::new("t").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    assert!(TcpStream::connect(address).is_ok());
    let attempt = format!("exec 3<>/dev/tcp/127.0.0.1/{}", address.port());
    let inside: &mut Command = &mut namespace.command("bash".as_ref());
    assert!(!inside.args(["-c", &attempt]).stderr(Stdio::null()).status().unwrap().success());
}
