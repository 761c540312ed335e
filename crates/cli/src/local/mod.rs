//! Local clusters: three nodes on this machine, as three machines would be.

mod cluster;
mod down;
mod mounts;
mod node;
mod ports;
mod processes;
mod reach;
mod up;

pub(crate) use cluster::{Cluster, token_of};
pub(crate) use down::down;
pub(crate) use node::{kill, kill_node, replace_state, start, start_node};
pub(crate) use up::up;
