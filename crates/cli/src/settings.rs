//! Settings from a file and from `--set`, merged over the generated ones.

use std::fs;
use std::path::Path;

use toml::{Table, Value};
use trine_agent::{Config, ConfigError};

use crate::failure::{Done, Failure};

/// What describes the cluster itself can't be set from outside: it is the same on all nodes, or made for each.
const FIXED: [&str; 5] = ["cluster", "cluster_id", "node", "dir", "members"];

/// The settings of `--config` and of each `--set`, the later over the earlier.
pub(crate) fn overrides(file: Option<&Path>, set: &[String]) -> Done<Table> {
    let mut all = Table::new();
    if let Some(path) = file {
        let text = fs::read_to_string(path).map_err(|e| Failure {
            exit: crate::failure::Exit::WrongUse,
            ..Failure::because(format!("can't read {}", path.display()), &e)
        })?;
        let table: Table = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |s| text.bytes().take(s.start).filter(|b| *b == b'\n').count() + 1);
            Failure::wrong_use(format!("{}:{line}: {}", path.display(), e.message().replace('\n', ", ")))
        })?;
        fixed(&table, &path.display().to_string())?;
        merge(&mut all, table);
    }
    for setting in set {
        let table = one(setting)?;
        fixed(&table, "--set")?;
        merge(&mut all, table);
    }
    Ok(all)
}

fn fixed(table: &Table, from: &str) -> Done {
    match FIXED.iter().find(|key| table.contains_key(**key)) {
        Some(key) => Err(Failure::wrong_use(format!("{from}: {key} can't be set: it is what the cluster is made of"))),
        None => Ok(()),
    }
}

/// `KEY=VALUE`, where the key is dotted and the value is TOML, or else a string.
fn one(setting: &str) -> Done<Table> {
    let wrong = || Failure::wrong_use(format!("--set {setting}: use KEY=VALUE, such as timing.lease_ms=2000"));
    let (key, value) = setting.split_once('=').ok_or_else(wrong)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.contains(['\n', '#']) {
        return Err(wrong());
    }
    if let Ok(table) = toml::from_str::<Table>(&format!("{key} = {value}")) {
        return Ok(table);
    }
    let quoted = Value::String(value.to_owned()).to_string();
    toml::from_str(&format!("{key} = {quoted}")).map_err(|_| wrong())
}

/// Puts `over` over `base`, table by table.
pub(crate) fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The text of a trine.toml: who and where first, then the rest.
pub(crate) fn write(table: &Table) -> Done<String> {
    // A key that is no table's must come before the first table.
    const ORDER: [&str; 13] = [
        "cluster",
        "cluster_id",
        "node",
        "dir",
        "preset",
        "ports",
        "members",
        "engine",
        "database",
        "volume",
        "sync",
        "timing",
        "endpoint",
    ];
    let mut rest = table.clone();
    let mut text = "# A node of a trine cluster. `members` must be the same on every node.\n".to_owned();
    let sections = ORDER.iter().filter_map(|key| rest.remove(*key).map(|v| ((*key).to_owned(), v))).collect::<Vec<_>>();
    for (key, value) in sections.into_iter().chain(rest) {
        if let ("members", Value::Array(members)) = (key.as_str(), &value) {
            for member in members.iter().filter_map(Value::as_table) {
                text.push_str("\n[[members]]\n");
                lines(member, &["name", "address", "zone", "priority", "voter"], &mut text)?;
            }
            continue;
        }
        if matches!(value, Value::Table(_) | Value::Array(_)) {
            text.push('\n');
        }
        let section = Table::from_iter([(key, value)]);
        lines(&section, &[], &mut text)?;
    }
    Ok(text)
}

/// The lines of a table: these keys first, then the others.
fn lines(table: &Table, first: &[&str], text: &mut String) -> Done {
    let mut rest = table.clone();
    let first: Vec<_> = first.iter().filter_map(|key| rest.remove(*key).map(|v| ((*key).to_owned(), v))).collect();
    for (key, value) in first.into_iter().chain(rest) {
        let line = toml::to_string(&Table::from_iter([(key, value)]));
        text.push_str(&line.map_err(|e| Failure::because("can't write the configuration", &e))?);
    }
    Ok(())
}

/// Checks a generated configuration. What is wrong with it came from `--config` or `--set`, so the error points there.
pub(crate) fn check(text: &str, file: Option<&Path>) -> Done<Config> {
    Config::parse(Path::new("trine.toml"), text).map_err(|e| {
        let (key, what) = match &e {
            ConfigError::Syntax { message, .. } => (None, message.clone()),
            ConfigError::Value { key, value, allowed, .. } => (Some(key), format!("{key} = {value}: {allowed}")),
            _ => return Failure::from(e),
        };
        let place = file.zip(key.and_then(|k| k.rsplit('.').next())).and_then(|(path, name)| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().position(|l| l.trim_start().starts_with(name))?;
            Some(format!("{}:{}: ", path.display(), line + 1))
        });
        Failure::wrong_use(format!("{}{what}", place.unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_toml_or_else_text() {
        let set = |s: &str| overrides(None, &[s.to_owned()]).unwrap().to_string();
        assert_eq!(set("timing.lease_ms=2000"), "[timing]\nlease_ms = 2000\n");
        assert_eq!(set("engine.parameters.shared_buffers=256MB"), "[engine.parameters]\nshared_buffers = \"256MB\"\n");
        assert_eq!(set("sync.durability=available"), "[sync]\ndurability = \"available\"\n");
        assert_eq!(set("endpoint.reader_uses_primary=false"), "[endpoint]\nreader_uses_primary = false\n");
        for wrong in ["timing.lease_ms", "=1", "a b=1", "node=n9", "members=[]"] {
            assert!(overrides(None, &[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_preset_stands_before_the_tables() {
        let all = overrides(None, &["preset=redis".to_owned(), "volume.grade=memory".to_owned()]).unwrap();
        let mut table: Table =
            toml::from_str("cluster = \"c\"\n[ports]\nwriter = 1\n[engine]\nkind = \"volume\"\n").unwrap();
        merge(&mut table, all);
        let again: Table = toml::from_str(&write(&table).unwrap()).unwrap();
        assert_eq!(again, table);
    }

    #[test]
    fn later_settings_win_and_tables_are_merged() {
        let set =
            ["timing.lease_ms=2000".to_owned(), "timing.suspect_ms=900".to_owned(), "timing.lease_ms=3000".to_owned()];
        assert_eq!(overrides(None, &set).unwrap().to_string(), "[timing]\nlease_ms = 3000\nsuspect_ms = 900\n");
    }
}
