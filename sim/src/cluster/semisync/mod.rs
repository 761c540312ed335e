//! MariaDB's and MySQL's habits: lossless semi-synchronous replication, as trine's engine for both drives it.
//!
//! | file | what |
//! |---|---|
//! | `state.rs` | what such a database has besides a log |
//! | `place.rs` | how a log's end is numbered, and which epochs it is made of |
//! | `engine.rs`, `follow.rs`, `copy.rs`, `stop.rs` | the database as the agent drives it |
//! | `commits.rs` | a primary's commits: written, flushed, waiting, released; the open barrier and the nudge |
//! | `gate.rs` | whose acknowledgements count, and who is there to give any |
//! | `feed.rs`, `flow.rs` | a standby's receiver as its agent keeps it; the log on its way |
//! | `standby.rs` | received and applied are two things; what a start makes of the end of a lost primary's log |
//! | `look.rs` | what an inspection sees, and which databases it ends |
//!
//! What differs from PostgreSQL: a commit waits after it is in the binary log and before it shows. One acknowledgement of a
//! standby that counts releases it, and everything before; nothing else does. A standby acknowledges what it has *received*. It
//! is sent nothing twice (MySQL's is, by the agents, what is not released). A promotion writes nothing: the epoch's first
//! record is its open barrier. A primary that was lost has committed all of its log when it is started again (MySQL), or has its
//! end set aside (MariaDB). And the log comes through the agents, so that it stops where one of them does.

mod commits;
mod copy;
mod engine;
mod feed;
mod flow;
mod follow;
mod gate;
mod look;
mod place;
mod standby;
mod state;
mod stop;

pub(super) use engine::SemiSyncEngine;
pub(super) use place::epoch_of_log;
pub(super) use state::SemiSync;
