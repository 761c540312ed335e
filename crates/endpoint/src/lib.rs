//! The writer and reader TCP endpoints that every node has.
//!
//! The writer endpoint leads to the one open primary, wherever it is; the reader endpoint to one of the healthy standbys.
//! An [`Endpoint`] knows nothing of elections: the agent tells it the [`Route`] (through a `watch` channel) and how to
//! open a connection to a database ([`Dialer`]). What the endpoint promises in return:
//!
//! * from the moment that a new route is sent, no byte of the old primary's is given to a client any more, and its
//!   sessions end at once; so do those of a local primary whose [`Permit`] (lease) has run out;
//! * while there is no primary, new connections wait instead of being refused;
//! * a session of PostgreSQL's or MySQL's gets its end as a server message where the stream allows it, so that drivers
//!   reconnect;
//! * a commit whose wait for the standbys was cancelled is never passed on as done.

mod conn;
mod counters;
mod dial;
mod ending;
mod endpoint;
mod flow;
mod hold;
mod limits;
mod login;
mod mysql;
mod parting;
mod postgres;
mod relay;
mod rest;
mod route;
mod served;
mod session;
mod tracker;
mod warden;

pub use conn::{Conn, Incoming, tune_client};
pub use counters::{Busy, Counters, Snapshot};
pub use dial::{Backend, Dialer, Permit};
pub use endpoint::Endpoint;
pub use limits::Limits;
pub use route::{Kind, Leads, Route, Target, Wire};
pub use served::{Served, relay_served};
