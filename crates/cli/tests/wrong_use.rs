//! What people type wrong: the exit code, and a message that names it. Nothing is made or changed by any of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn trine(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trine")).args(args).env_remove("TRINE_TOKEN").output().unwrap()
}

/// It ended so, and said these words on stderr.
fn refused(args: &[&str], code: i32, words: &[&str]) {
    let output = trine(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: {word:?} is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn help_and_version() {
    let help = trine(&["--help"]);
    assert!(help.status.success());
    let said = String::from_utf8_lossy(&help.stdout).into_owned();
    for command in ["local", "init", "agent", "adopt", "status", "events", "endpoints", "failover", "switchover"] {
        assert!(said.contains(command), "{command} is missing in:\n{said}");
    }
    assert!(!said.contains("guard"), "the guard is not for people");
    assert!(String::from_utf8_lossy(&trine(&["version"]).stdout).starts_with("trine "));
}

#[test]
fn the_command_line_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let empty = text(dir.path());
    refused(&["no-such-command"], 2, &["no-such-command"]);
    refused(&["local", "up"], 2, &["--dir"]);
    refused(&["guard"], 2, &["guard"]);
    refused(&["status"], 2, &["--dir", "--api"]);
    refused(&["status", "--api", "10.0.0.1:6400"], 2, &["10.0.0.1:6400", "https://"]);
    refused(&["status", "--api", "https://10.0.0.1:6400"], 2, &["--ca"]);
    refused(&["status", "--dir", &empty, "--api", "http://127.0.0.1:1"], 2, &["--api"]);
    refused(&["switchover", "--dir", &empty, "--to", "N 1"], 2, &["N 1", "a-z"]);
    refused(&["failover", "--dir", &empty, "--yes"], 2, &["--accept-data-loss"]);
    refused(&["pause", "--dir", &empty], 2, &["--reason"]);
    refused(&["status", "--dir", &empty], 2, &[&empty, "no trine cluster"]);
    refused(&["status", "--dir", "/nowhere"], 2, &["/nowhere", "does not exist"]);
    refused(&["local", "down", "--wipe", "--dir", &empty], 2, &["no trine cluster"]);
    refused(&["local", "kill-node", "n1", "--dir", &empty], 2, &["no trine cluster"]);
    refused(&["agent", "--config", "/nowhere/trine.toml"], 2, &["/nowhere/trine.toml"]);
    refused(&["adopt", "--config", "/nowhere/trine.toml", "--data", "/x"], 2, &["/nowhere/trine.toml"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was made");
}

#[test]
fn settings_are_checked_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let new = text(&dir.path().join("c"));
    let up =
        |rest: &[&str], code, words: &[&str]| refused(&[&["local", "up", "--dir", &new], rest].concat(), code, words);
    up(&["--set", "nonsense"], 2, &["nonsense", "KEY=VALUE"]);
    up(&["--set", "timing.leese_ms=5"], 2, &["leese_ms", "lease_ms"]);
    up(&["--set", "timing.lease_ms=5"], 2, &["lease_ms", "300 to 60000"]);
    up(&["--set", "timing.lease_ms=soon"], 2, &["lease_ms", "soon"]);
    up(&["--set", "node=n9"], 2, &["node"]);
    up(&["--engine", "oracle"], 2, &["oracle", "mysql"]);
    up(&["--engine", "oracle"], 2, &["oracle", "postgres"]);
    up(&["--engine", "volume"], 2, &["preset", "redis", "database.command"]);
    up(&["--engine", "volume", "--set", "preset=oracle"], 2, &["preset", "oracle", "redis"]);
    up(
        &["--engine", "volume", "--set", "preset=redis", "--set", "database.args=[\"{date}\"]"],
        2,
        &["{date}", "{data}"],
    );
    up(&["--set", "preset=redis"], 2, &["preset", "only for engine.kind"]);
    let missing = ["--engine", "volume", "--set", "database.command=no-such-db", "--set", "database.package=nsdb"];
    let named = [missing.as_slice(), &["--set", "database.user=nobody"]].concat();
    if rustix::process::geteuid().is_root() {
        up(&missing, 1, &["database.user"]);
        up(&named, 1, &["no-such-db", "install the package nsdb"]);
    }
    up(&["--config", "/nowhere.toml"], 2, &["/nowhere.toml"]);
    let file = dir.path().join("more.toml");
    fs::write(&file, "[timing]\n\nlease_ms = 7\n").unwrap();
    up(&["--config", &text(&file)], 2, &["more.toml:3", "300 to 60000"]);
    fs::write(&file, "[timing\n").unwrap();
    up(&["--config", &text(&file)], 2, &["more.toml:1"]);
    assert!(!dir.path().join("c").exists(), "it was made");
}

#[test]
fn a_folder_that_holds_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "the only copy").unwrap();
    let there = text(dir.path());
    refused(&["local", "up", "--dir", &there], 2, &[&there, "thesis.txt"]);
    refused(&["local", "down", "--wipe", "--dir", &there], 2, &[&there]);
    let init = ["init", "--cluster", "c", "--node", "n1=10.0.0.1,zone=a", "--out", &there];
    refused(&init, 2, &["thesis.txt"]);
    assert_eq!(fs::read_to_string(dir.path().join("thesis.txt")).unwrap(), "the only copy");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was added");
}

#[test]
fn nobody_answers() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}");
    refused(&["status", "--api", &url], 1, &[&url, "refused"]);
    refused(&["switchover", "--api", &url], 1, &[&url]);
    refused(&["endpoints", "--json", "--api", &url], 1, &[&url]);
}
