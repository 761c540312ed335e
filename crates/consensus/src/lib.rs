//! Consensus on the voters: one small replicated state, kept by openraft on top of redb, behind a small trait.
//!
//! The log is on disk (fsync) before anything is answered. The state itself is small: every voter has it in memory, a
//! snapshot of it is on disk, and what came after the snapshot is replayed at a start.
//!
//! A voter is known to the others by a random number that lies beside its log, never by its node's name: one that lost its
//! disk comes back as another voter, and cannot forget a vote that it gave.

mod backend;
mod config;
mod consensus;
mod errors;
mod gate;
mod keeper;
mod log;
mod machine;
mod members;
mod messages;
mod network;
mod observer;
mod raft;
mod runtime;
mod store;
mod types;

pub use config::{ConsensusConfig, Founding};
pub use consensus::Consensus;
pub use errors::{ConsensusError, StoreError};
pub use raft::RaftConsensus;
pub use types::{ConsensusStatus, Standing};

/// The files of a [`Disk`](trine_platform::Disk) that hold a voter's memory. Without both of them it comes back as a new voter.
pub const FILES: [&str; 2] = [store::FILE, store::MARK];
