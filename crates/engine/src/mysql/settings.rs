//! The settings: which are the engine's, which the user's, and the file they are written to. It is outside the data
//! directory, so no copy ever brings another node's settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::MysqlConfig;
use super::paths::{Paths, own};
use crate::EngineError;

/// Settings with one value that replication depends on, and why they are not the user's.
const FIXED: &[(&str, &str, &str)] = &[
    ("log_bin", "binlog", "it is what the standbys take"),
    ("log_slave_updates", "ON", "a standby must be able to lead at once"),
    ("binlog_format", "ROW", "the copies must be equal whatever a statement does"),
    ("binlog_checksum", "CRC32", "a damaged log must be noticed"),
    ("gtid_domain_id", "0", "the numbers of transactions say how far a copy reaches"),
    ("gtid_strict_mode", "ON", "the numbers of transactions say how far a copy reaches"),
    ("sync_binlog", "1", "a commit that was acknowledged must survive a power loss"),
    ("innodb_flush_log_at_trx_commit", "1", "a commit that was acknowledged must survive a power loss"),
    ("innodb_doublewrite", "ON", "a page half written in a power loss must be repairable"),
    ("sync_relay_log", "1", "what a standby acknowledges it must have on disk"),
    ("rpl_semi_sync_master_wait_point", "AFTER_SYNC", "nobody may read what the standbys do not have"),
    ("rpl_semi_sync_master_timeout", "18446744073709551615", "a commit never goes through without the standbys"),
    ("rpl_semi_sync_master_wait_no_slave", "ON", "a commit never goes through without the standbys"),
    ("rpl_semi_sync_master_enabled", "OFF", "the cluster decides who is the primary"),
    ("rpl_semi_sync_slave_enabled", "OFF", "[sync] in trine.toml decides"),
    ("read_only", "ON", "the cluster decides who is the primary"),
    ("skip_slave_start", "ON", "the cluster decides who follows whom"),
    ("slave_net_timeout", "4", "a primary that has gone must be noticed"),
    ("relay_log", "received", "the agent looks after the received log"),
    ("relay_log_purge", "ON", "the agent looks after the received log"),
    ("skip_name_resolve", "ON", "clients come from the endpoint on this machine"),
    ("skip_networking", "ON", "clients and standbys come through the agent"),
    ("local_infile", "ON", "it is the client's choice"),
];

/// Settings whose value the engine computes, or that would undo what it does.
const OWNED: &[(&str, &str)] = &[
    ("server_id", "the cluster numbers its nodes"),
    ("datadir", "the node's folder decides"),
    ("socket", "the agent and the endpoints use their own"),
    ("port", "[ports] in trine.toml decides"),
    ("bind_address", "clients and standbys come through the agent"),
    ("pid_file", "the guard knows the process"),
    ("log_error", "the guard keeps the log, in log/database.log"),
    ("user", "engine.user names it"),
    ("init_file", "nothing may be written before the cluster knows who leads"),
    ("init_rpl_role", "the agent decides it"),
    ("init_slave", "a standby executes the log and nothing else"),
    ("slave_skip_errors", "the copies would differ"),
    ("slave_exec_mode", "the copies would differ"),
    ("replicate_do_db", "the copies would differ"),
    ("replicate_ignore_db", "the copies would differ"),
    ("replicate_do_table", "the copies would differ"),
    ("replicate_ignore_table", "the copies would differ"),
    ("replicate_wild_do_table", "the copies would differ"),
    ("replicate_wild_ignore_table", "the copies would differ"),
    ("replicate_rewrite_db", "the copies would differ"),
    ("binlog_do_db", "the copies would differ"),
    ("binlog_ignore_db", "the copies would differ"),
    ("sql_log_bin", "the copies would differ"),
    ("innodb_read_only", "a standby must be able to lead at once"),
    ("innodb_force_recovery", "it is for a person, with the cluster down"),
    ("skip_grant_tables", "anybody could write"),
    ("lower_case_table_names", "it can't be changed for data that is there"),
    ("ssl", "the endpoints have the node's certificate"),
    ("ssl_ca", "the endpoints have the node's certificate"),
    ("ssl_cert", "the endpoints have the node's certificate"),
    ("ssl_key", "the endpoints have the node's certificate"),
    ("require_secure_transport", "clients come over a unix socket, whatever they have said to the endpoint"),
    ("tmpdir", "the node's folder decides"),
    ("ignore_db_dirs", "the agent keeps a folder of its own there"),
    ("plugin_load", "name plugins in plugin_load_add"),
];

/// What the user may change, where the database's own default is no good here.
const DEFAULTS: &[(&str, &str)] = &[
    // Commits of one primary are applied by several threads: a standby that lags delays a failover.
    ("slave_parallel_mode", "optimistic"),
    ("slave_parallel_threads", "4"),
    ("slave_domain_parallel_threads", "4"),
    // Three days: a node that was away for so long can still follow. The database's own default is for ever.
    ("binlog_expire_logs_seconds", "259200"),
    ("max_binlog_size", "268435456"),
    ("character_set_server", "utf8mb4"),
    ("max_connections", "500"),
    // Connections that say nothing, as health checks make them, are no errors to log.
    ("log_warnings", "1"),
];

/// As the database writes them: `-` and `_` are the same, and so are big and small letters.
fn plain_name(key: &str) -> String {
    key.trim().to_ascii_lowercase().replace('-', "_")
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
    let name = plain_name(key);
    let well_formed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if name.is_empty() || !name.chars().all(well_formed) || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err("that is no name of a setting".into());
    }
    if value.chars().any(|c| c.is_control() || c == '\'' || c == '"') {
        return Err("a value has no quotes and no control characters".into());
    }
    // Prefixes such as `skip_` and `loose_` lead to the same settings.
    let bare = ["loose_", "skip_", "disable_", "enable_", "maximum_"].iter().find_map(|p| name.strip_prefix(p));
    let any = |wanted: &str| wanted == name || bare == Some(wanted);
    if let Some((_, fixed, why)) = FIXED.iter().find(|(k, _, _)| any(k)) {
        let same =
            value.eq_ignore_ascii_case(fixed) || (*fixed == "ON" && value == "1") || (*fixed == "OFF" && value == "0");
        return if same && bare.is_none() { Ok(()) } else { Err(format!("it is always {fixed}: {why}")) };
    }
    match OWNED.iter().find(|(k, _)| any(k)) {
        Some((_, why)) => Err((*why).to_owned()),
        None => Ok(()),
    }
}

/// The settings file of this node. It holds no secret.
pub(super) fn render(config: &MysqlConfig, paths: &Paths) -> String {
    let mut text =
        String::from("# Written by trine at each start. Settings of your own go to [engine.parameters].\n[mariadbd]\n");
    let mut put = |key: &str, value: &str| {
        let _ = writeln!(text, "{key} = {value}");
    };
    for (key, value) in DEFAULTS {
        if !config.parameters.keys().any(|k| plain_name(k) == *key) {
            put(key, value);
        }
    }
    for (key, value) in &config.parameters {
        put(&plain_name(key), value);
    }
    for (key, value, _) in FIXED {
        put(key, value);
    }
    put("datadir", &paths.data.display().to_string());
    put("socket", &paths.socket().display().to_string());
    put("pid_file", &paths.sockets.join("mysqld.pid").display().to_string());
    put("server_id", &config.server_id.to_string());
    put("ignore_db_dirs", own::SALVAGE);
    put("ignore_db_dirs", own::SALVAGE_NEW);
    // Its own: at a start it removes what it takes for its leftovers, another database's too.
    put("tmpdir", &paths.tools.display().to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> Option<String> {
        check(&BTreeMap::from([(key.to_owned(), value.to_owned())])).err().map(|e| e.to_string())
    }

    #[test]
    fn what_would_cost_a_commit_is_refused() {
        for (key, value) in [
            ("sync_binlog", "0"),
            ("Sync-Binlog", "0"),
            ("loose-sync-binlog", "0"),
            ("rpl_semi_sync_master_timeout", "1000"),
            ("skip_log_bin", "ON"),
            ("slave-skip-errors", "all"),
            ("replicate_do_db", "app"),
            ("a b", "1"),
            ("max_connections", "1\nsync_binlog = 0"),
        ] {
            let said = refused(key, value).unwrap_or_default();
            assert!(said.contains(key) && said.contains("can't be used"), "{key}: {said:?}");
        }
    }

    #[test]
    fn what_is_the_users_is_taken() {
        for (key, value) in [("max-connections", "1000"), ("innodb_buffer_pool_size", "4G"), ("sync_binlog", "1")] {
            assert_eq!(refused(key, value), None);
        }
    }
}
