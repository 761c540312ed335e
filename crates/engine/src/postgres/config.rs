//! The settings: which are the engine's, which the user's, and the files they are written to.
//!
//! The files are outside the data directory, so no clone or rewind ever brings another node's settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PostgresConfig;
use super::paths::Paths;
use crate::{EngineError, SyncSetting, Upstream};

/// Settings with one value that replication depends on, and why they are not the user's.
pub(super) const FIXED: &[(&str, &str, &str)] = &[
    ("hot_standby", "on", "standbys answer the agent and readers"),
    ("fsync", "on", "a commit that was acknowledged must survive a power loss"),
    ("full_page_writes", "on", "a page half written in a power loss must be repairable"),
    ("wal_log_hints", "on", "pg_rewind needs it"),
    ("restart_after_crash", "off", "after a crash the cluster decides who is the primary"),
    ("data_sync_retry", "off", "a failed fsync must not pass for a good one"),
    ("recovery_target_timeline", "latest", "standbys follow the primary of each epoch"),
    ("recovery_min_apply_delay", "0", "a standby must be able to lead at once"),
    ("wal_retrieve_retry_interval", "100ms", "standbys must find a new primary quickly"),
    ("wal_receiver_create_temp_slot", "off", "each member has its slot"),
    ("wal_sender_timeout", "5s", "a standby that has gone must be noticed"),
    ("wal_receiver_timeout", "5s", "a primary that has gone must be noticed"),
    ("wal_receiver_status_interval", "1s", "the primary shows how far its standbys are"),
    ("ssl", "on", "nodes know each other by certificates"),
    ("ssl_min_protocol_version", "TLSv1.2", "nodes know each other by certificates"),
    ("password_encryption", "scram-sha-256", "passwords are kept as scram secrets"),
    ("lc_messages", "C", "the agent reads the messages"),
    ("logging_collector", "off", "the guard keeps the log, in log/database.log"),
    ("log_destination", "stderr", "the guard keeps the log, in log/database.log"),
    ("log_line_prefix", "%m [%p] %b ", "the agent reads the log"),
    ("update_process_title", "on", "the agent finds the database's processes by their titles"),
    ("allow_in_place_tablespaces", "off", "clones and rewinds would miss them"),
];

/// Settings whose value the engine computes, or that would undo what it does.
const OWNED: &[(&str, &str)] = &[
    ("listen_addresses", "the node's address in trine.toml decides"),
    ("port", "[ports] in trine.toml decides"),
    ("unix_socket_directories", "the agent and the endpoints use their own"),
    ("unix_socket_permissions", "only the node's endpoints may use the socket"),
    ("unix_socket_group", "only the node's endpoints may use the socket"),
    ("synchronous_standby_names", "[sync] in trine.toml decides"),
    ("primary_conninfo", "the cluster decides who follows whom"),
    ("primary_slot_name", "the cluster decides who follows whom"),
    ("promote_trigger_file", "the cluster decides who is the primary"),
    ("restore_command", "a standby's log comes from the primary only"),
    ("archive_cleanup_command", "a standby's log comes from the primary only"),
    ("recovery_end_command", "a promotion must not wait for a command"),
    ("recovery_target", "that is for a restore"),
    ("recovery_target_action", "that is for a restore"),
    ("recovery_target_inclusive", "that is for a restore"),
    ("recovery_target_lsn", "that is for a restore"),
    ("recovery_target_name", "that is for a restore"),
    ("recovery_target_time", "that is for a restore"),
    ("recovery_target_xid", "that is for a restore"),
    ("ssl_ca_file", "the node's certificate is used"),
    ("ssl_cert_file", "the node's certificate is used"),
    ("ssl_key_file", "the node's certificate is used"),
    ("ssl_crl_file", "the node's certificate is used"),
    ("ssl_crl_dir", "the node's certificate is used"),
    ("ssl_passphrase_command", "the node's certificate is used"),
    ("data_directory", "the node's folder decides"),
    ("config_file", "the node's folder decides"),
    ("hba_file", "engine.hba takes lines for it"),
    ("ident_file", "the node's folder decides"),
    ("external_pid_file", "the guard knows the process"),
    ("include", "write the settings themselves"),
    ("include_if_exists", "write the settings themselves"),
    ("include_dir", "write the settings themselves"),
];

/// Settings of which the engine needs at least so much.
const AT_LEAST: &[(&str, u32)] =
    &[("max_wal_senders", 16), ("max_replication_slots", 16), ("superuser_reserved_connections", 5)];

/// What the user may change, where PostgreSQL's own default is no good here.
const DEFAULTS: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("max_wal_senders", "16"),
    ("max_replication_slots", "16"),
    ("superuser_reserved_connections", "8"),
    // Enough that a node that was away for a short while can follow or rewind without a slot.
    ("wal_keep_size", "256MB"),
    // A member that is away for long must not fill the primary's disk.
    ("max_slot_wal_keep_size", "4GB"),
    ("synchronous_commit", "on"),
    // After a crash: one flush for the file system, not one for each of thousands of files.
    ("recovery_init_sync_method", "syncfs"),
];

/// What only some versions know.
fn known(key: &str, major: u32) -> bool {
    match key {
        "allow_in_place_tablespaces" => major >= 15,
        "recovery_init_sync_method" => major >= 14,
        _ => true,
    }
}

/// Checks the user's settings. Each refusal names the setting, the value and the reason.
pub(super) fn check(parameters: &BTreeMap<String, String>) -> Result<(), EngineError> {
    for (key, value) in parameters {
        if let Err(why) = check_one(key, value) {
            return Err(EngineError::Config(format!("engine.parameters: {key} = {value:?} can't be used: {why}")));
        }
    }
    Ok(())
}

fn check_one(key: &str, value: &str) -> Result<(), String> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if key.is_empty() || !key.chars().all(well_formed) || !key.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err("that is no name of a setting".into());
    }
    if key.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("write the name in lower case".into());
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err("a value must be on one line".into());
    }
    if let Some((_, fixed, why)) = FIXED.iter().find(|(k, ..)| *k == key) {
        let same = value.eq_ignore_ascii_case(fixed) || (switch(value).is_some() && switch(value) == switch(fixed));
        return if same { Ok(()) } else { Err(format!("it must be {fixed}, because {why}")) };
    }
    if let Some((_, why)) = OWNED.iter().find(|(k, _)| *k == key) {
        return Err((*why).into());
    }
    if let Some((_, least)) = AT_LEAST.iter().find(|(k, _)| *k == key) {
        return match value.trim().parse::<u32>() {
            Ok(n) if n >= *least => Ok(()),
            _ => Err(format!("it must be a number of at least {least}, the nodes themselves need that many")),
        };
    }
    match key {
        "wal_level" if !["replica", "logical"].contains(&value) => {
            Err("it must be replica or logical: standbys need it".into())
        }
        "synchronous_commit" if !["on", "remote_apply", "true", "yes", "1"].contains(&value) => Err(
            "as a default it must be on or remote_apply, or acknowledged commits could be lost (a session may still \
             set another value for itself)"
                .into(),
        ),
        "max_slot_wal_keep_size" if value.trim().starts_with('-') => {
            Err("without a limit a node that is away fills the primary's disk".into())
        }
        _ => Ok(()),
    }
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Whether a setting is the engine's alone: it is taken out of what `ALTER SYSTEM` wrote.
pub(super) fn is_managed(key: &str) -> bool {
    FIXED.iter().any(|(k, ..)| *k == key) || OWNED.iter().any(|(k, _)| *k == key)
}

/// Takes the managed settings out of `postgresql.auto.conf`, where they would win over everything. Says which there were.
pub(super) fn strip_auto_conf(text: &str) -> (String, Vec<String>) {
    let mut taken = Vec::new();
    let mut rest = String::new();
    for line in text.lines() {
        match line.split('=').next().map(|k| k.trim().to_ascii_lowercase()) {
            Some(key) if is_managed(&key) || check_one(&key, value_of(line)).is_err() && is_bounded(&key) => {
                taken.push(line.trim().to_owned());
            }
            _ => {
                rest.push_str(line);
                rest.push('\n');
            }
        }
    }
    (rest, taken)
}

fn is_bounded(key: &str) -> bool {
    AT_LEAST.iter().any(|(k, _)| *k == key)
        || ["wal_level", "synchronous_commit", "max_slot_wal_keep_size"].contains(&key)
}

fn value_of(line: &str) -> &str {
    line.split_once('=').map(|(_, v)| v.trim().trim_matches('\'')).unwrap_or_default()
}

/// What changes while the database runs, with a reload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Live {
    /// Whom it follows, and the folder with the credentials for that.
    pub(super) upstream: Option<(Upstream, String)>,
    /// What commits wait for.
    pub(super) sync: SyncSetting,
    /// Every process of the database is known to have taken `sync` over.
    pub(super) settled: bool,
    /// Commits may pass without waiting: so it was, and it is not yet known to have ended.
    pub(super) passing: bool,
}

/// How a database starts: sealed.
impl Default for Live {
    fn default() -> Self {
        Self { upstream: None, sync: SyncSetting::Wait, settled: true, passing: false }
    }
}

/// The standby that does not exist: no node's name has an underscore.
const NOBODY: &str = "trine_nobody";

/// The sync rule in PostgreSQL's words.
pub(super) fn sync_names(setting: &SyncSetting) -> String {
    match setting {
        SyncSetting::Alone => String::new(),
        SyncSetting::Any { acks, standbys } if *acks >= 1 && *acks <= standbys.len() => {
            let names: Vec<String> = standbys.iter().map(|n| format!("\"{n}\"")).collect();
            format!("ANY {acks} ({})", names.join(", "))
        }
        SyncSetting::Wait | SyncSetting::Any { .. } => format!("ANY 1 ({NOBODY})"),
    }
}

impl Live {
    /// When there is no telling what a running database was told: nothing is taken for granted.
    pub(super) fn unknown() -> Self {
        Self { settled: false, passing: true, ..Self::default() }
    }

    /// The text of `live.conf`.
    pub(super) fn render(&self, config: &PostgresConfig, paths: &Paths) -> String {
        let memo = serde_json::to_string(self).unwrap_or_default();
        let mut text = format!("# {memo}\n");
        set(&mut text, "synchronous_standby_names", &sync_names(&self.sync));
        match &self.upstream {
            Some((upstream, link)) => {
                let conninfo = conninfo(config.me.as_str(), upstream, &paths.sockets.join(link), None);
                set(&mut text, "primary_conninfo", &conninfo);
                set(&mut text, "primary_slot_name", &slot_name(config.me.as_str()));
            }
            None => {
                set(&mut text, "primary_conninfo", "");
                set(&mut text, "primary_slot_name", "");
                // A sealed node must get to the end of its log: readers that are in the way yield at once.
                set(&mut text, "max_standby_streaming_delay", "0");
                set(&mut text, "max_standby_archive_delay", "0");
            }
        }
        text
    }

    /// What `live.conf` says, for an agent that finds its database running.
    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text.lines().next()?.strip_prefix("# ")?).ok()
    }
}

/// The slot that keeps the log for a member.
pub(super) fn slot_name(node: &str) -> String {
    format!("trine_{}", node.replace('-', "_"))
}

/// How to connect to another node's database as a replica: with this node's certificate, to nobody but that node.
/// `link` is the folder with the certificates.
///
/// `name` is what the primary sees. Only the standby itself goes by the node's name: a tool under that name would count
/// for the sync rule.
pub(super) fn conninfo(name: &str, to: &Upstream, link: &Path, database: Option<&str>) -> String {
    let file = |name: &str| link.join(name).display().to_string();
    let mut all = vec![
        ("host", to.node.to_string()),
        ("hostaddr", to.address.ip().to_string()),
        ("port", to.address.port().to_string()),
        ("user", "trine_replication".into()),
        ("application_name", name.to_owned()),
        ("sslmode", "verify-full".into()),
        ("sslrootcert", file("ca.pem")),
        ("sslcert", file("node.pem")),
        ("sslkey", file("node.key")),
        ("gssencmode", "disable".into()),
        ("connect_timeout", "2".into()),
        ("keepalives_idle", "2".into()),
        ("keepalives_interval", "1".into()),
        ("keepalives_count", "3".into()),
        ("tcp_user_timeout", "5000".into()),
    ];
    all.extend(database.map(|d| ("dbname", d.to_owned())));
    let quoted = |v: String| format!("'{}'", v.replace('\\', "\\\\").replace('\'', "\\'"));
    all.into_iter().map(|(k, v)| format!("{k}={}", quoted(v))).collect::<Vec<_>>().join(" ")
}

/// The text of `postgresql.conf`. `floor`: what the data's own primary had of the settings that a standby must not have
/// less of.
pub(super) fn render(config: &PostgresConfig, paths: &Paths, major: u32, floor: &[(String, u32)]) -> String {
    let mut text =
        String::from("# Written by trine at every start. Your own settings: [engine.parameters] in trine.toml.\n");
    for (key, value) in DEFAULTS.iter().filter(|(k, _)| known(k, major)) {
        if !config.parameters.contains_key(*key) {
            set(&mut text, key, value);
        }
    }
    for (key, value) in config.parameters.iter().filter(|(k, _)| !is_managed(k)) {
        set(&mut text, key, value);
    }
    for (key, least) in floor {
        let default = DEFAULTS.iter().find(|(k, _)| k == key).map_or_else(|| built_in(key), |(_, v)| (*v).into());
        let has = config.parameters.get(key).map_or(default, Clone::clone);
        if has.trim().parse::<u32>().is_ok_and(|has| has < *least) {
            tracing::warn!(setting = %key, value = %has, needed = least, "raised: the data comes from a primary with more");
            set(&mut text, key, &least.to_string());
        }
    }
    for (key, value, _) in FIXED.iter().filter(|(k, ..)| known(k, major)) {
        set(&mut text, key, value);
    }
    let tls = |name: &str| paths.sockets.join(name).display().to_string();
    set(&mut text, "listen_addresses", &config.address.to_string());
    set(&mut text, "port", &config.port.to_string());
    set(&mut text, "unix_socket_directories", &paths.sockets.display().to_string());
    set(&mut text, "ssl_ca_file", &tls("ca.pem"));
    set(&mut text, "ssl_cert_file", &tls("node.pem"));
    set(&mut text, "ssl_key_file", &tls("node.key"));
    for key in ["restore_command", "archive_cleanup_command", "recovery_end_command"] {
        set(&mut text, key, "");
    }
    text.push_str("include 'live.conf'\n");
    text
}

/// PostgreSQL's own defaults of what a standby must not have less of than its primary.
fn built_in(key: &str) -> String {
    let default = match key {
        "max_connections" => "100",
        "max_worker_processes" => "8",
        "max_locks_per_transaction" => "64",
        _ => "0",
    };
    default.into()
}

fn set(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(key: &str, value: &str) -> String {
        check(&BTreeMap::from([(key.to_owned(), value.to_owned())])).unwrap_err().to_string()
    }

    #[test]
    fn a_setting_that_replication_needs_is_refused_with_the_reason() {
        assert_eq!(
            refusal("fsync", "off"),
            "engine.parameters: fsync = \"off\" can't be used: it must be on, because a commit that was acknowledged must \
             survive a power loss"
        );
        assert!(refusal("primary_conninfo", "host=x").contains("the cluster decides who follows whom"));
        assert!(refusal("max_wal_senders", "3").contains("at least 16"));
        assert!(refusal("synchronous_commit", "local").contains("could be lost"));
        assert!(refusal("Work_mem", "1MB").contains("lower case"));
        assert!(refusal("work_mem", "1MB\nfsync=off").contains("one line"));
        let fine = [("fsync", "true"), ("work_mem", "8MB"), ("wal_level", "logical"), ("pg_stat_statements.max", "1")];
        check(&fine.map(|(k, v)| (k.to_owned(), v.to_owned())).into()).unwrap();
    }

    #[test]
    fn alter_system_does_not_reach_managed_settings() {
        let (rest, taken) = strip_auto_conf(
            "# note\nwork_mem = '8MB'\nsynchronous_standby_names = '*'\nport = '1'\nsynchronous_commit = 'off'\n",
        );
        assert_eq!(rest, "# note\nwork_mem = '8MB'\n");
        assert_eq!(taken, ["synchronous_standby_names = '*'", "port = '1'", "synchronous_commit = 'off'"]);
    }

    #[test]
    fn the_sync_rule_in_words() {
        let names = |list: &[&str]| list.iter().map(|n| n.parse().unwrap()).collect();
        let any = SyncSetting::Any { acks: 1, standbys: names(&["n2", "n-3"]) };
        assert_eq!(sync_names(&any), "ANY 1 (\"n-3\", \"n2\")");
        assert_eq!(sync_names(&SyncSetting::Alone), "");
        assert_eq!(sync_names(&SyncSetting::Wait), "ANY 1 (trine_nobody)");
        // A rule that nobody can meet waits; it must never become one that anybody meets.
        assert_eq!(sync_names(&SyncSetting::Any { acks: 2, standbys: names(&["n2"]) }), "ANY 1 (trine_nobody)");
        assert_eq!(sync_names(&SyncSetting::Any { acks: 0, standbys: names(&["n2"]) }), "ANY 1 (trine_nobody)");
    }
}
