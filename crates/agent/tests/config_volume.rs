//! What a person may write about a database that trine does not know.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use std::path::Path;

use trine_agent::{Config, ConfigError, EngineKind, Grade};

const HEAD: &str = "cluster = \"demo\"\ncluster_id = \"3f1c\"\nnode = \"n1\"\ndir = \"/var/lib/trine\"\n";
const MEMBERS: &str = "[[members]]\nname = \"n1\"\nzone = \"a\"\naddress = \"127.0.0.1\"\n";
const VOLUME: &str = "[engine]\nkind = \"volume\"\n";

fn parse(top: &str, rest: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/t.toml"), &format!("{HEAD}{top}\n{MEMBERS}{VOLUME}{rest}\n"))
}

fn error(top: &str, rest: &str) -> String {
    let e = parse(top, rest).expect_err(rest).to_string();
    assert!(e.starts_with("/etc/t.toml:") && !e.contains('\n'), "{e}");
    e
}

#[test]
fn a_preset_alone_is_enough() {
    let c = parse("preset = \"redis\"", "").unwrap();
    assert_eq!(c.engine.kind, EngineKind::Volume);
    assert_eq!(c.engine.kind.as_str(), "volume");
    let volume = c.volume.as_ref().unwrap();
    assert_eq!((volume.grade, volume.journal_bytes), (Grade::Disk, 1 << 30));
    assert_eq!((volume.verify_every, volume.verify_pace), (Some(Duration::from_secs(7 * 24 * 3600)), 16 << 20));
    assert_eq!(volume.preset.as_deref(), Some("redis"));
    assert_eq!(c.database_user(), Some("redis"));
    assert_eq!(c.sync.acks, 0, "a cluster of one");
}

#[test]
fn a_command_alone_is_enough() {
    let c = parse("", "[database]\ncommand = \"mydb\"\n[volume]\ngrade = \"memory\"\njournal_mb = 64").unwrap();
    let volume = c.volume.as_ref().unwrap();
    assert_eq!((volume.grade, volume.journal_bytes), (Grade::Memory, 64 << 20));
    assert_eq!(c.database_user(), None);
    let c = parse("", "[database]\ncommand = \"mydb\"\n[volume]\nverify_every_h = 0\nverify_mb_s = 1").unwrap();
    let volume = c.volume.as_ref().unwrap();
    assert_eq!((volume.verify_every, volume.verify_pace), (None, 1 << 20));
    let at = ["10.0.0.1:6432".parse().unwrap()];
    assert_eq!(volume.database.uris(&at, "app", "x"), ["tcp://10.0.0.1:6432"]);
}

#[test]
fn errors_name_the_line_the_key_the_value_and_what_is_allowed() {
    let line = format!("{HEAD}\n{MEMBERS}{VOLUME}").lines().count() + 2;
    assert_eq!(
        error("", "[database]\nstop_signal = \"KILL\""),
        format!("/etc/t.toml:{line}: database.stop_signal = \"KILL\": use TERM, INT, QUIT, HUP, USR1 or USR2")
    );
    let preset = "preset = \"redis\"";
    let cases: &[(&str, &str, &[&str])] = &[
        ("", "", &["engine.kind", "preset", "database.command", "redis"]),
        ("", "[database]\nargs = [\"x\"]", &["database.command"]),
        ("preset = \"oracle\"", "", &["preset = \"oracle\"", "redis, postgres, mariadb, firebird, sqlite"]),
        (preset, "[database]\ncomand = \"x\"", &["database.comand", "unknown field", "command"]),
        (preset, "[database]\ncommand = \" \"", &["database.command", "absolute path"]),
        (preset, "[database]\ncommand = \"{data\"", &["database.command", "'{'"]),
        (preset, "[database]\nargs = [\"{date}\"]", &["database.args = \"{date}\"", "{data}", "{port}"]),
        (preset, "[database]\nargs = [\"-p{password}\"]", &["database.args", "ps", "[database.env]"]),
        (preset, "[database.env]\n\"A B\" = \"x\"", &["database.env.A B", "letters"]),
        (preset, "[database.env]\nA = \"{hosts}\"", &["database.env.A", "{hosts}"]),
        (preset, "[database.env]\nA = 1", &["database.env.A", "string"]),
        (preset, "[database.files]\n\"../x\" = \"\"", &["../x", "no name for a file"]),
        (preset, "[database]\nuser = \"root\"", &["database.user", "root"]),
        (preset, "[database]\nworkdir = \"here\"", &["database.workdir = \"here\"", "absolute"]),
        (preset, "[database]\nworkdir = \"{data}/../..\"", &["database.workdir", "'..'"]),
        (preset, "[database]\nlisten = \"7000\"", &["database.listen", "tcp", "{run}/db.sock"]),
        (preset, "[database]\nremove = [\"../x\"]", &["database.remove", "{data}"]),
        (preset, "[database]\npath = [\"bin\"]", &["database.path", "absolute"]),
        (preset, "[database]\nuri = \"redis\"", &["database.uri", "{host}"]),
        (preset, "[database]\nuri = \"x://{data}\"", &["database.uri", "{data}", "{hosts}"]),
        (preset, "[database]\ninit = [[]]", &["database.init", "list of commands"]),
        (preset, "[database]\nready = { tcp = false }", &["database.ready.tcp", "true"]),
        (preset, "[database]\nready = { within_ms = 5 }", &["database.ready.within_ms = 5", "100 to 86400000"]),
        (preset, "[database]\nhealth = { command = [] }", &["database.health.command", "a program with its arguments"]),
        (preset, "[database]\nhealth = { tcp = true, command = [\"x\"] }", &["database.health.command", "either"]),
        (preset, "[database]\nhealth = { within_ms = 500 }", &["within_ms", "unknown field"]),
        (preset, "[database]\nhealth = { failures = 0 }", &["database.health.failures = 0", "1 to 1000"]),
        (preset, "[database]\nhealth = { expect = \"\" }", &["database.health.expect"]),
        (preset, "[database]\nstop_patience_ms = -1", &["database.stop_patience_ms"]),
        (preset, "[database]\nimage = \"-x\"", &["database.image = ", "redis:7"]),
        (preset, "[database]\nimage = \"redis:7\"\ncommand = \"x\"", &["database.image", "either", "database.args"]),
        (preset, "[database]\nimage = \"redis:7\"\ninit = [[\"x\"]]", &["database.image", "database.init"]),
        (preset, "[database]\nimage = \"redis:7\"\nuser = \"redis\"", &["database.user", "999:999"]),
        (preset, "[database]\nmemory_mb = 100", &["database.memory_mb", "only for a container", "database.image"]),
        (preset, "[database]\nimage = \"x\"\nmounts = [\"a:b\"]", &["database.mounts", "/here:/there"]),
        (preset, "[database]\nimage = \"x\"\nmounts = [\"/a/../b:/c\"]", &["database.mounts", "'..'"]),
        (preset, "[database]\nimage = \"x\"\ndata_path = \"data\"", &["database.data_path", "absolute"]),
        (preset, "[database]\nimage = \"x\"\nport = 0", &["database.port = 0", "1 to 65535"]),
        (preset, "[database]\nimage = \"x\"\ncpus = 0.0", &["database.cpus", "0.01"]),
        (preset, "[database]\nimage = \"x\"\npull = \"often\"", &["database.pull", "missing", "never"]),
        (preset, "[database]\nimage = \"x\"\nsocket = \"d\"", &["database.socket", "absolute"]),
        (preset, "[database]\nimage = \"x\"\nregistry = { username = \"u\" }", &["database.registry", "password_file"]),
        (preset, "[volume]\ngrade = \"paper\"", &["volume.grade", "disk", "memory"]),
        (preset, "[volume]\njournal_mb = 1", &["volume.journal_mb = 1", "16 to"]),
        (preset, "bin_dir = \"/x\"", &["engine.bin_dir", "postgres", "database.command"]),
        (preset, "user = \"x\"", &["engine.user", "database.user"]),
        (preset, "hba = [\"local all all trust\"]", &["engine.hba", "database.files"]),
        (preset, "parameters = { work_mem = 1 }", &["engine.parameters.work_mem", "database.args"]),
    ];
    for (top, rest, words) in cases {
        let e = error(top, rest);
        for word in *words {
            assert!(e.contains(word), "{word:?} is missing in: {e}");
        }
    }
}

#[test]
fn what_is_a_volumes_is_refused_with_postgresql() {
    let text = |top: &str, rest: &str| format!("{HEAD}{top}\n{MEMBERS}[engine]\nkind = \"postgres\"\n{rest}\n");
    for (top, rest, word) in [
        ("preset = \"redis\"", "", "preset"),
        ("", "[database]\ncommand = \"x\"", "database"),
        ("", "[volume]\ngrade = \"disk\"", "volume"),
    ] {
        let e = Config::parse(Path::new("/etc/t.toml"), &text(top, rest)).expect_err(word).to_string();
        assert!(e.contains(word) && e.contains("only for engine.kind = \"volume\""), "{e}");
    }
    assert!(Config::parse(Path::new("/etc/t.toml"), &text("", "")).unwrap().volume.is_none());
}
