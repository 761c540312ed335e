//! What the agent gives to an endpoint: connections to databases, and the right to serve from the local one.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use trine_protocol::Epoch;

use crate::{Conn, Target};

/// Opens connections to databases.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Opens one connection to `target`, as of `epoch`: a node that is not that epoch's open primary (for the writer), or
    /// not a healthy standby (for the reader), must refuse it. May be dropped at any point.
    ///
    /// # Errors
    /// Why it can't be had now: the endpoint tries the next target, or again, until its hold limit.
    async fn dial(&self, target: &Target, epoch: Epoch) -> io::Result<Backend>;
}

/// The right to pass on what a local primary says: a lease that has not run out.
pub trait Permit: Send + Sync + 'static {
    /// Is the lease valid at this moment? Called before every write to a client, so: one clock, one atomic, no lock.
    fn valid(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync + 'static> Permit for F {
    fn valid(&self) -> bool {
        self()
    }
}

/// A connection to a database.
pub struct Backend {
    /// The connection.
    pub conn: Conn,
    /// Asked before every write to the client. A writer's local sessions must have one; remote ones are watched by the
    /// node that serves them.
    pub permit: Option<Arc<dyn Permit>>,
}

impl Backend {
    /// A connection that needs no permit here.
    #[must_use]
    pub fn free(conn: impl Into<Conn>) -> Self {
        Self { conn: conn.into(), permit: None }
    }

    /// A connection to the local primary.
    #[must_use]
    pub fn permitted(conn: impl Into<Conn>, permit: Arc<dyn Permit>) -> Self {
        Self { conn: conn.into(), permit: Some(permit) }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("conn", &self.conn).field("permit", &self.permit.is_some()).finish()
    }
}
