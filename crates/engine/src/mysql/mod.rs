//! MariaDB and MySQL, by their own lossless semi-synchronous replication.
//!
//! | file | what |
//! |---|---|
//! | `place.rs` | where a log ends, as the protocol counts it |
//! | `dialect/` | what MariaDB and MySQL call differently, and what only one of them does |
//! | `settings.rs`, `paths.rs`, `binaries.rs` | the settings file, the folders, the programs |
//! | `session.rs` | the agent's own connections |
//! | `bootstrap.rs`, `adopt.rs`, `private.rs` | the first copy: made, or taken over; runs that nobody else can reach |
//! | `start.rs`, `stop.rs` | starting and stopping |
//! | `seal.rs`, `promote.rs`, `follow.rs`, `copy.rs` | what the rules ask of it |
//! | `errant.rs` | transactions that a standby has written itself |
//! | `sync.rs` | the sync rule, and the commit that proves it |
//! | `gate.rs`, `tunnel.rs`, `feed.rs` | replication through the agents: the primary's side, the way, the standby's |
//! | `inspect.rs` | what can be seen of it |
//! | `examine.rs`, `obstacle.rs` | what a person should know of it; what a switchover would cut off |
//!
//! The databases of two nodes never talk to each other: a standby's receiver connects to its own agent, which leads it to
//! the primary's by the agents' streams. So only members get the log; replication is cut, and seen to be cut, where it
//! comes in; and only a standby of the sync rule is let in as one whose acknowledgement counts, which the database itself
//! can't be told.

mod adopt;
mod binaries;
mod bootstrap;
mod copy;
mod dialect;
mod engine;
mod errant;
mod examine;
mod feed;
mod follow;
mod gate;
mod inspect;
mod obstacle;
mod paths;
mod place;
mod private;
mod promote;
mod seal;
mod session;
mod settings;
mod start;
mod state;
mod stop;
mod sync;
mod tunnel;

pub(crate) use place::{count_of, epoch_of};

pub use dialect::Dialect;
pub use engine::{MysqlConfig, MysqlEngine, server_id};
