//! Tests on real processes: clusters, networks, faults, a writer that logs what was acknowledged.
//!
//! A [`Scenario`] is one cluster in network namespaces of its own, clients that write to it, faults, and at the end the
//! same checks every time: nothing acknowledged is lost, no epoch had two writers, the copies are identical, and the
//! cluster became healthy again with no command given. Everything goes through what a user has too: the command line,
//! the endpoints, the files of a node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a harness: what can't be is a failed test, and a panic is how a test fails"
)]

pub mod checks;
pub mod cluster;
pub mod disks;
pub mod docker;
pub mod dsn;
pub mod ledger;
pub mod mariadb;
pub mod namespace;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod scenario;
pub mod sql;
pub mod status;
pub mod torture;
pub mod volume;
pub mod wait;
pub mod writer;

pub use cluster::{Cluster, Form, Options};
pub use disks::DiskKind;
pub use ledger::{Ack, Report};
pub use scenario::{Scenario, Writer, scenario};
pub use status::{NodeStatus, Status};
pub use wait::{now_ns, wait_for, wait_until};
pub use writer::WriterOptions;
