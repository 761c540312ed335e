//! Scenarios that both are put through.

use anyhow::{Result, ensure};

use super::{knows_mariadb, knows_mysql};
use crate::cluster::{Database, Options};
use crate::scenario::{Scenario, scenario};

/// Makes tests of functions that take the database: one on MariaDB and one on MySQL of each.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod mariadb {
            $(#[test] fn $name() { super::$name($crate::cluster::Database::Mariadb); })+
        }
        mod mysql {
            $(#[test] fn $name() { super::$name($crate::cluster::Database::Mysql); })+
        }
    };
}

/// A scenario on one of them; it is said when that is not here.
pub fn on(database: Database, name: &str, options: Options, body: impl FnOnce(&Scenario) -> Result<()>) {
    let (known, letter) = match database {
        Database::Mysql => (knows_mysql(), 'y'),
        _ => (knows_mariadb(), 'm'),
    };
    if let Err(e) = known {
        eprintln!("NOT TRIED: {e:#}");
        return;
    }
    scenario(&format!("{letter}-{name}"), &options.with(database), |s| {
        s.cluster.wait_healthy()?;
        first_copies_came_at_once(s)?;
        body(s)
    });
}

/// Two standbys ask for their first copies at the same moment, and each gets one. No fault has happened yet.
fn first_copies_came_at_once(s: &Scenario) -> Result<()> {
    for node in s.cluster.nodes() {
        let said = node.said();
        let failed =
            |line: &&str| line.contains("can't copy the primary's data") && !line.contains("is not the primary");
        let failed: Vec<&str> = said.lines().filter(failed).collect();
        ensure!(failed.is_empty(), "the first copy of {} failed: {failed:?}", node.name);
    }
    Ok(())
}
