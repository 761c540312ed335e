//! What `trine init` makes, and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use trine_agent::{Config, Secrets};
use trine_transport::Identity;

fn init(out: &Path, rest: &[&str]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_trine"));
    c.args(["init", "--cluster", "prod", "--out"]).arg(out).args(rest).output().unwrap()
}

const NODES: [&str; 6] =
    ["--node", "n1=10.0.0.1,zone=a,priority=0", "--node", "n2=10.0.0.2,zone=b", "--node", "n3=10.0.0.3,zone=c"];

#[test]
fn each_node_gets_what_it_needs_and_one_is_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("prod");
    let done = init(&out, &[&NODES[..], &["--set", "timing.lease_ms=2000", "--node-dir", "/var/lib/trine"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut ids = Vec::new();
    let mut secrets = Vec::new();
    for (name, seed) in [("n1", false), ("n2", true), ("n3", false)] {
        let node = out.join(name);
        let config = Config::load(&node.join("trine.toml")).unwrap();
        assert_eq!(config.node.as_str(), name);
        assert_eq!(config.dir, Path::new("/var/lib/trine"));
        assert_eq!(config.timing.lease.as_millis(), 2000);
        assert_eq!(config.members.len(), 3);
        assert_eq!(node.join("seed").exists(), seed, "{name}: priority 0 never begins a cluster");
        let tls = |f: &str| node.join("tls").join(f);
        let identity =
            Identity::load_files(&tls("ca.pem"), &tls("node.pem"), &tls("node.key"), &config.cluster_id).unwrap();
        assert_eq!(*identity.name(), config.node);
        for private in [node.join("secrets.toml"), tls("node.key"), out.join("ca/ca.key")] {
            assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o077, 0, "{}", private.display());
        }
        secrets.push(Secrets::load(&node.join("secrets.toml")).unwrap());
        ids.push(config.cluster_id);
    }
    ids.dedup();
    secrets.dedup();
    assert_eq!((ids.len(), secrets.len()), (1, 1), "the nodes are not of one cluster");

    let again = init(&out, &NODES);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was overwritten"));
    assert_eq!(Config::load(&out.join("n1/trine.toml")).unwrap().cluster_id, *ids.first().unwrap());
}

#[test]
fn without_a_place_for_the_nodes_they_are_where_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    // The folder of a node may be there: the mount point of its disk.
    fs::create_dir_all(dir.path().join("n1/lost+found")).unwrap();
    let done = init(dir.path(), &NODES);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let config = Config::load(&dir.path().join("n1/trine.toml")).unwrap();
    assert_eq!(config.dir, dir.path().join("n1"));
}

#[test]
fn nodes_that_make_no_cluster_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("c");
    let cases: [(&[&str], &str); 6] = [
        (&["--node", "n1=10.0.0.1,zone=a", "--node", "n2=10.0.0.2,zone=b"], "2 voters"),
        (&["--node", "n1=10.0.0.1"], "zone"),
        (&["--node", "n1=db1.example,zone=a"], "db1.example"),
        (&["--node", "N1=10.0.0.1,zone=a"], "N1"),
        (&[NODES[0], NODES[1], NODES[2], NODES[3], "--node", "n2=10.0.0.3,zone=c"], "twice"),
        (&[NODES[0], NODES[1], NODES[2], NODES[3], "--node", "n3=10.0.0.2,zone=c"], "10.0.0.2"),
    ];
    for (nodes, word) in cases {
        let output = init(&out, nodes);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{nodes:?}: {said}");
        assert!(said.contains(word), "{nodes:?}: {word:?} is missing in: {said}");
    }
    assert!(!out.exists(), "something was made");
}
