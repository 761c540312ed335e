//! The agent's own connections to the database, over its unix socket.

use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, OptsBuilder, Row};
use tokio::time::timeout;

use super::dialect::Words;
use crate::EngineError;

/// The agent's user.
pub(super) const USER: &str = "trine";

/// The user that a standby's receiver comes as.
pub(super) const REPLICATION: &str = "trine_replication";

/// How long a connection may take. A database that does not let the agent in by then does not answer.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection. Dropping it closes it, in the middle of a statement too.
#[derive(Debug)]
pub(super) struct Session {
    conn: Conn,
}

impl Session {
    /// Connects as the agent, or as `user`.
    pub(super) async fn open(socket: &Path, words: &Words, user: &str, password: &str) -> Result<Self, EngineError> {
        let options = OptsBuilder::default()
            .socket(Some(socket.display().to_string()))
            .user(Some(user))
            .pass(Some(password))
            .prefer_socket(Some(true))
            .setup(vec![words.session]);
        let conn = timeout(CONNECT, Conn::new(options)).await;
        let conn = conn
            .map_err(|_| EngineError::Timeout("let the agent in"))?
            .map_err(EngineError::mysql("let the agent in"))?;
        Ok(Self { conn })
    }

    /// Runs a statement.
    pub(super) async fn run(&mut self, action: &'static str, statement: &str) -> Result<(), EngineError> {
        self.conn.query_drop(statement).await.map_err(EngineError::mysql(action))
    }

    /// How many rows the last statement has changed.
    pub(super) fn affected_rows(&self) -> u64 {
        self.conn.affected_rows()
    }

    /// Runs a statement that has no text of its own for a failure of this number.
    pub(super) async fn run_unless(
        &mut self,
        action: &'static str,
        statement: &str,
        number: u16,
    ) -> Result<(), EngineError> {
        match self.conn.query_drop(statement).await {
            Err(mysql_async::Error::Server(e)) if e.code == number => Ok(()),
            other => other.map_err(EngineError::mysql(action)),
        }
    }

    /// All rows of an answer.
    pub(super) async fn rows(&mut self, action: &'static str, statement: &str) -> Result<Vec<Row>, EngineError> {
        self.conn.query(statement).await.map_err(EngineError::mysql(action))
    }

    /// The first row of an answer, if there is one.
    pub(super) async fn row(&mut self, action: &'static str, statement: &str) -> Result<Option<Row>, EngineError> {
        self.conn.query_first(statement).await.map_err(EngineError::mysql(action))
    }

    /// One of the database's counters and states.
    pub(super) async fn status(&mut self, action: &'static str, name: &str) -> Result<String, EngineError> {
        let row = self.row(action, &format!("show global status like {}", literal(name))).await?;
        row.and_then(|r| column(&r, 1)).ok_or(EngineError::Unreadable { action })
    }

    /// The first column of the first row.
    pub(super) async fn value<T: FromValue>(
        &mut self,
        action: &'static str,
        statement: &str,
    ) -> Result<T, EngineError> {
        let row = self.row(action, statement).await?;
        row.and_then(|row| column(&row, 0)).ok_or(EngineError::Unreadable { action })
    }
}

/// A column of a row; `None` when it is not there, is NULL, or is of another kind.
pub(super) fn column<T: FromValue>(row: &Row, index: impl mysql_async::prelude::ColumnIndex) -> Option<T> {
    row.get_opt(index)?.ok()
}

/// A string as an SQL literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_stays_one() {
        assert_eq!(literal(r"it's \ so"), r"'it''s \\ so'");
    }
}
