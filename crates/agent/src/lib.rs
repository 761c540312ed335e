//! The node's daemon: wires everything below it; one task for each duty.
//!
//! | file | duty |
//! |---|---|
//! | `keeper/` | brings the database to the node's goal |
//! | `lease.rs` | renews the primary's lease, moves the guard's deadline, fences |
//! | `desk.rs` | the vote: promises on disk, grants in memory |
//! | `reporter.rs` | looks at the database, tells the controller |
//! | `probe.rs` | is the disk alive? |
//! | `bureau.rs` | the controller, while this node leads consensus |
//! | `routes.rs`, `dial.rs` | where the endpoints lead, and the connections there |
//! | `seed.rs`, `generation.rs` | a cluster's beginning, and a new one without the lost majority |
//! | `service.rs` | answers the other nodes |
//! | `control.rs`, `loss.rs`, `drill.rs`, `doctor.rs` | what the API shows and takes |

mod agent;
mod bureau;
mod config;
mod control;
mod desk;
mod dial;
mod digest;
mod doctor;
mod drill;
mod errors;
mod generation;
mod keeper;
mod known;
mod lease;
mod loss;
mod neighbours;
mod node;
mod probe;
mod reach;
mod reporter;
mod routes;
mod seed;
mod service;
mod serving;
mod switchover;
mod verify;

pub use agent::{Machine, database, engine, run, start};
pub use config::{
    CONFIG_FILE, Config, ConfigError, Durability, EndpointConfig, EngineConfig, EngineKind, Grade, Member, Ports,
    SECRETS_FILE, Secrets, SyncConfig, Timing, VolumeConfig,
};
pub use errors::AgentError;
pub use generation::Restart;
