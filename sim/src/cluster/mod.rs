//! Clusters of real agents over a simulated network, disks and databases: a seed gives one run, bit for bit.
//!
//! Real are the agent with its keeper, lease, desk, controller and endpoints, consensus with its log in redb, the transport
//! with TLS, and the API. Simulated are the machines under them: [turmoil](https://docs.rs/turmoil) gives the network and
//! the time, `disk` and `clock` the rest, `database` and `engine` a database with PostgreSQL's bad habits, `semisync` those of MariaDB and
//! MySQL. `entropy` sees to it that nothing is left to chance.

mod cables;
mod campaign;
mod client;
mod clock;
mod database;
mod disk;
mod engine;
mod entropy;
mod fault;
mod handle;
mod lab;
mod look;
mod network;
mod node;
mod operator;
mod product;
mod semisync;
mod session;
mod shrink;
mod simulation;
mod story;
mod stream;
mod trouble;
mod verdict;
mod world;

pub use campaign::{Campaign, Sum};
pub use fault::{Cheat, Fault, Plan, Step, Who};
pub use lab::{Lab, serve_one};
pub use node::Folders;
pub use product::Product;
pub use shrink::shortest;
pub use simulation::Outcome;
