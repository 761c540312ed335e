//! The databases that can be tortured, and in what they differ.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::kind::{Kind, Role};
use super::session::{Failure, Firebird, Mariadb, Postgres, Redis, Session, Sqlite};
use super::verify;
use crate::checks;
use crate::cluster::{Cluster, Database, Options};
use crate::disks::DiskKind;
use crate::docker::{self, Docker};
use crate::mariadb;
use crate::namespace;

/// What is tortured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// PostgreSQL with its own replication.
    #[default]
    Postgres,
    /// Redis with an append-only file, on a replicated volume.
    Redis,
    /// The same Redis in a container of Docker.
    RedisDocker,
    /// Firebird with forced writes, on a replicated volume.
    Firebird,
    /// The same Firebird in a container of Docker.
    FirebirdDocker,
    /// SQLite behind the small server of its preset, on a replicated volume.
    Sqlite,
    /// The same server in a container of Docker.
    SqliteDocker,
    /// MariaDB with its own replication.
    Mariadb,
    /// MariaDB on a replicated volume.
    MariadbVolume,
    /// MySQL with its own replication.
    Mysql,
}

/// The image knows no user by name.
const NUMBERS: &str = "database.user=\"999:999\"";

impl Engine {
    /// Its name, as the command line has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::RedisDocker => "redis-docker",
            Self::Firebird => "firebird",
            Self::FirebirdDocker => "firebird-docker",
            Self::Sqlite => "sqlite",
            Self::SqliteDocker => "sqlite-docker",
            Self::Mariadb => "mariadb",
            Self::MariadbVolume => "mariadb-volume",
            Self::Mysql => "mysql",
        }
    }

    /// The cluster that is tortured: three nodes in networks of their own, each on a file system of its own.
    ///
    /// # Errors
    /// There is no Docker.
    pub fn options(self) -> Result<Options> {
        let disks = ["n1", "n2", "n3"].map(|n| (n, DiskKind::Freezable));
        let options = Options { disks: disks.to_vec(), ..Options::network() };
        match self {
            Self::Postgres => Ok(options),
            Self::Redis | Self::Firebird | Self::Sqlite => Ok(options.volume(self.name())),
            Self::Mariadb => Ok(options.with(Database::Mariadb)),
            Self::Mysql => Ok(options.with(Database::Mysql)),
            Self::MariadbVolume => Ok(options.volume("mariadb")),
            Self::RedisDocker => {
                let options = options.volume("redis").set(NUMBERS);
                Ok(options.in_container(Docker::ready()?, docker::REDIS, "{run}/redis.sock"))
            }
            Self::FirebirdDocker => {
                let socket = "{run}/firebird.sock";
                // An image makes its first data itself, and this server listens on TCP only.
                let first = "rm -f {data}/* && isql-fb -q -bail -i {run}/init.sql && : > {data}/made";
                let relay = format!("socat UNIX-LISTEN:{socket},fork,mode=0666 TCP:127.0.0.1:{{port}}");
                let script = format!("test -f {{data}}/made || {{{{ {first}; }}}} || exit; {relay} & exec firebird");
                let options = options.volume("firebird").set(NUMBERS);
                let options = options.set(&format!("database.args=[\"sh\", \"-c\", {script:?}]"));
                Ok(options.in_container(Docker::ready()?, docker::FIREBIRD, socket))
            }
            Self::SqliteDocker => {
                let socket = "{run}/db.sock";
                let options = options.volume("sqlite").set(NUMBERS).set(&format!("database.env.SOCKET={socket}"));
                Ok(options.in_container(Docker::ready()?, docker::PYTHON, socket))
            }
        }
    }

    /// Does its database run in a container?
    const fn is_contained(self) -> bool {
        matches!(self, Self::RedisDocker | Self::FirebirdDocker | Self::SqliteDocker)
    }

    /// Can this happen to a node of this role at all? On a volume only the primary runs a database, and the volume's log goes
    /// the same way as what agents tell each other.
    #[must_use]
    pub fn strikes(self, kind: Kind, role: Role) -> bool {
        let on_volume = !matches!(self, Self::Postgres | Self::Mariadb | Self::Mysql);
        match kind {
            Kind::ReplicationCut => !on_volume,
            Kind::MountLost => on_volume && role == Role::Primary,
            // PostgreSQL has others, Redis one for the moments of a rewrite only, the rest never.
            // Beside a container's processes there is what holds it.
            Kind::ProcessKilled | Kind::ProcessFrozen => {
                self == Self::Postgres || (self.is_contained() && role == Role::Primary)
            }
            Kind::DatabaseKilled | Kind::DatabaseFrozen | Kind::GuardKilled | Kind::GuardFrozen => {
                !on_volume || role == Role::Primary
            }
            _ => true,
        }
    }

    /// Makes what the clients need.
    ///
    /// # Errors
    /// It can't be made.
    pub fn prepare(self, cluster: &Cluster, registers: u32) -> Result<()> {
        match self {
            Self::Postgres => Postgres::prepare(cluster, registers),
            Self::Redis | Self::RedisDocker => Ok(()),
            Self::Firebird | Self::FirebirdDocker => Firebird::prepare(cluster, registers),
            Self::Sqlite | Self::SqliteDocker => Sqlite::prepare(cluster, registers),
            Self::Mariadb | Self::MariadbVolume | Self::Mysql => Mariadb::prepare(cluster, registers),
        }
    }

    /// Opens a session; each address of the DSN is tried for so long.
    ///
    /// # Errors
    /// None takes it.
    pub async fn open(self, dsn: &str, each: Duration) -> Result<Box<dyn Session>, Failure> {
        match self {
            Self::Postgres => Postgres::open(dsn, each).await.map(|s| Box::new(s) as Box<dyn Session>),
            Self::Redis | Self::RedisDocker => Redis::open(dsn, each).await.map(|s| Box::new(s) as Box<dyn Session>),
            Self::Firebird | Self::FirebirdDocker => {
                Firebird::open(dsn, each).await.map(|s| Box::new(s) as Box<dyn Session>)
            }
            Self::Sqlite | Self::SqliteDocker => Sqlite::open(dsn, each).await.map(|s| Box::new(s) as Box<dyn Session>),
            Self::Mariadb | Self::MariadbVolume | Self::Mysql => {
                Mariadb::open(dsn, each).await.map(|s| Box::new(s) as Box<dyn Session>)
            }
        }
        .map_err(|e| Failure::of_connecting(&e))
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// It can't be read, or is not as a list is.
    pub async fn list(self, dsn: &str) -> Result<Vec<u64>> {
        match self {
            Self::Postgres => Postgres::list(dsn).await,
            Self::Redis | Self::RedisDocker => Redis::list(dsn).await,
            Self::Firebird | Self::FirebirdDocker => Firebird::list(dsn).await,
            Self::Sqlite | Self::SqliteDocker => Sqlite::list(dsn).await,
            Self::Mariadb | Self::MariadbVolume | Self::Mysql => Mariadb::list(dsn).await,
        }
    }

    /// The database's own check of its data, when the copies are known to be equal; what it has found in order. On a volume the
    /// cluster is dead by then, and each copy is checked alone.
    ///
    /// # Errors
    /// What it finds.
    pub fn verify(self, cluster: &Cluster) -> Result<String> {
        match self {
            Self::Postgres => checks::amcheck(cluster).map(|()| "pg_amcheck finds nothing".to_owned()),
            Self::Redis | Self::RedisDocker => verify::each_copy(cluster, verify::redis),
            Self::Firebird | Self::FirebirdDocker => verify::each_copy(cluster, verify::firebird),
            Self::Sqlite | Self::SqliteDocker => verify::each_copy(cluster, verify::sqlite),
            Self::Mariadb | Self::Mysql => mariadb::copies::check(cluster),
            Self::MariadbVolume => verify::each_copy(cluster, verify::mariadb),
        }
    }

    /// The program and its version.
    #[must_use]
    pub fn version(self) -> String {
        let ask = |program: &std::path::Path, how: &str| {
            namespace::run(Command::new(program).arg(how)).unwrap_or_default().trim().to_owned()
        };
        let run = |program: &std::path::Path| ask(program, "--version");
        match self {
            Self::Postgres => crate::postgres::bin_dir().map(|d| run(&d.join("postgres"))).unwrap_or_default(),
            // `Redis server v=7.0.15 sha=…`
            // `gfix version LI-V3.0.11.33703 Firebird 3.0`
            Self::Firebird | Self::FirebirdDocker => ask("gfix".as_ref(), "-z").replace("gfix version", "Firebird"),
            Self::Sqlite | Self::SqliteDocker => {
                format!("SQLite {}", run("sqlite3".as_ref()).split(' ').next().unwrap_or_default())
            }
            Self::Mariadb | Self::MariadbVolume => mariadb::version(),
            Self::Mysql => mariadb::mysql_version(),
            Self::Redis | Self::RedisDocker => {
                run("redis-server".as_ref()).split(" sha=").next().unwrap_or_default().to_owned()
            }
        }
    }
}
