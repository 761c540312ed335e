//! The settings: which are the engine's, which the user's, and the file they are written to. It is outside the data
//! directory, so no copy ever brings another node's settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::dialect::Dialect;
use super::engine::MysqlConfig;
use super::paths::Paths;
use crate::EngineError;

/// The settings that one of the databases has.
#[derive(Debug)]
pub(super) struct Tables {
    /// Settings with one value that replication depends on, and why they are not the user's.
    pub(super) fixed: &'static [(&'static str, &'static str, &'static str)],
    /// Settings whose value the engine computes, or that would undo what it does.
    pub(super) owned: &'static [(&'static str, &'static str)],
    /// What the user may change, where the database's own default is no good here.
    pub(super) defaults: &'static [(&'static str, &'static str)],
    /// What may be there several times, in lines of its own.
    pub(super) extra: &'static [(&'static str, &'static str)],
}

/// As the database writes them: `-` and `_` are the same, and so are big and small letters.
fn plain_name(key: &str) -> String {
    key.trim().to_ascii_lowercase().replace('-', "_")
}

/// Checks the user's settings. Each refusal names the setting, the value and the reason.
pub(super) fn check(dialect: Dialect, parameters: &BTreeMap<String, String>) -> Result<(), EngineError> {
    for (key, value) in parameters {
        if let Err(why) = check_one(dialect.settings(), key, value) {
            return Err(EngineError::Config(format!("engine.parameters: {key} = {value:?} can't be used: {why}")));
        }
    }
    Ok(())
}

/// Is `value` another way of writing `fixed`?
pub(super) fn same_value(fixed: &str, value: &str) -> bool {
    value.eq_ignore_ascii_case(fixed) || (fixed == "ON" && value == "1") || (fixed == "OFF" && value == "0")
}

fn check_one(tables: &Tables, key: &str, value: &str) -> Result<(), String> {
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
    if let Some((_, fixed, why)) = tables.fixed.iter().find(|(k, _, _)| any(k)) {
        return if same_value(fixed, value) && bare.is_none() {
            Ok(())
        } else {
            Err(format!("it is always {fixed}: {why}"))
        };
    }
    match tables.owned.iter().find(|(k, _)| any(k)) {
        Some((_, why)) => Err((*why).to_owned()),
        None => Ok(()),
    }
}

/// The settings file of this node. It holds no secret.
pub(super) fn render(config: &MysqlConfig, paths: &Paths) -> String {
    let (tables, section) = (config.dialect.settings(), config.dialect.words().section);
    let mut text =
        format!("# Written by trine at each start. Settings of your own go to [engine.parameters].\n[{section}]\n");
    let mut put = |key: &str, value: &str| {
        let _ = writeln!(text, "{key} = {value}");
    };
    for (key, value) in tables.defaults {
        if !config.parameters.keys().any(|k| plain_name(k) == *key) {
            put(key, value);
        }
    }
    for (key, value) in &config.parameters {
        put(&plain_name(key), value);
    }
    for (key, value, _) in tables.fixed {
        put(key, value);
    }
    put("datadir", &paths.data.display().to_string());
    put("socket", &paths.socket().display().to_string());
    put("pid_file", &paths.sockets.join("mysqld.pid").display().to_string());
    put("server_id", &config.server_id.to_string());
    for (key, value) in tables.extra {
        put(key, value);
    }
    // Its own: at a start it removes what it takes for its leftovers, another database's too.
    put("tmpdir", &paths.tools.display().to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> Option<String> {
        check(Dialect::MariaDb, &BTreeMap::from([(key.to_owned(), value.to_owned())])).err().map(|e| e.to_string())
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
