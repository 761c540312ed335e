//! What a person may write into trine.toml and secrets.toml, and what is said about the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use trine_agent::{Config, ConfigError, Durability, EngineKind, Secrets};

const GOOD: &str = r#"
cluster = "demo"
cluster_id = "3f1c"
node = "n2"
dir = "/var/lib/trine"

[[members]]
name = "n1"
zone = "a"
address = "10.0.0.1"

[[members]]
name = "n2"
zone = "b"
address = "10.0.0.2"
priority = 50

[[members]]
name = "n3"
zone = "c"
address = "10.0.0.3"

[engine]
kind = "postgres"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/t.toml"), text)
}

/// The error of a text, which must name the file.
fn error(text: &str) -> String {
    let e = parse(text).expect_err(text).to_string();
    assert!(e.starts_with("/etc/t.toml:"), "no file: {e}");
    e
}

fn with(extra: &str) -> String {
    format!("{GOOD}{extra}\n")
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let c = parse(GOOD).unwrap();
    assert_eq!((c.me.name.as_str(), c.me.priority, c.me.voter), ("n2", 50, true));
    assert_eq!(c.listen(c.ports.writer), "10.0.0.2:6432".parse().unwrap());
    assert_eq!((c.ports.reader, c.ports.api, c.ports.peer, c.ports.database), (6433, 6400, 6401, 6500));
    assert_eq!(c.engine.kind, EngineKind::Postgres);
    assert_eq!((c.sync.acks, c.sync.durability, c.sync.grace), (1, Durability::Strict, Duration::from_secs(10)));
    assert_eq!(c.timing.lease, Duration::from_secs(1));
    assert_eq!(c.timing.heartbeat, Duration::from_millis(100));
    assert_eq!(c.timing.suspect, Duration::from_millis(600));
    assert_eq!((c.endpoint.max_connections, c.endpoint.reader_uses_primary), (1000, true));
    assert_eq!(c.data_dir(), Path::new("/var/lib/trine/data"));
    assert_eq!((c.voters().count(), c.others().count()), (3, 2));
}

#[test]
fn timing_follows_the_lease() {
    let c = parse(&with("[timing]\nlease_ms = 300")).unwrap();
    assert_eq!(c.timing.heartbeat, Duration::from_millis(30));
    assert_eq!(c.timing.suspect, Duration::from_millis(180));
}

#[test]
fn parameters_are_text_whatever_they_look_like() {
    let c = parse(&with(
        "[engine.parameters]\nwork_mem = \"8MB\"\nmax_connections = 50\njit = false\nrandom_page_cost = 1.5\n\
         pg_stat_statements.max = 100\n\"auto_explain.log_analyze\" = true",
    ))
    .unwrap();
    let get = |k: &str| c.engine.parameters.get(k).map(String::as_str);
    assert_eq!(get("work_mem"), Some("8MB"));
    assert_eq!(get("max_connections"), Some("50"));
    assert_eq!(get("jit"), Some("off"));
    assert_eq!(get("random_page_cost"), Some("1.5"));
    assert_eq!(get("pg_stat_statements.max"), Some("100"));
    assert_eq!(get("auto_explain.log_analyze"), Some("on"));
}

#[test]
fn errors_name_the_line_the_key_the_value_and_what_is_allowed() {
    let lines = GOOD.lines().count();
    let e = error(&with("[timing]\nlease_ms = 50"));
    assert_eq!(e, format!("/etc/t.toml:{}: timing.lease_ms = 50: use 300 to 60000 (milliseconds)", lines + 2));
    let e = error(&with("[ports]\nwriter = 70000"));
    assert_eq!(e, format!("/etc/t.toml:{}: ports.writer = 70000: use 1 to 65535", lines + 2));
}

#[test]
fn everything_else_is_refused_by_name() {
    let cases: &[(String, &[&str])] = &[
        (with("[timing]\nleese_ms = 5"), &["timing.leese_ms", "unknown field", "lease_ms"]),
        (format!("colour = 1\n{GOOD}"), &["/etc/t.toml:1:", "colour"]),
        (with("[sync]\nacks = \"two\""), &["sync.acks", "two"]),
        (with("[sync]\nacks = 3"), &["sync.acks", "3", "1 to 2"]),
        (with("[sync]\nacks = 0"), &["sync.acks", "1 to 2"]),
        (with("[sync]\nacks = -1"), &["sync.acks", "-1"]),
        (with("[sync]\ndurability = \"maybe\""), &["sync.durability", "strict", "available"]),
        (with("[ports]\nwriter = 0"), &["ports.writer", "0"]),
        (with("[ports]\nwriter = 6433"), &["ports.writer = 6433", "reader"]),
        (with("[ports]\nreader = 6432"), &["ports.reader = 6432", "writer"]),
        (with("[timing]\nheartbeat_ms = 400"), &["heartbeat_ms", "third"]),
        (with("[timing]\nsuspect_ms = 1000"), &["suspect_ms", "less than"]),
        (with("[timing]\nsuspect_ms = 100"), &["suspect_ms", "twice"]),
        (with("[timing]\nlease_ms = 60001"), &["60001"]),
        (with("[endpoint]\nmax_connections = 0"), &["max_connections"]),
        (GOOD.replace("node = \"n2\"", "node = \"n7\""), &["node", "n7", "n1, n2, n3"]),
        (GOOD.replace("node = \"n2\"", "node = \"N 2\""), &["N 2", "a-z"]),
        (GOOD.replace("/var/lib/trine", "data"), &["dir", "\"data\"", "absolute"]),
        (GOOD.replace("/var/lib/trine", &format!("/{}", "x".repeat(100))), &["dir", "bytes"]),
        (GOOD.replace("\"n3\"", "\"n1\""), &["members.name", "n1", "twice"]),
        (GOOD.replace("10.0.0.3", "10.0.0.1"), &["members.address", "10.0.0.1", "n1"]),
        (GOOD.replace("10.0.0.3", "10.0.0.3:5432"), &["10.0.0.3:5432", "without a port"]),
        (GOOD.replace("10.0.0.3", "0.0.0.0"), &["0.0.0.0"]),
        (GOOD.replace("10.0.0.3", "127.0.0.1"), &["127.0.0.1", "loopback"]),
        (GOOD.replace("zone = \"b\"", "zone = \"a\""), &["zone", "2 of the 3 voters"]),
        (GOOD.replace("zone = \"b\"", "zone = \"\""), &["members.zone"]),
        (GOOD.replace("priority = 50", "priority = 2000"), &["members.priority", "2000"]),
        (GOOD.replace("priority = 50", "voter = false"), &["members", "2 voters", "1, 3 or 5"]),
        (GOOD.replace("\"postgres\"", "\"oracle\""), &["engine.kind", "oracle", "mysql", "postgres"]),
        (GOOD.replace("\"postgres\"", "\"oracle\""), &["engine.kind", "oracle", "postgres"]),
        (with("user = \"root\""), &["engine.user", "root"]),
        (with("bin_dir = \"bin\""), &["engine.bin_dir", "absolute"]),
        (with("hba = [\"\"]"), &["engine.hba"]),
        (with("[engine.parameters]\nwork_mem = [1]"), &["engine.parameters.work_mem"]),
        (with("[engine.parameters]\nwork_mem = \"a\\nb\""), &["engine.parameters.work_mem", "line break"]),
        (with("[engine.parameters]\n\"a b\" = 1"), &["a b"]),
        (GOOD.replace("cluster = \"demo\"", "cluster = \"my cluster\""), &["cluster", "my cluster"]),
        (GOOD.replace("zone = \"a\"\n", ""), &["zone"]),
        ("= not toml".to_owned(), &["/etc/t.toml:1:"]),
        (String::new(), &["cluster"]),
    ];
    for (text, words) in cases {
        assert_ne!(text, GOOD, "a case that changes nothing: {words:?}");
        let e = error(text);
        for word in *words {
            assert!(e.contains(word), "{word:?} is missing in: {e}");
        }
        assert!(!e.contains('\n'), "more than one line: {e}");
    }
}

#[test]
fn a_cluster_of_one_needs_no_acknowledgement() {
    let end = GOOD.find("[[members]]").unwrap();
    let one = format!(
        "{}[[members]]\nname = \"n2\"\nzone = \"a\"\naddress = \"127.0.0.1\"\n[engine]\nkind = \"postgres\"\n",
        GOOD.get(..end).unwrap()
    );
    assert_eq!(parse(&one).unwrap().sync.acks, 0);
    assert!(error(&format!("{one}[sync]\nacks = 1\n")).contains("use 0"));
}

#[test]
fn secrets_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secrets.toml");
    let secret = || "0123456789abcdef".to_owned();
    let secrets = Secrets { api_token: secret(), superuser_password: secret(), app_password: secret() };
    secrets.create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Secrets::load(&path).unwrap(), secrets);
    assert!(secrets.create(&path).is_err(), "an existing file was overwritten");
    assert!(!format!("{secrets:?}").contains("0123"), "a secret in a debug text");

    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let e = Secrets::load(&path).unwrap_err().to_string();
    assert!(e.contains("0640") && e.contains("chmod 600"), "{e}");

    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "api_token = \"short\"\nsuperuser_password = \"0123456789\"\napp_password = \"0123456789\"\n")
        .unwrap();
    let e = Secrets::load(&path).unwrap_err().to_string();
    assert!(e.contains("api_token") && !e.contains("short"), "{e}");
    let e = Secrets::load(&dir.path().join("nothing")).unwrap_err().to_string();
    assert!(e.contains("nothing"), "{e}");
}
