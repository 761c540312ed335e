//! What a writer's client asks of its connection, whichever database that leads to.

use anyhow::Result;

use super::WriterOptions;

/// The database's OK, and who said it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// The node, as its database names itself; empty where it does not.
    pub node: String,
    /// The epoch; 0 where the database does not know.
    pub epoch: u64,
    /// It came with the warning that no other node has it: such an OK is worth nothing.
    pub not_replicated: bool,
}

/// A connection of one client.
pub trait Link: Sized + Send + 'static {
    /// Makes the table, or empties it.
    fn prepare(options: &WriterOptions) -> impl Future<Output = Result<()>> + Send;

    /// Connects, and makes ready for [`Link::write`]. `client` is the client's number.
    fn open(options: &WriterOptions, client: usize) -> impl Future<Output = Result<Self>> + Send;

    /// Writes an id, and returns when the database has said that it is durable.
    fn write(&mut self, id: i64) -> impl Future<Output = Result<Answered>> + Send;

    /// Asks something that only the primary answers.
    fn read(&mut self) -> impl Future<Output = Result<Answered>> + Send;

    /// What an error is counted under.
    fn kind(e: &anyhow::Error) -> String;

    /// The database's own code of an error, when it was the database (or an endpoint in its name) that said it.
    fn code(e: &anyhow::Error) -> Option<String>;
}
