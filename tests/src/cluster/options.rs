//! How a cluster is made: its form, where it is, and the programs that it runs.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::disks::DiskKind;
use crate::docker::Docker;

/// Where the nodes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `trine local up`: three nodes on 127.0.0.1, .2 and .3, all in one network namespace.
    Local,
    /// `trine init` and one agent in each of three network namespaces on one switch.
    Network,
}

/// What a cluster runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// PostgreSQL with its own replication.
    Postgres,
    /// MariaDB with its own replication.
    Mariadb,
    /// MySQL with its own replication.
    Mysql,
    /// One of this preset, on a replicated volume.
    Volume(&'static str),
}

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the nodes run.
    pub form: Form,
    /// What it runs.
    pub database: Database,
    /// `--set KEY=VALUE` at its creation.
    pub set: Vec<String>,
    /// Priorities of n1, n2, n3 (only in [`Form::Network`]).
    pub priorities: Option<[u32; 3]>,
    /// Nodes whose directory is a file system of its own (only in [`Form::Network`]).
    pub disks: Vec<(&'static str, DiskKind)>,
    /// Its databases run in containers of this daemon.
    pub docker: Option<Docker>,
    /// Its directory stays, whatever comes of it.
    pub keep: bool,
}

impl Options {
    /// Three nodes by `trine local up`.
    #[must_use]
    pub fn local() -> Self {
        Self {
            form: Form::Local,
            database: Database::Postgres,
            set: Vec::new(),
            priorities: None,
            disks: Vec::new(),
            docker: None,
            keep: false,
        }
    }

    /// Three nodes in networks of their own.
    #[must_use]
    pub fn network() -> Self {
        Self { form: Form::Network, ..Self::local() }
    }

    /// With a database of this preset on a replicated volume.
    #[must_use]
    pub fn volume(self, preset: &'static str) -> Self {
        Self { database: Database::Volume(preset), ..self }
    }

    /// With this database.
    #[must_use]
    pub fn with(self, database: Database) -> Self {
        Self { database, ..self }
    }

    /// With that database in a container, of an image that is there. It is reached by its socket: the daemon's networks are none of
    /// the cluster's.
    #[must_use]
    pub fn in_container(mut self, docker: Docker, image: &str, socket: &str) -> Self {
        let daemon = docker.socket.display();
        self.set.extend([
            format!("database.socket={daemon}"),
            format!("database.image={image:?}"),
            format!("database.listen={socket:?}"),
        ]);
        Self { docker: Some(docker), ..self }
    }

    /// Its engine, as the command line takes it.
    pub(super) fn engine(&self) -> Vec<String> {
        match self.database {
            Database::Postgres => Vec::new(),
            Database::Mariadb => ["--engine", "mariadb"].map(str::to_owned).to_vec(),
            Database::Mysql => {
                let programs = format!("engine.bin_dir={:?}", mysql_folder().join("bin"));
                ["--engine", "mysql", "--set", &programs].map(str::to_owned).to_vec()
            }
            Database::Volume(preset) => {
                ["--engine", "volume", "--set", &format!("preset={preset}")].map(str::to_owned).to_vec()
            }
        }
    }

    /// With one more `--set KEY=VALUE`.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.set.push(setting.to_owned());
        self
    }
}

/// Where `scripts/mysql-for-tests.sh` puts MySQL: `TRINE_TEST_MYSQL`, or its own choice.
#[must_use]
pub fn mysql_folder() -> PathBuf {
    std::env::var_os("TRINE_TEST_MYSQL").map_or_else(|| PathBuf::from("/var/cache/trine-mysql"), PathBuf::from)
}

/// The program under test: `TRINE_BIN`, or the one built into the same target directory as this test.
///
/// # Errors
/// There is none.
pub fn trine_binary() -> Result<PathBuf> {
    built("trine", "TRINE_BIN")
}

/// The tests' own client.
///
/// # Errors
/// There is none.
pub fn client_binary() -> Result<PathBuf> {
    built("trine-client", "TRINE_CLIENT_BIN")
}

fn built(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // target/debug/deps/a-test or target/debug/a-program
    let found = own.ancestors().skip(1).take(2).map(|d| d.join(name)).find(|p| p.is_file());
    found.with_context(|| {
        format!("{name} is not built: run `cargo build --workspace` (or `make test`), or set {variable}")
    })
}

/// Where the directories of test clusters are made: reachable by the user that PostgreSQL runs as.
#[must_use]
pub fn test_root() -> PathBuf {
    std::env::var_os("TRINE_TEST_DIR").map_or_else(|| "/var/tmp/trine-tests".into(), PathBuf::from)
}
