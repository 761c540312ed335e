//! What MariaDB and MySQL do alike under other names, and what only one of them does.
//!
//! Names are data ([`Words`]). Where the two behave differently each has a file of its own, and what this file has for it says
//! what is asked of both.

mod mariadb;
mod mysql;

use std::net::SocketAddr;

use trine_protocol::Epoch;

use super::adopt::Home;
use super::binaries::Wanted;
use super::place::Place;
use super::seal::Slave;
use super::session::{Session, column};
use super::settings::Tables;
use super::state::Mysql;
use crate::EngineError;

/// Which of the two it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// MariaDB 10.11 or later.
    MariaDb,
    /// MySQL 8.0.26 or later.
    MySql,
}

/// The part of a log that its own server has written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Own {
    /// The last of its numbers; 0: it has written nothing.
    Last { server: String, number: u64 },
    /// How many names of its own there are.
    Count { server: String, count: u64 },
}

/// How a primary is ended that takes no more writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GivesWay {
    /// It is told to end.
    Ended,
    /// It is killed: its clean end takes over a second, whatever there is to do (1.3 to 1.5 s for MySQL 9.7 without a client
    /// or a page to write), and clients would wait for it.
    Killed,
}

/// Names and statements.
#[derive(Debug)]
pub(super) struct Words {
    /// What people call it.
    pub(super) product: &'static str,
    /// The engine's kind, as in trine.toml.
    pub(super) kind: &'static str,
    /// The settings file's section for the server.
    pub(super) section: &'static str,
    /// What the agent's connections begin with: whatever the user has set for everybody, its statements take as long as
    /// they take.
    pub(super) session: &'static str,
    pub(super) start_receiver: &'static str,
    pub(super) stop_receiver: &'static str,
    pub(super) start_applier: &'static str,
    /// What shows how it follows, and the columns that are called differently: receiver, applier, received, behind.
    pub(super) follows: &'static str,
    pub(super) follows_columns: [&'static str; 4],
    /// Settings: a standby acknowledges; a primary waits.
    pub(super) acknowledge: &'static str,
    pub(super) wait_for_standbys: &'static str,
    /// States: whether it does.
    pub(super) acknowledges: &'static str,
    pub(super) waits: &'static str,
    /// How many commits wait now.
    pub(super) waiting: &'static str,
    /// How many commits went through without an acknowledgement.
    pub(super) unacknowledged: &'static str,
    /// The table of connections, and what it says of one that takes the log.
    pub(super) processes: &'static str,
    pub(super) dump: &'static str,
    /// From the read-only state of a standby to one in which only the agent writes; empty: it is the same.
    pub(super) open_for_agent: &'static str,
    pub(super) open_for_all: &'static str,
    pub(super) close_for_all: &'static str,
    /// How the database names itself in what it writes.
    pub(super) server: &'static str,
    /// Arguments of a run that nobody else can reach.
    pub(super) private_run: &'static [&'static str],
    /// The last statements for a first copy: whoever was there by itself has nothing to do in it.
    pub(super) tidy: &'static [&'static str],
}

const fn on(value: bool) -> &'static str {
    if value { "ON" } else { "OFF" }
}

impl Words {
    /// The statement that makes a standby's next receiver acknowledge, or not.
    pub(super) fn acknowledge(&self, value: bool) -> String {
        format!("set global {} = {}", self.acknowledge, on(value))
    }

    /// The statement that makes commits wait for an acknowledgement, or not.
    pub(super) fn wait_for_standbys(&self, value: bool) -> String {
        format!("set global {} = {}", self.wait_for_standbys, on(value))
    }
}

impl Dialect {
    pub(super) const fn words(self) -> &'static Words {
        match self {
            Self::MariaDb => &mariadb::WORDS,
            Self::MySql => &mysql::WORDS,
        }
    }

    pub(super) const fn settings(self) -> &'static Tables {
        match self {
            Self::MariaDb => &mariadb::TABLES,
            Self::MySql => &mysql::TABLES,
        }
    }

    pub(super) const fn home(self) -> &'static Home {
        match self {
            Self::MariaDb => &mariadb::HOME,
            Self::MySql => &mysql::HOME,
        }
    }

    pub(super) const fn programs(self) -> &'static Wanted {
        match self {
            Self::MariaDb => &mariadb::PROGRAMS,
            Self::MySql => &mysql::PROGRAMS,
        }
    }
}

impl Mysql {
    pub(super) fn words(&self) -> &'static Words {
        self.config.dialect.words()
    }

    /// Where its log ends: everything that it has applied, or written itself.
    pub(super) async fn place(&self, session: &mut Session) -> Result<Place, EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => {
                let (applied, written) = mariadb::places(session).await?;
                Ok(applied.or_further(written))
            }
            Dialect::MySql => Ok(mysql::executed(session).await?.place()),
        }
    }

    /// Makes the database know a user's password. Over a unix socket MySQL is told a password that it does not know in clear,
    /// and a client that comes another way, through an agent, does not say it so.
    pub(super) async fn introduce(&self, user: &str, password: &str) -> Result<(), EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => Ok(()),
            Dialect::MySql => Session::open(&self.paths.socket(), self.words(), user, password).await.map(drop),
        }
    }

    /// What its own server has written of its log.
    pub(super) async fn own_part(&self, session: &mut Session) -> Result<Own, EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => mariadb::own_part(session, self.config.server_id).await,
            Dialect::MySql => mysql::own_part(session).await,
        }
    }

    /// The statement that gives the session's next transaction the name of an epoch's first.
    pub(super) fn first_of_epoch(&self, epoch: Epoch) -> String {
        match self.config.dialect {
            Dialect::MariaDb => mariadb::first_of_epoch(epoch),
            Dialect::MySql => mysql::first_of_epoch(epoch),
        }
    }

    /// And the one that lets those after it have names of their own again.
    pub(super) const fn rest_of_epoch(&self) -> Option<&'static str> {
        match self.config.dialect {
            Dialect::MariaDb => None,
            Dialect::MySql => Some(mysql::REST_OF_EPOCH),
        }
    }

    /// Takes the log from an address from now on. Its receiver is stopped, and what it has received is applied.
    pub(super) async fn follow_behind(&self, session: &mut Session, address: SocketAddr) -> Result<(), EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => self.mariadb_follows(session, address).await,
            Dialect::MySql => self.mysql_follows(session, address).await,
        }
    }

    /// Takes no log any more. What it has received is applied.
    pub(super) async fn forget_upstream(&self, session: &mut Session) -> Result<(), EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => self.mariadb_forgets_whom_it_followed(session).await,
            Dialect::MySql => self.mysql_forgets_whom_it_followed(session).await,
        }
    }

    /// Does what would keep a standby from ending soon when it is told to.
    pub(super) async fn before_end(&self, session: &mut Session) -> Result<(), EngineError> {
        match self.config.dialect {
            Dialect::MariaDb => Ok(()),
            // Its end waits for the applier, which may wait for the rest of a transaction.
            Dialect::MySql => self.mysql_stops_applying(session).await,
        }
    }

    /// How a primary ends whose place another one takes.
    pub(super) const fn gives_way(&self) -> GivesWay {
        match self.config.dialect {
            Dialect::MariaDb => GivesWay::Ended,
            Dialect::MySql => GivesWay::Killed,
        }
    }

    /// `None`: it was never told to follow anybody.
    pub(super) async fn slave(&self, session: &mut Session) -> Result<Option<Slave>, EngineError> {
        const ACTION: &str = "say how it follows";
        let unreadable = || EngineError::Unreadable { action: ACTION };
        let Some(row) = session.row(ACTION, self.words().follows).await? else { return Ok(None) };
        let text = |name: &str| column::<String>(&row, name).filter(|t| !t.is_empty());
        let [receiver, applier, received, behind] = self.words().follows_columns;
        let received = text(received).unwrap_or_default();
        let received = match self.config.dialect {
            Dialect::MariaDb => mariadb::last_in(&received),
            // Of what it has received since it follows this one.
            Dialect::MySql => match mysql::GtidSet::parse(&received) {
                Ok(received) => Ok(mysql::executed(session).await?.or(&received).place()),
                Err(why) => Err(why),
            },
        };
        Ok(Some(Slave {
            receiver: text(receiver).ok_or_else(unreadable)?,
            applies: text(applier).is_some_and(|r| r == "Yes"),
            received: received.map_err(|_| unreadable())?,
            receiver_error: text("Last_IO_Error"),
            applier_error: text("Last_SQL_Error"),
            behind: column(&row, behind),
        }))
    }
}
