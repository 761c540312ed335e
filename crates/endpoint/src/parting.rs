//! The last thing that an endpoint says to a client, whatever the protocol.

/// What kind of an end it is. Each protocol has a code of its own for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// A session is ended, by no fault of its client: drivers know it as "reconnect".
    Shutdown,
    /// There is no database to lead to.
    CannotConnect,
    /// The endpoint has as many sessions as it takes.
    TooMany,
    /// Whether a transaction will stay committed is not known.
    Unresolved,
}

/// An error, after which the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parting {
    pub(crate) why: Why,
    /// What happened.
    pub(crate) message: String,
    /// More about it.
    pub(crate) detail: Option<&'static str>,
    /// What to do.
    pub(crate) hint: Option<&'static str>,
}
