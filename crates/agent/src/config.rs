//! `trine.toml` and `secrets.toml`: what a person tells a node.
//!
//! Everything is checked before anything is touched. An error names the file, the line, the key, the value and what is
//! allowed, so that nobody has to look anything up.

mod check;
mod secrets;
mod volume;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trine_engine::volume::Database;
use trine_protocol::NodeName;
pub use trine_volume::Grade;

pub use trine_protocol::Durability;

pub use secrets::{SECRETS_FILE, Secrets};

/// The name of the configuration file in a node's folder.
pub const CONFIG_FILE: &str = "trine.toml";

/// A node's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster's name: for people, in messages and in the API.
    pub cluster: String,
    /// The cluster's identity, in every node's certificate: nodes of another cluster are refused by it.
    pub cluster_id: String,
    /// Which of the members this node is.
    pub node: NodeName,
    /// That member.
    pub me: Member,
    /// Everything that this node keeps is under this folder. Absolute.
    pub dir: PathBuf,
    /// The ports, the same on every node.
    pub ports: Ports,
    /// Every member, this one too, in the file's order; the same list on every node.
    pub members: Vec<Member>,
    /// The database.
    pub engine: EngineConfig,
    /// With [`EngineKind::Volume`], and only then: which database, and how its volume is replicated.
    pub volume: Option<VolumeConfig>,
    /// When a commit is acknowledged.
    pub sync: SyncConfig,
    /// How soon a failure is noticed.
    pub timing: Timing,
    /// The writer and reader endpoints.
    pub endpoint: EndpointConfig,
}

/// The ports of every node. They all differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The writer endpoint. 6432 by default.
    pub writer: u16,
    /// The reader endpoint. 6433 by default.
    pub reader: u16,
    /// The HTTP API. 6400 by default.
    pub api: u16,
    /// Calls and streams between the nodes. 6401 by default.
    pub peer: u16,
    /// The database itself, for the other nodes' replication only. 6500 by default.
    pub database: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { writer: 6432, reader: 6433, api: 6400, peer: 6401, database: 6500 }
    }
}

impl Ports {
    /// Each port with its key in `[ports]`.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u16); 5] {
        [
            ("writer", self.writer),
            ("reader", self.reader),
            ("api", self.api),
            ("peer", self.peer),
            ("database", self.database),
        ]
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name; its certificate carries it.
    pub name: NodeName,
    /// The zone that it is in. No zone holds a majority of the voters.
    pub zone: String,
    /// Where it listens, and where the others and the clients reach it.
    pub address: IpAddr,
    /// Who is elected among equals: the highest. 0: never. 100 by default.
    pub priority: u32,
    /// It has a vote. `true` by default.
    pub voter: bool,
}

/// The database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Which.
    pub kind: EngineKind,
    /// Where its programs are, when they are not to be looked for.
    pub bin_dir: Option<PathBuf>,
    /// The user that it runs as when the agent is root. `None`: the engine's own default (`postgres`).
    pub user: Option<String>,
    /// The user's own settings of the database. The engine refuses those that it needs itself.
    pub parameters: BTreeMap<String, String>,
    /// The user's own lines of `pg_hba.conf`.
    pub hba: Vec<String>,
}

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// PostgreSQL 13 or later.
    Postgres,
    /// MariaDB 10.11 or later.
    MariaDb,
    /// MySQL 8.0.26 or later.
    MySql,
    /// Any other, over a replicated volume.
    Volume,
}

impl EngineKind {
    /// As in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
            Self::Volume => "volume",
        }
    }
}

/// A database that trine does not know, and its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    /// The preset that it is based on.
    pub preset: Option<String>,
    /// What is run; not yet looked for.
    pub database: Database,
    /// When a peer acknowledges.
    pub grade: Grade,
    /// How many bytes of the log are kept for peers that return. 1 GiB by default.
    pub journal_bytes: u64,
    /// How long after one comparison of the copies' content the next one begins; `None`: only when a person asks. A week by
    /// default.
    pub verify_every: Option<Duration>,
    /// How many bytes a second are compared at most, unless a person asks. 16 MiB by default.
    pub verify_pace: u64,
}

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// After how many standbys have it. 1 by default; 0 only in a cluster of one.
    pub acks: usize,
    /// What happens without enough standbys.
    pub durability: Durability,
    /// With [`Durability::Available`]: how long the primary waits before it goes on alone. 10 s by default.
    pub grace: Duration,
}

/// How soon a failure is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a primary serves after a majority's last yes. 1 s by default.
    pub lease: Duration,
    /// How often it asks. A tenth of the lease by default.
    pub heartbeat: Duration,
    /// After how long without a renewal the primary is suspected. 0.6 of the lease by default.
    pub suspect: Duration,
}

/// The writer and reader endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// How long a new connection waits for a primary before it is refused. 30 s by default.
    pub hold: Duration,
    /// How many connections one endpoint takes. 1000 by default.
    pub max_connections: usize,
    /// The reader endpoint leads to the primary when there is no healthy standby. `true` by default.
    pub reader_uses_primary: bool,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`]: it can't be read, is no TOML, or says something that is not allowed.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks the text of a configuration file. `path` is only for messages.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] or [`ConfigError::Value`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        check::parse(path, text)
    }

    /// The user that the database runs as when the agent is root; `None`: the owner of the node's folder.
    #[must_use]
    pub fn database_user(&self) -> Option<&str> {
        match &self.volume {
            Some(volume) => volume.database.user(),
            None => Some(self.engine.user.as_deref().unwrap_or(match self.engine.kind {
                EngineKind::MariaDb | EngineKind::MySql => "mysql",
                EngineKind::Postgres | EngineKind::Volume => "postgres",
            })),
        }
    }

    /// The member of this name.
    #[must_use]
    pub fn member(&self, name: &NodeName) -> Option<&Member> {
        self.members.iter().find(|m| m.name == *name)
    }

    /// The members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.voter)
    }

    /// The members but this one.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.name != self.node)
    }

    /// Where a port of this node is.
    #[must_use]
    pub fn listen(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.me.address, port)
    }

    /// The certificate of the cluster's CA, in PEM.
    #[must_use]
    pub fn ca_cert(&self) -> PathBuf {
        self.dir.join("tls/ca.pem")
    }

    /// This node's certificate, in PEM.
    #[must_use]
    pub fn node_cert(&self) -> PathBuf {
        self.dir.join("tls/node.pem")
    }

    /// This node's key, in PEM.
    #[must_use]
    pub fn node_key(&self) -> PathBuf {
        self.dir.join("tls/node.key")
    }

    /// The folder of the agent's own durable state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The database's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Sockets and process ids.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Logs.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The one-time marker: this node may begin the cluster.
    #[must_use]
    pub fn seed_marker(&self) -> PathBuf {
        self.dir.join("seed")
    }
}

impl Member {
    /// One of the member's ports.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }
}

/// A configuration or secrets file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// It is no TOML, or a key is unknown, missing, or of the wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the key.
        message: String,
    },
    /// A value is not allowed.
    #[error("{}:{line}: {key} = {value}: {allowed}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key with its table: `timing.lease_ms`.
        key: String,
        /// What it says.
        value: String,
        /// What is wrong with that and what it may be.
        allowed: String,
    },
    /// Others than the owner can read the secrets.
    #[error("{} can be read by others than its owner (mode {mode:04o}): chmod 600 it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}
