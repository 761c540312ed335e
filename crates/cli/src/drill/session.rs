//! Sessions of the drill's clients, through any of the endpoint's addresses, to whichever database the cluster has.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::{mysql, postgres};

/// An address that does not take a session by then is left for the next.
pub(super) const EACH: Duration = Duration::from_millis(1500);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The URI is none.
    #[error("the connection string can't be read: {0}")]
    Uri(String),
    /// There is no address in it.
    #[error("the connection string names no host")]
    NoHost,
    /// The database knows no such user, password or database: asking again is no use.
    #[error("the database refuses the session: {0}")]
    Rejected(String),
    /// No address took a session; the last one's words.
    #[error("no address of the writer endpoint takes a session: {0}")]
    Refused(String),
}

/// Why a statement did not do what it is for.
#[derive(Debug, thiserror::Error)]
pub(super) enum StatementError {
    /// What the drill would make is there already.
    #[error("it is there already")]
    There,
    /// The database refuses, or the connection broke.
    #[error("{0}")]
    Failed(String),
}

/// What clients speak.
#[derive(Clone, Copy, Debug)]
pub(super) enum Language {
    Postgres,
    MySql,
}

impl Language {
    /// An engine's; `None`: the drill has no clients for it.
    pub(super) fn of(engine: &str) -> Option<Self> {
        match engine {
            "postgres" => Some(Self::Postgres),
            "mariadb" | "mysql" => Some(Self::MySql),
            _ => None,
        }
    }
}

/// The addresses of a connection string, each as one to connect to.
#[derive(Clone, Debug)]
pub(super) enum Hosts {
    Postgres(Vec<postgres::Host>),
    MySql(Vec<mysql::Host>),
}

impl Hosts {
    /// Reads a connection string.
    ///
    /// # Errors
    /// It is none of this language's, or has no address.
    pub(super) fn read(language: Language, uri: &str) -> Result<Self, SessionError> {
        let hosts = match language {
            Language::Postgres => Self::Postgres(postgres::hosts(uri)?),
            Language::MySql => Self::MySql(mysql::hosts(uri)?),
        };
        if hosts.len() == 0 { Err(SessionError::NoHost) } else { Ok(hosts) }
    }

    fn len(&self) -> usize {
        match self {
            Self::Postgres(hosts) => hosts.len(),
            Self::MySql(hosts) => hosts.len(),
        }
    }

    /// The same, beginning with another.
    pub(super) fn beginning_with(&self, nth: usize) -> Self {
        let (mut other, first) = (self.clone(), nth % self.len().max(1));
        match &mut other {
            Self::Postgres(hosts) => hosts.rotate_left(first),
            Self::MySql(hosts) => hosts.rotate_left(first),
        }
        other
    }

    /// All that the drill writes is in it, and how a person removes it.
    pub(super) const fn place(&self) -> (&'static str, &'static str) {
        match self {
            Self::Postgres(_) => postgres::PLACE,
            Self::MySql(_) => mysql::PLACE,
        }
    }

    /// A session at the first address that takes one.
    ///
    /// # Errors
    /// Why the last did not, or that none would.
    pub(super) async fn open(&self) -> Result<Session, SessionError> {
        match self {
            Self::Postgres(hosts) => first(hosts, async |host| host.open().await.map(Session::Postgres)).await,
            Self::MySql(hosts) => first(hosts, async |host| host.open().await.map(Session::MySql)).await,
        }
    }
}

async fn first<H>(
    hosts: &[H],
    open: impl AsyncFn(&H) -> Result<Session, SessionError>,
) -> Result<Session, SessionError> {
    let mut last = SessionError::NoHost;
    for host in hosts {
        last = match timeout(EACH, open(host)).await {
            Ok(Err(e @ SessionError::Refused(_))) => e,
            Ok(done) => return done,
            Err(_) => SessionError::Refused("it does not answer".to_owned()),
        };
    }
    Err(last)
}

/// One client's session.
pub(super) enum Session {
    Postgres(postgres::Session),
    MySql(mysql::Session),
}

impl Session {
    /// Makes the table.
    pub(super) async fn make(&mut self) -> Result<(), StatementError> {
        match self {
            Self::Postgres(session) => session.make().await,
            Self::MySql(session) => session.make().await,
        }
    }

    /// Writes a row, and returns once it is acknowledged.
    pub(super) async fn insert(&mut self, id: i64) -> Result<(), StatementError> {
        match self {
            Self::Postgres(session) => session.insert(id).await,
            Self::MySql(session) => session.insert(id).await,
        }
    }

    /// Which rows are there.
    pub(super) async fn ids(&mut self) -> Result<BTreeSet<i64>, StatementError> {
        match self {
            Self::Postgres(session) => session.ids().await,
            Self::MySql(session) => session.ids().await,
        }
    }

    /// Removes the table, and all else that the drill has made.
    pub(super) async fn clear(&mut self) -> Result<(), StatementError> {
        match self {
            Self::Postgres(session) => session.clear().await,
            Self::MySql(session) => session.clear().await,
        }
    }
}
