//! What a client asks of a database, whichever it is, and what it is told.

mod firebird;
mod mariadb;
mod postgres;
mod redis;
mod sqlite;

use anyhow::{Result, bail, ensure};
use futures::future::BoxFuture;

pub use firebird::Firebird;
pub use mariadb::Mariadb;
pub use postgres::Postgres;
pub use redis::Redis;
pub use sqlite::Sqlite;

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Append a value to the list.
    Append(u64),
    /// How much of the list is there?
    Look,
    /// Overwrite a register.
    Write {
        /// Which.
        key: u32,
        /// With what.
        value: u64,
    },
    /// What is in this register?
    Read(u32),
}

impl Question {
    /// The value that is to be written, if any is.
    #[must_use]
    pub const fn value(self) -> Option<u64> {
        match self {
            Self::Append(value) | Self::Write { value, .. } => Some(value),
            Self::Look | Self::Read(_) => None,
        }
    }
}

/// What it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The number of the node that answered, and the epoch that it answered in, where the database knows.
    pub by: Option<(u8, u64)>,
    /// Of [`Question::Append`] and [`Question::Look`]: how long the list is.
    pub length: usize,
    /// Of [`Question::Look`]: the list's last value; of [`Question::Read`]: the register's.
    pub value: Option<u64>,
    /// It was acknowledged with the warning that no other node has it.
    pub let_through: bool,
}

/// Why there is no reply. The session is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In a word or two, to be counted by.
    pub kind: String,
    /// The database has certainly done nothing.
    pub refused: bool,
    /// No database that keeps what it has can have answered so: a damaged value.
    pub impossible: bool,
}

impl Failure {
    /// Nobody knows what the database has done.
    #[must_use]
    pub fn unknown(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), refused: false, impossible: false }
    }

    /// No session was opened.
    #[must_use]
    pub fn of_connecting(e: &anyhow::Error) -> Self {
        let postgres = || e.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.code()).map(|c| c.code().to_owned());
        let code = || postgres().or_else(|| crate::mariadb::code(e).map(|code| code.to_string()));
        Self::unknown(match () {
            () if e.is::<tokio::time::error::Elapsed>() => "timeout".to_owned(),
            () => code().unwrap_or_else(|| "connection".to_owned()),
        })
    }
}

/// A client's session with the primary's database.
pub trait Session: Send + Sync {
    /// Asks one thing. What it gives is returned only when the database has said that it is done, and durable.
    fn ask(&mut self, question: Question) -> BoxFuture<'_, Result<Reply, Failure>>;

    /// Has the database put its files in order, if that is something that a client can ask for. What comes of it is nobody's concern.
    fn tidy(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The list, of rows that have a place and a value each, in order.
fn list_of<'a>(rows: impl IntoIterator<Item = &'a [Option<u64>]>) -> Result<Vec<u64>> {
    let mut list = Vec::new();
    for row in rows {
        let [Some(pos), Some(value)] = row else { bail!("a row of the list: {row:?}") };
        ensure!(usize::try_from(*pos)? == list.len() + 1, "the list has a gap before {pos}");
        list.push(*value);
    }
    Ok(list)
}

/// Where a database has tables as others have them: the list, its length and last value as a row beside it, and the registers.
fn tables(registers: u32) -> Vec<String> {
    let mut statements = [
        "create table torture_list (pos bigint primary key, val bigint not null)",
        "create table torture_end (length bigint not null, last_val bigint)",
        "create table torture_registers (name int primary key, val bigint)",
        "insert into torture_end values (0, null)",
    ]
    .map(str::to_owned)
    .to_vec();
    statements.extend((0..registers).map(|key| format!("insert into torture_registers values ({key}, null)")));
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_a_gap_is_none() {
        let list = |rows: &[[Option<u64>; 2]]| list_of(rows.iter().map(<[_; 2]>::as_slice));
        assert_eq!(list(&[[Some(1), Some(7)], [Some(2), Some(5)]]).unwrap(), [7, 5]);
        assert!(list(&[[Some(1), Some(7)], [Some(3), Some(5)]]).is_err());
        assert!(list(&[[Some(1), None]]).is_err());
    }
}
