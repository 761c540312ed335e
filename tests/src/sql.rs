//! A superuser's look into one node's database, past every endpoint.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// No look takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session of the role `trine` over a node's unix socket.
#[derive(Debug)]
pub struct Sql {
    runtime: Runtime,
    client: Client,
}

/// What of a node's secrets.toml tests use.
#[derive(Debug, Deserialize)]
pub struct Secrets {
    /// The token of the node's API.
    pub api_token: String,
    /// The password of the role `trine`.
    pub superuser_password: String,
    /// The password of the role `app`.
    pub app_password: String,
}

impl Secrets {
    /// A node's.
    ///
    /// # Errors
    /// There is no such file, or something else stands in it.
    pub fn read(node_dir: &Path) -> Result<Self> {
        let path = node_dir.join("secrets.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{}", path.display()))
    }
}

impl Sql {
    /// Opens one. Sockets are found by their directory, so it makes no difference in which network the database is.
    ///
    /// # Errors
    /// The database takes no session.
    pub fn open(node_dir: &Path, port: u16, database: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut config = Config::new();
        config.host_path(node_dir.join("run/db")).port(port).user("trine").dbname(database);
        config.password(Secrets::read(node_dir)?.superuser_password);
        let client = runtime.block_on(async {
            let (client, connection) = timeout(PATIENCE, config.connect(NoTls)).await??;
            tokio::spawn(connection);
            anyhow::Ok(client)
        });
        let client = client.with_context(|| format!("a session in {}", node_dir.display()))?;
        Ok(Self { runtime, client })
    }

    /// The rows of a statement, as text.
    ///
    /// # Errors
    /// The database refuses.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let messages = self.runtime.block_on(async { timeout(PATIENCE, self.client.simple_query(sql)).await });
        let messages =
            messages.with_context(|| format!("no answer in time: {sql}"))?.with_context(|| sql.to_owned())?;
        let rows = messages.into_iter().filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first field of the first row; empty when there is none.
    ///
    /// # Errors
    /// The database refuses.
    pub fn value(&self, sql: &str) -> Result<String> {
        Ok(self.rows(sql)?.into_iter().next().and_then(|r| r.into_iter().next()).unwrap_or_default())
    }
}
