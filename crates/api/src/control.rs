//! What the API asks of the agent.

use async_trait::async_trait;

use crate::{Accepted, EventView, Findings, Refused, Request, Status, Uris};

/// The agent, as the API sees it. Every call may be made at any time, by many clients at once, and answers from what the
/// agent already knows: none may wait for a disk, a database or another node, but [`Control::request`],
/// [`Control::new_events`] and [`Control::examine`].
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// The whole cluster, as this node sees it.
    ///
    /// # Errors
    /// [`Refused`] while the agent can say nothing yet.
    async fn status(&self) -> Result<Status, Refused>;

    /// The events with a number greater than `after`, oldest first, at most `limit` of them.
    ///
    /// # Errors
    /// [`Refused`] while the agent can say nothing yet.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<EventView>, Refused>;

    /// Returns once there is an event with a number greater than `after`. May be dropped at any time.
    async fn new_events(&self, after: u64);

    /// User, password and every node's address, ready to use. Only for callers with the token.
    ///
    /// # Errors
    /// [`Refused`] while the agent can say nothing yet.
    async fn uris(&self) -> Result<Uris, Refused>;

    /// Has every node look at its database for what somebody would want to change. Only for callers with the token.
    ///
    /// # Errors
    /// [`Refused`]: no node could look.
    async fn examine(&self) -> Result<Findings, Refused>;

    /// Takes a request of a caller with the token: returns once consensus has it, not once it is done.
    ///
    /// # Errors
    /// [`Refused`]: why it was not taken, and what to do.
    async fn request(&self, request: Request) -> Result<Accepted, Refused>;
}
