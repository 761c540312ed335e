//! Whose habits the simulated databases have.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use trine_agent::EngineKind;

/// A database product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Product {
    /// PostgreSQL, by its own synchronous replication.
    #[default]
    Postgres,
    /// MariaDB, by lossless semi-synchronous replication.
    #[value(name = "mariadb")]
    MariaDb,
    /// MySQL, by the same.
    #[value(name = "mysql")]
    MySql,
}

impl Product {
    /// Its log is taken through the agents, and what it waits for is *received*.
    #[must_use]
    pub fn is_semisync(self) -> bool {
        self != Self::Postgres
    }

    pub(super) fn engine(self) -> EngineKind {
        match self {
            Self::Postgres => EngineKind::Postgres,
            Self::MariaDb => EngineKind::MariaDb,
            Self::MySql => EngineKind::MySql,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
        })
    }
}
