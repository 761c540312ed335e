//! MariaDB and MySQL as tests see them: a client of its endpoints, and a superuser's look into one node's database, past every endpoint.

mod alone;
mod both;
pub mod copies;
mod local;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Error, Opts, OptsBuilder, Row, from_value_opt};

pub use alone::{Alone, mysql_version, version};
pub use both::on;
pub use local::Local;

use crate::cluster::{mysql_folder, trine_binary};
use crate::dsn;
use crate::namespace::{on_path, run};

/// What of a database is not its users': the server's own, and the agents'.
const OWN_SCHEMAS: &str = "('trine', 'mysql', 'information_schema', 'performance_schema', 'sys')";

/// Is it a DSN of MariaDB? One URI, or several with commas between.
#[must_use]
pub fn is_mariadb(dsn: &str) -> bool {
    dsn.starts_with("mysql://")
}

/// Can this machine, and the program under test, have a MariaDB with its own replication?
///
/// # Errors
/// What is missing.
pub fn knows_mariadb() -> Result<()> {
    ensure!(on_path("mariadbd"), "there is no MariaDB here (package mariadb-server)");
    let help = run(Command::new(trine_binary()?).args(["local", "up", "--help"]))?;
    ensure!(help.contains("mariadb"), "this trine has no engine for MariaDB's own replication");
    Ok(())
}

/// Can this machine, and the program under test, have a MySQL?
///
/// # Errors
/// What is missing.
pub fn knows_mysql() -> Result<()> {
    let server = mysql_folder().join("bin/mysqld");
    ensure!(server.is_file(), "there is no MySQL here ({}): scripts/mysql-for-tests.sh", server.display());
    Ok(())
}

/// A client's settings, whatever it connects to.
fn settings(opts: Opts) -> OptsBuilder {
    // Given, it need not ask the server for them first.
    let known = OptsBuilder::from_opts(opts).max_allowed_packet(Some(16 << 20)).wait_timeout(Some(28800));
    // Or else it asks a server on the same machine for its socket, and goes on by that: past the endpoint.
    // A row that is overwritten with what is in it already was found, too.
    known.prefer_socket(false).tcp_nodelay(true).client_found_rows(true)
}

/// A session at the first address that gives one; each is tried for so long.
///
/// # Errors
/// None does; the last error.
pub async fn connect(dsn: &str, each: Duration) -> Result<Conn> {
    let one = async |uri: String| Ok(Conn::new(settings(Opts::from_url(&uri).context("a URI of MariaDB")?)).await?);
    dsn::first(dsn, each, |uri| one(uri.to_owned())).await
}

/// The rows of a statement without parameters.
///
/// # Errors
/// The connection breaks, or the database refuses.
pub async fn rows<T: FromRow + Send + 'static>(conn: &mut Conn, sql: &str) -> Result<Vec<T>> {
    conn.query(sql).await.with_context(|| sql.to_owned())
}

/// As [`rows`], whatever is in them, as text.
///
/// # Errors
/// The connection breaks, or the database refuses.
pub async fn text_rows(conn: &mut Conn, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let text = |row: Row| row.unwrap().into_iter().map(from_value_opt::<Option<String>>).collect();
    let found: Result<_, _> = rows(conn, sql).await?.into_iter().map(text).collect();
    found.with_context(|| format!("a value that is no text: {sql}"))
}

/// The number of the database's error, if it was the database that said it.
#[must_use]
pub fn code(e: &anyhow::Error) -> Option<u16> {
    match e.downcast_ref() {
        Some(Error::Server(e)) => Some(e.code),
        _ => None,
    }
}

/// What it is counted under.
#[must_use]
pub fn kind(e: &anyhow::Error) -> String {
    match e.downcast_ref() {
        Some(Error::Server(e)) => e.code.to_string(),
        Some(Error::Io(_) | Error::Driver(_)) => "connection".to_owned(),
        _ if e.is::<tokio::time::error::Elapsed>() => "timeout".to_owned(),
        _ => format!("{e:#}"),
    }
}
