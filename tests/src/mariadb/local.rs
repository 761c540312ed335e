//! A superuser's look into one node's database, past every endpoint, and what is asked there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{OWN_SCHEMAS, settings, text_rows};
use crate::cluster::Cluster;
use crate::sql::Secrets;

/// No look takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session over a unix socket. Sockets are found by their directory, so it makes no difference in which network the database is.
#[derive(Debug)]
pub struct Local {
    runtime: Runtime,
    conn: Mutex<Conn>,
}

impl Local {
    /// The superuser's, in one node's database.
    ///
    /// # Errors
    /// It takes no session.
    pub fn of(cluster: &Cluster, node: &str) -> Result<Self> {
        let dir = &cluster.node(node).dir;
        if cluster.is_on_volume() {
            return Self::open(&dir.join("run/db/mariadbd.sock"), "root", None);
        }
        let password = Secrets::read(dir)?.superuser_password;
        Self::open(&dir.join("run/db/mysqld.sock"), "trine", Some(password))
    }

    /// Opens one.
    ///
    /// # Errors
    /// The database takes no session.
    pub fn open(socket: &Path, user: &str, password: Option<String>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let opts = OptsBuilder::from_opts(Opts::default()).user(Some(user)).pass(password);
        let opts = settings(opts.into()).socket(Some(socket.display().to_string()));
        let conn = runtime.block_on(async { anyhow::Ok(timeout(PATIENCE, Conn::new(opts)).await??) });
        let conn = conn.with_context(|| format!("a session by {}", socket.display()))?;
        Ok(Self { runtime, conn: Mutex::new(conn) })
    }

    /// The rows of a statement, as text; empty for a null.
    ///
    /// # Errors
    /// The database refuses.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let mut conn = self.conn.lock().unwrap();
        let found = self.runtime.block_on(async { timeout(PATIENCE, text_rows(&mut conn, sql)).await });
        let found = found.with_context(|| format!("no answer in time: {sql}"))??;
        Ok(found.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect())
    }

    /// The first field of the first row; empty when there is none.
    ///
    /// # Errors
    /// The database refuses.
    pub fn value(&self, sql: &str) -> Result<String> {
        Ok(self.rows(sql)?.into_iter().next().and_then(|r| r.into_iter().next()).unwrap_or_default())
    }

    /// Every table of users, quoted.
    fn tables(&self) -> Result<Vec<String>> {
        let named = "select concat('`', table_schema, '`.`', table_name, '`') from information_schema.tables";
        let which = format!("table_type = 'BASE TABLE' and table_schema not in {OWN_SCHEMAS}");
        Ok(self.rows(&format!("{named} where {which} order by 1"))?.into_iter().flatten().collect())
    }

    /// `CHECKSUM TABLE` of every table of users, by its name.
    ///
    /// # Errors
    /// One has none: it is gone, or damaged.
    pub fn checksums(&self) -> Result<BTreeMap<String, String>> {
        let mut sums = BTreeMap::new();
        for table in self.tables()? {
            let sum = self.rows(&format!("checksum table {table} extended"))?.pop().and_then(|mut row| row.pop());
            let sum = sum.filter(|s| !s.is_empty()).with_context(|| format!("{table} has no checksum"))?;
            sums.insert(table, sum);
        }
        Ok(sums)
    }

    /// `CHECK TABLE … EXTENDED` of every table of users: each row in each index. How many there are.
    ///
    /// # Errors
    /// What it finds.
    pub fn check_tables(&self) -> Result<usize> {
        let tables = self.tables()?;
        for table in &tables {
            let said = self.rows(&format!("check table {table} extended"))?;
            let fine =
                said.iter().all(|row| matches!(row.as_slice(), [_, _, kind, text] if kind == "status" && text == "OK"));
            ensure!(!said.is_empty() && fine, "check table {table}: {said:?}");
        }
        if tables.is_empty() { bail!("there is no table of users") } else { Ok(tables.len()) }
    }
}
