//! What a client asks of a database, whichever it is, and what it is told.

mod firebird;
mod postgres;
mod redis;
mod sqlite;

use futures::future::BoxFuture;

pub use firebird::Firebird;
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
        let code = || e.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.code()).map(|c| c.code().to_owned());
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
