//! Scenarios that both are put through.

use anyhow::Result;

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
    scenario(&format!("{letter}-{name}"), &options.with(database), body);
}
