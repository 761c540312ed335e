//! What users have made or set that replication can do little about.
//!
//! Tables, events and accounts are the same on every node, so the primary is asked for them; settings are each node's own.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Row;
use mysql_async::prelude::FromValue;
use tokio::time::timeout;
use trine_protocol::Epoch;

use super::dialect::{Dialect, Words};
use super::session::{Session, column};
use super::settings::{Tables, same_value};
use super::state::Mysql;
use crate::finding::{LIMIT, STATEMENT_S};
use crate::{EngineError, Finding, SyncSetting};

/// What is not the users'.
const OWN: &str = "('trine', 'mysql', 'information_schema', 'performance_schema', 'sys')";

/// Settings that the running database shows otherwise than they are written; a running one can't be given another value.
const SHOWN_OTHERWISE: [&str; 2] = ["log_bin", "relay_log"];

/// What this node is, for its settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Standing {
    /// The epoch that it is the primary of.
    leading: Option<Epoch>,
    /// Whether its commits have to wait for a standby; `None` while that is being changed.
    waits: Option<bool>,
    /// It was made to acknowledge what it receives.
    acknowledges: bool,
}

/// A table of users.
#[derive(Debug)]
struct Table {
    name: String,
    engine: String,
    /// A row of it can be told from the others by a key.
    keyed: bool,
}

impl Mysql {
    pub(super) async fn examine(&self) -> Result<Vec<Finding>, EngineError> {
        let look = async {
            // A connection of its own: its limits are for nobody else.
            let mut session = self.new_session().await?;
            session.run("limit its statements", &limits(self.config.dialect)).await?;
            self.examine_by(&mut session).await
        };
        timeout(LIMIT, look).await.unwrap_or(Err(EngineError::Timeout("be examined")))
    }

    async fn examine_by(&self, session: &mut Session) -> Result<Vec<Finding>, EngineError> {
        let (standing, variables) = loop {
            let before = self.standing();
            let variables: BTreeMap<String, String> = variables(session).await?.into_iter().collect();
            // Settings that a change of roles was in the middle of say nothing.
            if self.standing() == before {
                break (before, variables);
            }
        };
        let (tables, words) = (self.config.dialect.settings(), self.words());
        let mut found = settings_found(tables, words, &variables, standing);
        if standing.leading.is_some() {
            found.extend(tables_found(&users_tables(session).await?, self.config.dialect));
            found.extend(events_found(disabled_events(session).await?));
            found.extend(accounts_found(&mighty_accounts(session).await?, self.config.dialect));
        }
        Ok(found)
    }

    fn standing(&self) -> Standing {
        let leading = self.leading();
        let acknowledges =
            self.feed.try_lock().is_ok_and(|feed| feed.as_ref().is_some_and(super::feed::Feed::acknowledges));
        let running = self.running();
        let waits = running.sync.as_ref().filter(|_| running.settled).map(|rule| *rule != SyncSetting::Alone);
        Standing { leading, waits, acknowledges }
    }
}

fn limits(dialect: Dialect) -> String {
    let statements = match dialect {
        Dialect::MariaDb => format!("max_statement_time = {STATEMENT_S}"),
        Dialect::MySql => format!("max_execution_time = {}", STATEMENT_S * 1000),
    };
    format!("set session lock_wait_timeout = {STATEMENT_S}, {statements}")
}

/// Rows of so many columns.
fn columns<T: FromValue, const N: usize>(rows: &[Row], action: &'static str) -> Result<Vec<[T; N]>, EngineError> {
    let one = |row: &Row| {
        let values: Vec<T> = (0..N).map_while(|at| column(row, at)).collect();
        values.try_into().map_err(|_| EngineError::Unreadable { action })
    };
    rows.iter().map(one).collect()
}

async fn variables(session: &mut Session) -> Result<Vec<(String, String)>, EngineError> {
    const ACTION: &str = "show its settings";
    let rows = session.rows(ACTION, "show global variables").await?;
    // One that holds bytes that are no text is none of those that matter.
    Ok(rows.iter().filter_map(|row| Some((column(row, 0)?, column(row, 1)?))).collect())
}

async fn users_tables(session: &mut Session) -> Result<Vec<Table>, EngineError> {
    const ACTION: &str = "list the tables";
    // A unique key of columns that are never null does what a primary key does: the applier uses it alike.
    let keyed = format!(
        "select table_schema, table_name from information_schema.statistics \
         where non_unique = 0 and table_schema not in {OWN} \
         group by table_schema, table_name, index_name having max(nullable = 'YES') = 0"
    );
    let keyed: Vec<[String; 2]> = columns(&session.rows(ACTION, &keyed).await?, ACTION)?;
    let keyed: BTreeSet<[String; 2]> = keyed.into_iter().collect();
    let all = format!(
        "select table_schema, table_name, engine from information_schema.tables \
         where table_type in ('BASE TABLE', 'SYSTEM VERSIONED') and engine is not null and table_schema not in {OWN} \
         order by table_schema, table_name"
    );
    let all: Vec<[String; 3]> = columns(&session.rows(ACTION, &all).await?, ACTION)?;
    let table = |[schema, table, engine]: [String; 3]| {
        let name = format!("{schema}.{table}");
        Table { name, engine, keyed: keyed.contains(&[schema, table]) }
    };
    Ok(all.into_iter().map(table).collect())
}

async fn disabled_events(session: &mut Session) -> Result<Vec<String>, EngineError> {
    const ACTION: &str = "list the events";
    let events = "select concat(event_schema, '.', event_name) from information_schema.events \
         where status like '%SIDE_DISABLED' order by 1";
    let events: Vec<[String; 1]> = columns(&session.rows(ACTION, events).await?, ACTION)?;
    Ok(events.into_iter().flatten().collect())
}

/// Accounts with a right that passes by `read_only`, by name and right.
async fn mighty_accounts(session: &mut Session) -> Result<Vec<[String; 2]>, EngineError> {
    const ACTION: &str = "list the accounts";
    // MariaDB has called it both ways.
    let accounts = "select grantee, privilege_type from information_schema.user_privileges where privilege_type in \
         ('SUPER', 'READ_ONLY ADMIN', 'READ ONLY ADMIN', 'CONNECTION_ADMIN', 'SYSTEM_VARIABLES_ADMIN') order by 1, 2";
    columns(&session.rows(ACTION, accounts).await?, ACTION)
}

/// Settings that somebody has changed since the database was started.
fn settings_found(tables: &Tables, words: &Words, now: &BTreeMap<String, String>, standing: Standing) -> Vec<Finding> {
    let leads = standing.leading.is_some();
    let by_role = [
        ("read_only", (!leads).then_some("ON"), "a client could write to a standby, and its copy would differ"),
        ("super_read_only", (!leads).then_some("ON"), "a client could write to a standby, and its copy would differ"),
        (
            words.wait_for_standbys,
            if leads { standing.waits.map(|waits| if waits { "ON" } else { "OFF" }) } else { Some("OFF") },
            if leads {
                "[sync] in trine.toml decides what commits wait for"
            } else {
                "its applier would wait for standbys"
            },
        ),
        (
            words.acknowledge,
            (!leads && standing.acknowledges).then_some("ON"),
            "after the next break of its connection this standby acknowledges no commit",
        ),
        (
            "sync_relay_log",
            (!leads && standing.acknowledges).then_some("1"),
            "what it acknowledges it must have on disk",
        ),
    ];
    let is_by_role = |name: &str| by_role.iter().any(|(n, ..)| *n == name);
    let fixed = tables.fixed.iter().filter(|(name, ..)| !is_by_role(name) && !SHOWN_OTHERWISE.contains(name));
    let fixed = fixed.map(|&(name, must, why)| (name, Some(must), why));
    let differs = |(name, must, why): (&str, Option<&str>, &str)| {
        let (must, is) = (must?, now.get(name)?);
        if same_value(must, is) {
            return None;
        }
        Finding::warning(
            "a setting was changed while the database runs",
            vec![name.to_owned()],
            &format!("It is {is}, and must be {must}: {why}."),
            &format!("set global {name} = {must}; trine sets it only when the database starts."),
        )
    };
    fixed.chain(by_role).filter_map(differs).collect()
}

fn tables_found(tables: &[Table], dialect: Dialect) -> Vec<Finding> {
    let names = |which: &dyn Fn(&Table) -> bool, engine: bool| -> Vec<String> {
        let name = |t: &Table| if engine { format!("{} ({})", t.name, t.engine) } else { t.name.clone() };
        tables.iter().filter(|t| which(t)).map(name).collect()
    };
    let keyless = Finding::warning(
        "tables without a primary key",
        names(&|t| !t.keyed, false),
        "For each changed row a standby reads the whole table: it lags, and a failover waits until it has applied all.",
        "alter table … add primary key (…)",
    );
    let memory = Finding::warning(
        "tables in memory",
        names(&|t| t.engine == "MEMORY", false),
        "They are empty when a node's database has ended. A change on the primary of a row that a standby has lost so stops \
         the standby: its data is made anew, each time.",
        "alter table … engine = InnoDB; or empty them on the primary after a standby was away.",
    );
    let copied = match dialect {
        Dialect::MariaDb => "",
        // Its clone plugin copies InnoDB's files and nothing else.
        Dialect::MySql => " A new copy of the data has them empty.",
    };
    let others = Finding::warning(
        "tables of other engines than InnoDB",
        names(&|t| !["InnoDB", "MEMORY"].contains(&t.engine.as_str()), true),
        &format!("What was acknowledged may be missing or damaged in them after a crash.{copied}"),
        "alter table … engine = InnoDB",
    );
    [keyless, memory, others].into_iter().flatten().collect()
}

fn events_found(disabled: Vec<String>) -> Option<Finding> {
    Finding::warning(
        "events that do not run",
        disabled,
        "They came from another primary; a standby gets them disabled, and they stay so when it becomes the primary.",
        "alter event … enable, on the primary",
    )
}

fn accounts_found(rights: &[[String; 2]], dialect: Dialect) -> Option<Finding> {
    let mut accounts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for [account, right] in rights {
        // trine's own, and those that the database has for itself and nobody can be.
        if !["'trine'@", "'trine_replication'@", "'mysql.", "'mariadb.sys'@"].iter().any(|own| account.starts_with(own))
        {
            accounts.entry(account).or_default().push(right);
        }
    }
    let places = accounts.into_iter().map(|(account, rights)| format!("{account} ({})", rights.join(", "))).collect();
    let why = match dialect {
        Dialect::MariaDb => {
            "They can write to a standby, whose copy then differs, or change settings that keep commits."
        }
        Dialect::MySql => {
            "They can make a standby take writes, and its copy then differs, or change settings that keep commits."
        }
    };
    Finding::note("accounts that read_only does not stop", places, why, "revoke what they do not need.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_written(dialect: Dialect) -> BTreeMap<String, String> {
        dialect.settings().fixed.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const STANDBY: Standing = Standing { leading: None, waits: None, acknowledges: false };
    const PRIMARY: Standing = Standing { leading: Some(Epoch(4)), waits: Some(true), acknowledges: false };

    fn changed(dialect: Dialect, changes: &[(&str, &str)], standing: Standing) -> Vec<String> {
        let mut now = as_written(dialect);
        now.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let found = settings_found(dialect.settings(), dialect.words(), &now, standing);
        found.into_iter().flat_map(|f| f.places).collect()
    }

    #[test]
    fn settings_are_compared_with_what_the_role_needs() {
        for dialect in [Dialect::MariaDb, Dialect::MySql] {
            let words = dialect.words();
            assert!(changed(dialect, &[("log_bin", "ON")], STANDBY).is_empty());
            assert_eq!(changed(dialect, &[("sync_binlog", "0")], STANDBY), ["sync_binlog"]);
            assert_eq!(changed(dialect, &[("read_only", "OFF")], STANDBY), ["read_only"]);
            assert_eq!(changed(dialect, &[(words.wait_for_standbys, "ON")], STANDBY), [words.wait_for_standbys]);
            let open = [("read_only", "OFF"), ("super_read_only", "OFF"), (words.wait_for_standbys, "ON")];
            assert!(changed(dialect, &open, PRIMARY).is_empty());
            assert_eq!(changed(dialect, &[(words.wait_for_standbys, "OFF")], PRIMARY), [words.wait_for_standbys]);
            let changing = Standing { waits: None, ..PRIMARY };
            assert!(changed(dialect, &[], changing).is_empty(), "a rule that is being changed says nothing");
            let acknowledges = Standing { acknowledges: true, ..STANDBY };
            assert_eq!(changed(dialect, &[], acknowledges), [words.acknowledge]);
        }
    }

    fn table(name: &str, engine: &str, keyed: bool) -> Table {
        Table { name: name.into(), engine: engine.into(), keyed }
    }

    #[test]
    fn tables_are_told_by_what_is_wrong_with_them() {
        let tables = [
            table("app.good", "InnoDB", true),
            table("app.keyless", "InnoDB", false),
            table("app.gone", "MEMORY", true),
            table("app.old", "MyISAM", false),
        ];
        let found = tables_found(&tables, Dialect::MySql);
        let places: Vec<Vec<String>> = found.iter().map(|f| f.places.clone()).collect();
        assert_eq!(places, [vec!["app.keyless", "app.old"], vec!["app.gone"], vec!["app.old (MyISAM)"]]);
        assert!(tables_found(&tables[..1], Dialect::MariaDb).is_empty());
    }

    #[test]
    fn own_accounts_are_no_finding() {
        let right = |account: &str, right: &str| [account.to_owned(), right.to_owned()];
        let own = [right("'trine'@'localhost'", "SUPER"), right("'mysql.session'@'localhost'", "SUPER")];
        assert_eq!(accounts_found(&own, Dialect::MySql), None);
        let theirs = [right("'dba'@'%'", "CONNECTION_ADMIN"), right("'dba'@'%'", "SUPER")];
        let found = accounts_found(&theirs, Dialect::MySql).unwrap();
        assert_eq!(found.places, ["'dba'@'%' (CONNECTION_ADMIN, SUPER)"]);
    }
}
