//! The rules: epochs, leases, seals, sync rules, elections, and what a node does about them.
//!
//! Pure code: no I/O, no async, no clock, no randomness. Time is passed in as a [`Moment`]. docs/protocol.md gives the
//! safety argument; the tests drive these same functions through any order of messages, crashes and lost packets.

mod ids;
mod sync;
mod time;

pub use ids::{BadNodeName, Epoch, NodeName, Position};
pub use sync::SyncRule;
pub use time::Moment;
