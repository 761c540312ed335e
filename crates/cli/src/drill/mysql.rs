//! The drill's clients of MariaDB and MySQL.

use std::collections::BTreeSet;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder};

use super::session::{SessionError, StatementError};
use crate::failure::chain;

/// All that is written is in it, and how a person removes it. A user of one database can't make another.
pub(super) const PLACE: (&str, &str) = ("table trine_drill", "drop table trine_drill");

/// "There is such a table" (`ER_TABLE_EXISTS_ERROR`).
const TABLE_EXISTS: u16 = 1050;
/// No such user or password, no right to the database, no such database.
const REJECTED: [u16; 3] = [1045, 1044, 1049];

/// One address.
#[derive(Clone, Debug)]
pub(super) struct Host(Opts);

/// The addresses: a URI has one, so there may be several, with commas or spaces between.
pub(super) fn hosts(uris: &str) -> Result<Vec<Host>, SessionError> {
    let of_each = uris.split([',', ' ']).map(str::trim).filter(|u| !u.is_empty()).map(|uri| {
        let opts = Opts::from_url(uri)
            .map_err(|e| SessionError::Uri(format!("{}: mysql://user:password@host:port/database", chain(&e))))?;
        if opts.db_name().is_none() {
            return Err(SessionError::Uri("it names no database: mysql://user:password@host:port/database".to_owned()));
        }
        // Or else it asks a server on the same machine for its socket, and goes on by that: past the endpoint.
        let opts = OptsBuilder::from_opts(opts).prefer_socket(false).tcp_nodelay(true);
        // Given, it need not ask the server for them first.
        Ok(Host(opts.max_allowed_packet(Some(16 << 20)).wait_timeout(Some(28800)).into()))
    });
    of_each.collect()
}

impl Host {
    pub(super) async fn open(&self) -> Result<Session, SessionError> {
        match Conn::new(self.0.clone()).await {
            Ok(conn) => Ok(Session { conn }),
            Err(Error::Server(e)) if REJECTED.contains(&e.code) => Err(SessionError::Rejected(e.message)),
            Err(e) => Err(SessionError::Refused(chain(&e))),
        }
    }
}

/// One client's session.
pub(super) struct Session {
    conn: Conn,
}

impl Session {
    pub(super) async fn make(&mut self) -> Result<(), StatementError> {
        match self.conn.query_drop("create table trine_drill (id bigint primary key)").await {
            Err(Error::Server(e)) if e.code == TABLE_EXISTS => Err(StatementError::There),
            done => done.map_err(failed),
        }
    }

    pub(super) async fn insert(&mut self, id: i64) -> Result<(), StatementError> {
        self.conn.query_drop(format!("insert into trine_drill values ({id})")).await.map_err(failed)
    }

    pub(super) async fn ids(&mut self) -> Result<BTreeSet<i64>, StatementError> {
        let ids: Vec<i64> = self.conn.query("select id from trine_drill").await.map_err(failed)?;
        Ok(ids.into_iter().collect())
    }

    pub(super) async fn clear(&mut self) -> Result<(), StatementError> {
        self.conn.query_drop(PLACE.1).await.map_err(failed)
    }
}

fn failed(e: Error) -> StatementError {
    StatementError::Failed(chain(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_uri_is_one_address() {
        let all = hosts("mysql://app:a%2Fb@10.0.0.1:6432/app, mysql://app:x@10.0.0.2:6433/app").unwrap();
        assert_eq!((all.len(), all[1].0.tcp_port(), all[0].0.pass()), (2, 6433, Some("a/b")));
        assert!(!all[0].0.prefer_socket());
        assert!(hosts("").unwrap().is_empty());
        for wrong in ["postgresql://app@10.0.0.1/app", "nonsense", "mysql://app@10.0.0.1"] {
            assert!(matches!(hosts(wrong), Err(SessionError::Uri(_))), "{wrong}");
        }
    }
}
