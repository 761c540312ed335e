//! The drill's clients of PostgreSQL.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::config::Host as Address;
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::session::{EACH, SessionError, StatementError};
use crate::failure::chain;

/// All that is written is in it, and how a person removes it.
pub(super) const PLACE: (&str, &str) = ("schema trine_drill", "drop schema trine_drill cascade");

/// Another schema of this name is there.
const DUPLICATE_SCHEMA: &str = "42P06";

/// One address.
#[derive(Clone, Debug)]
pub(super) struct Host(Config);

/// The addresses of a URI.
pub(super) fn hosts(uri: &str) -> Result<Vec<Host>, SessionError> {
    let all: Config = uri.parse().map_err(|e| SessionError::Uri(chain(&e)))?;
    let ports = all.get_ports();
    let of_each = all.get_hosts().iter().enumerate().map(|(n, host)| {
        let mut one = Config::new();
        match host {
            Address::Tcp(name) => one.host(name),
            Address::Unix(path) => one.host_path(path),
        };
        one.port(ports.get(n).or(ports.first()).copied().unwrap_or(5432));
        if let Some(user) = all.get_user() {
            one.user(user);
        }
        if let Some(name) = all.get_dbname() {
            one.dbname(name);
        }
        if let Some(password) = all.get_password() {
            one.password(password);
        }
        // A node that is cut off answers nothing at all.
        one.application_name("trine drill").connect_timeout(EACH).tcp_user_timeout(Duration::from_secs(2));
        one.keepalives_idle(Duration::from_secs(1)).keepalives_interval(Duration::from_secs(1)).keepalives_retries(2);
        Host(one)
    });
    Ok(of_each.collect())
}

impl Host {
    pub(super) async fn open(&self) -> Result<Session, SessionError> {
        match self.0.connect(NoTls).await {
            Ok((client, connection)) => {
                // Its end is noticed by the client that uses it.
                tokio::spawn(connection);
                Ok(Session { client, insert: None })
            }
            Err(e) if e.code().is_some_and(|c| c.code().starts_with("28") || c.code() == "3D000") => {
                Err(SessionError::Rejected(chain(&e)))
            }
            Err(e) => Err(SessionError::Refused(chain(&e))),
        }
    }
}

/// One client's session.
pub(super) struct Session {
    client: Client,
    insert: Option<Statement>,
}

impl Session {
    pub(super) async fn make(&self) -> Result<(), StatementError> {
        let sql = "create schema trine_drill; create table trine_drill.rows (id bigint primary key)";
        match self.client.batch_execute(sql).await {
            Err(e) if e.code().is_some_and(|c| c.code() == DUPLICATE_SCHEMA) => Err(StatementError::There),
            done => done.map_err(failed),
        }
    }

    pub(super) async fn insert(&mut self, id: i64) -> Result<(), StatementError> {
        let insert = match self.insert.take() {
            Some(insert) => insert,
            None => self.client.prepare("insert into trine_drill.rows values ($1)").await.map_err(failed)?,
        };
        self.client.execute(&insert, &[&id]).await.map_err(failed)?;
        self.insert = Some(insert);
        Ok(())
    }

    pub(super) async fn ids(&self) -> Result<BTreeSet<i64>, StatementError> {
        let rows = self.client.query("select id from trine_drill.rows", &[]).await.map_err(failed)?;
        Ok(rows.iter().filter_map(|r| r.try_get(0).ok()).collect())
    }

    pub(super) async fn clear(&self) -> Result<(), StatementError> {
        self.client.batch_execute(PLACE.1).await.map_err(failed)
    }
}

fn failed(e: tokio_postgres::Error) -> StatementError {
    StatementError::Failed(chain(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_one_configuration() {
        let all = hosts("postgresql://app:a%2Fb@10.0.0.1:6432,10.0.0.2:6433/app?target_session_attrs=any").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].0.get_ports(), [6433]);
        assert_eq!(all[1].0.get_password(), Some(&b"a/b"[..]));
        assert!(hosts("postgresql://").unwrap().is_empty());
        assert!(matches!(hosts("nonsense"), Err(SessionError::Uri(_))));
    }
}
