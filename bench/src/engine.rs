//! Which database a measured cluster runs.

use anyhow::Result;
use clap::ValueEnum;
use trine_tests::cluster::Database;
use trine_tests::{mariadb, namespace, postgres};

/// One with replication of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    #[default]
    Postgres,
    Mariadb,
    Mysql,
}

impl Engine {
    pub(crate) const ALL: [Self; 3] = [Self::Postgres, Self::Mariadb, Self::Mysql];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Mariadb => "MariaDB",
            Self::Mysql => "MySQL",
        }
    }

    /// Its name and version.
    pub(crate) fn version(self) -> Result<String> {
        Ok(match self {
            Self::Postgres => {
                let said = namespace::run(postgres::program("postgres")?.arg("--version"))?;
                format!("PostgreSQL {}", said.split_whitespace().nth(2).unwrap_or_default())
            }
            Self::Mariadb => mariadb::version(),
            Self::Mysql => mariadb::mysql_version(),
        })
    }

    /// Can this machine have one? An error says what is missing.
    pub(crate) fn is_here(self) -> Result<()> {
        match self {
            Self::Postgres => postgres::bin_dir().map(drop),
            Self::Mariadb => mariadb::knows_mariadb(),
            Self::Mysql => mariadb::knows_mysql(),
        }
    }

    pub(crate) fn database(self) -> Database {
        match self {
            Self::Postgres => Database::Postgres,
            Self::Mariadb => Database::Mariadb,
            Self::Mysql => Database::Mysql,
        }
    }

    /// What a section of the results is called. PostgreSQL's are called as they were when it was the only one.
    pub(crate) fn section(self, of: &str) -> String {
        match self {
            Self::Postgres => of.to_owned(),
            Self::Mariadb | Self::Mysql => format!("{of} ({})", self.name()),
        }
    }
}
