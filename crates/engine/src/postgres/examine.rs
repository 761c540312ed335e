//! What users have made or set that replication can do little about.
//!
//! What is in the databases is the same on every node, so the primary is asked for it; settings are each node's own.

use std::collections::BTreeMap;

use tokio::time::timeout;
use tokio_postgres::Row;

use super::Postgres;
use super::config::{FIXED, Live, sync_names};
use super::session::Session;
use crate::finding::{LIMIT, STATEMENT_S};
use crate::{EngineError, Finding};

/// Of the files that settings come from, the one that `ALTER SYSTEM` writes. The agent's own session has a value of its own.
const BY_ALTER_SYSTEM: &str = "select setting from pg_file_settings \
    where lower(name) = 'synchronous_commit' and sourcefile like '%/postgresql.auto.conf'";

/// What roles and databases are set to. The agent's role is not asked: its sessions say themselves what they need.
const BY_ROLE: &str = "select d.datname::text, r.rolname::text, substr(c.setting, strpos(c.setting, '=') + 1) \
    from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole \
    cross join unnest(s.setconfig) as c(setting) \
    where c.setting like 'synchronous\\_commit=%' and r.rolname is distinct from 'trine' order by 1, 2";

const LOGICAL_SLOTS: &str = "select format('%s (database %s)', slot_name, database) from pg_replication_slots \
    where slot_type = 'logical' and not temporary order by 1";

const OLD_PREPARED: &str = "select format('%s (%s in %s)', gid, owner, database) from pg_prepared_xacts \
    where prepared < now() - interval '1 hour' order by 1";

const DATABASES: &str = "select datname::text from pg_database where datallowconn and not datistemplate order by 1";

const UNLOGGED: &str = "select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relpersistence = 'u' and c.relkind = 'r' order by 1";

impl Postgres {
    pub(super) async fn examine(&self) -> Result<Vec<Finding>, EngineError> {
        timeout(LIMIT, self.examine_now()).await.unwrap_or(Err(EngineError::Timeout("be examined")))
    }

    async fn examine_now(&self) -> Result<Vec<Finding>, EngineError> {
        let pid = self.running()?;
        let session = self.session_in("postgres").await?;
        let (live, leads, now) = loop {
            let before = self.live();
            let leads = self.primary(&session).await?.is_some();
            let now = settings(&session).await?;
            // A rule that was changed meanwhile says nothing.
            if self.live() == before {
                break (before, leads, now);
            }
        };
        let mut found = settings_found(FIXED, &now);
        let by_file = texts(&session, BY_ALTER_SYSTEM).await?;
        let mut by: Vec<_> = by_file.into_iter().map(|value| ("ALTER SYSTEM".to_owned(), value)).collect();
        if leads {
            found.extend(rule_found(&live, &now));
            let rows = query(&session, BY_ROLE).await?;
            by.extend(rows.iter().map(|r| (whose(r.get(0), r.get(1)), r.get(2))));
            found.extend(commits_found(&by));
            found.extend(slots_found(texts(&session, LOGICAL_SLOTS).await?));
            found.extend(prepared_found(texts(&session, OLD_PREPARED).await?));
            found.extend(unlogged_found(self.unlogged(&session).await?));
        } else {
            found.extend(commits_found(&by));
        }
        if self.running()? != pid {
            return Err(EngineError::NotRunning);
        }
        Ok(found)
    }

    /// A connection of its own, whose limits are for nobody else.
    async fn session_in(&self, database: &str) -> Result<Session, EngineError> {
        let session = self.new_session_in(database).await?;
        session
            .run("limit its statements", &format!("set statement_timeout = '{STATEMENT_S}s'; set lock_timeout = '2s'"))
            .await?;
        Ok(session)
    }

    async fn unlogged(&self, session: &Session) -> Result<Vec<String>, EngineError> {
        let mut all = Vec::new();
        for database in texts(session, DATABASES).await? {
            let inside = self.session_in(&database).await?;
            all.extend(texts(&inside, UNLOGGED).await?.into_iter().map(|table| format!("{database}.{table}")));
        }
        Ok(all)
    }
}

async fn query(session: &Session, statement: &str) -> Result<Vec<Row>, EngineError> {
    session.client.query(statement, &[]).await.map_err(EngineError::sql("be examined"))
}

async fn texts(session: &Session, statement: &str) -> Result<Vec<String>, EngineError> {
    Ok(query(session, statement).await?.iter().map(|row| row.get(0)).collect())
}

async fn settings(session: &Session) -> Result<BTreeMap<String, String>, EngineError> {
    let rows = query(session, "select name, current_setting(name) from pg_settings").await?;
    Ok(rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<String>>(1)?))).collect())
}

/// Whom a row of `pg_db_role_setting` is for.
fn whose(database: Option<&str>, role: Option<&str>) -> String {
    match (database, role) {
        (None, None) => "every role".into(),
        (None, Some(role)) => format!("role {role}"),
        (Some(database), None) => format!("database {database}"),
        (Some(database), Some(role)) => format!("role {role} in database {database}"),
    }
}

fn settings_found(fixed: &[(&str, &str, &str)], now: &BTreeMap<String, String>) -> Vec<Finding> {
    let differs = |&(name, must, why): &(&str, &str, &str)| {
        let is = now.get(name).filter(|is| *is != must)?;
        Finding::warning(
            "a setting was changed while the database runs",
            vec![name.to_owned()],
            &format!("It is {is}, and must be {must}: {why}."),
            &format!("alter system reset {name}; select pg_reload_conf()"),
        )
    };
    fixed.iter().filter_map(differs).collect()
}

fn rule_found(live: &Live, now: &BTreeMap<String, String>) -> Option<Finding> {
    const NAME: &str = "synchronous_standby_names";
    let must = sync_names(&live.sync);
    let is = now.get(NAME).filter(|is| live.settled && **is != must)?;
    Finding::warning(
        "a setting was changed while the database runs",
        vec![NAME.into()],
        &format!("It is {is:?}, and must be {must:?}: [sync] in trine.toml decides what commits wait for."),
        &format!("alter system reset {NAME}; select pg_reload_conf()"),
    )
}

/// Values of `synchronous_commit`, and where they are set.
fn commits_found(by: &[(String, String)]) -> Vec<Finding> {
    let at = |values: &[&str]| -> Vec<String> {
        let those = by.iter().filter(|(_, value)| values.contains(&value.to_ascii_lowercase().as_str()));
        those.map(|(whose, value)| format!("{whose} (synchronous_commit = {value})")).collect()
    };
    let remedy = "alter role … reset synchronous_commit; likewise alter database, alter system";
    let unless = Finding::warning(
        "commits that wait for no standby",
        at(&["off", "local", "false", "no", "0"]),
        "What such a session was told is committed can be lost with the primary.",
        remedy,
    );
    let memory = Finding::note(
        "commits that wait for a standby's memory only",
        at(&["remote_write"]),
        "What such a session was told is committed can be lost when primary and standby lose their power at once.",
        remedy,
    );
    unless.into_iter().chain(memory).collect()
}

fn slots_found(slots: Vec<String>) -> Option<Finding> {
    Finding::note(
        "logical replication slots",
        slots,
        "They are on this primary only: after a failover or switchover their subscribers find none.",
        "make them anew on the new primary, and copy what the subscribers have missed.",
    )
}

fn prepared_found(transactions: Vec<String>) -> Option<Finding> {
    Finding::warning(
        "prepared transactions older than an hour",
        transactions,
        "They hold their locks, also after a failover, and keep dead rows from being removed.",
        "commit prepared '…' or rollback prepared '…'",
    )
}

fn unlogged_found(tables: Vec<String>) -> Option<Finding> {
    Finding::note(
        "unlogged tables",
        tables,
        "Standbys do not have their content: they are empty after a failover or switchover.",
        "alter table … set logged; or keep in them only what may go at any time.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commits_wait_for_is_told_by_where_it_is_set() {
        let by = [("role app", "off"), ("database d", "local"), ("role r", "remote_write"), ("role s", "on")];
        let by = by.map(|(whose, value)| (whose.to_owned(), value.to_owned()));
        let found = commits_found(&by);
        let places: Vec<Vec<String>> = found.iter().map(|f| f.places.clone()).collect();
        let expected = [
            vec!["role app (synchronous_commit = off)", "database d (synchronous_commit = local)"],
            vec!["role r (synchronous_commit = remote_write)"],
        ];
        assert_eq!(places, expected);
        assert!(commits_found(&by[3..]).is_empty());
    }

    #[test]
    fn settings_are_compared_with_those_that_are_written() {
        let written = [("fsync", "on", "why"), ("unknown_here", "on", "why")];
        let now = |value: &str| BTreeMap::from([("fsync".to_owned(), value.to_owned())]);
        assert!(settings_found(&written, &now("on")).is_empty());
        let found = settings_found(&written, &now("off"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].places, ["fsync"]);
    }

    #[test]
    fn a_rule_that_is_not_settled_says_nothing() {
        let now = BTreeMap::from([("synchronous_standby_names".to_owned(), String::new())]);
        let waits = Live::default();
        assert!(rule_found(&waits, &now).is_some());
        assert!(rule_found(&Live { settled: false, ..waits }, &now).is_none());
    }

    #[test]
    fn roles_and_databases_are_named() {
        assert_eq!(whose(None, Some("app")), "role app");
        assert_eq!(whose(Some("d"), None), "database d");
        assert_eq!(whose(Some("d"), Some("app")), "role app in database d");
    }
}
