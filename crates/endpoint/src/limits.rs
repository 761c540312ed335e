//! What one endpoint takes before it says no.

use std::time::Duration;

/// The bounds of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at a time, the held ones included. The next one gets an error that names this limit.
    pub max_connections: usize,
    /// How long a new connection waits for a database before it gets an error.
    pub hold: Duration,
    /// How long a client may take for its startup packet, TLS included. (MySQL's clients speak second: where TLS is the
    /// endpoint's own, it is their response to the greeting, and the greeting may take as long.)
    pub startup: Duration,
    /// How long one attempt to reach a database may take; then the next candidate, or the newest route, is tried.
    pub dial: Duration,
    /// How long the database may go on answering a client that has closed its own side.
    pub half_closed: Duration,
    /// How long a client may take to read the message that its session has ended.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1000,
            hold: Duration::from_secs(30),
            startup: Duration::from_secs(10),
            dial: Duration::from_secs(2),
            half_closed: Duration::from_secs(30),
            farewell: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Connections that may be in their startup phase beside [`Self::max_connections`] sessions: enough for health checks,
    /// cancel requests, and for telling those over the limit so.
    pub(crate) const STARTING: usize = 256;
}
