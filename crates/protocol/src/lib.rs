//! The rules: epochs, leases, seals, sync rules, elections, and what a node does about them.
//!
//! Pure code: no I/O, no async, no clock, no randomness. Time is passed in as a [`Moment`]. docs/protocol.md gives the
//! safety argument; the tests drive these same functions through any order of messages, crashes and lost packets.

mod command;
mod controller;
mod election;
mod failing;
mod goal;
mod ids;
mod lease;
mod mandate;
mod report;
mod stall;
mod state;
mod sync;
mod time;
mod voter;

pub use command::{Change, Command, Durability, Event, EventKind, Evidence, Member, Settings, Wish};
pub use controller::{Controller, Heard, NO_PRIMARY};
pub use election::{Verdict, elect, rule_for};
pub use goal::{Condition, Goal, SyncSetting, goal, must_fence, sync_setting};
pub use ids::{BadNodeName, Epoch, NodeName, Position};
pub use lease::Lease;
pub use mandate::{Mandate, Standing, mandate};
pub use report::{Copy, Database, Repair, Report, Seal};
pub use state::{Asked, ClusterState, Held, Outcome, Reign};
pub use sync::SyncRule;
pub use time::Moment;
pub use voter::{Grant, Voter, lease_for_holder, lease_for_voter};
