//! What is known of a session, whatever its protocol.

use crate::parting::Parting;
use crate::{Wire, mysql, postgres};

/// Follows both directions of one session whose protocol is known.
pub(crate) enum Tracker {
    /// PostgreSQL's.
    Postgres(postgres::Tracker),
    /// MySQL's.
    MySql(Box<mysql::Tracker>),
}

impl Tracker {
    /// A session of which nothing has been seen yet. `None`: nothing is ever known of one that is raw.
    pub(crate) fn new(wire: Wire) -> Option<Self> {
        match wire {
            Wire::Postgres => Some(Self::Postgres(postgres::Tracker::new())),
            Wire::MySql => Some(Self::MySql(Box::default())),
            Wire::Raw => None,
        }
    }

    /// A MySQL session whose client has had this greeting; if it is `encrypted`, by the endpoint itself.
    pub(crate) fn greeted(greeting: &[u8], encrypted: bool) -> Self {
        Self::MySql(Box::new(mysql::Tracker::greeted(greeting, encrypted)))
    }

    /// Takes note of bytes on their way to the server. They may change, not in length.
    pub(crate) fn note_client(&mut self, bytes: &mut [u8]) {
        match self {
            Self::Postgres(t) => t.note_client(bytes),
            Self::MySql(t) => t.note_client(bytes),
        }
    }

    /// Takes note of bytes from the server *before* they are passed on. They may change, not in length. `Some(n)`: only the first `n` may be, and nothing
    /// after them: a wait for the standbys has been cancelled.
    pub(crate) fn note_server(&mut self, bytes: &mut [u8]) -> Option<usize> {
        match self {
            Self::Postgres(t) => t.note_server(bytes),
            Self::MySql(t) => {
                t.note_server(bytes);
                None
            }
        }
    }

    /// Is nothing known of the session any more? From then on it is as if it were raw.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Postgres(_) => false,
            Self::MySql(t) => t.is_lost(),
        }
    }

    /// Is the session between two transactions, with no answer owed?
    pub(crate) fn idle(&self) -> bool {
        match self {
            Self::Postgres(t) => t.idle(),
            Self::MySql(t) => t.idle(),
        }
    }

    /// Is a database's very first message, which begins with these bytes, "not now" (starting up, shutting down)?
    pub(crate) fn says_not_yet(&self, first: &[u8]) -> bool {
        match self {
            Self::Postgres(_) => postgres::says_not_yet(first),
            Self::MySql(_) => mysql::says_not_yet(first),
        }
    }

    /// Where the session stands, for the one who has to end it.
    pub(crate) fn standing(&self) -> Standing {
        match self {
            Self::Postgres(t) => Standing {
                between_messages: t.between_messages(),
                in_request: t.in_request(),
                ready_once: t.ready_once(),
                over: t.over(),
                form: Form::Postgres,
            },
            Self::MySql(t) => Standing {
                between_messages: t.between_messages(),
                in_request: t.in_request(),
                ready_once: t.ready_once(),
                over: t.over(),
                form: Form::MySql(t.place()),
            },
        }
    }
}

/// Where a session stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The server is between two messages: one of our own may follow.
    pub(crate) between_messages: bool,
    /// An answer is owed to the client, so that it can't know whether its last transaction was committed.
    pub(crate) in_request: bool,
    /// The session has got past authentication.
    pub(crate) ready_once: bool,
    /// The client knows already that the session is over: it has said so itself, or the server has.
    pub(crate) over: bool,
    /// How to say a message of our own.
    pub(crate) form: Form,
}

/// How a message of our own goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// PostgreSQL's messages are the same wherever they come.
    Postgres,
    /// MySQL's have a number.
    MySql(mysql::Place),
}

impl Form {
    /// For a client that has heard nothing yet. `None`: there is nothing that a client of this protocol would understand.
    pub(crate) fn of_opening(wire: Wire) -> Option<Self> {
        match wire {
            Wire::Postgres => Some(Self::Postgres),
            Wire::MySql => Some(Self::MySql(mysql::Place::OPENING)),
            Wire::Raw => None,
        }
    }

    /// The message.
    pub(crate) fn encode(self, parting: &Parting) -> Vec<u8> {
        match self {
            Self::Postgres => postgres::fatal(parting),
            Self::MySql(place) => mysql::error(parting, place),
        }
    }
}
