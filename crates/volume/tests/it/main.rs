//! A volume on three nodes, over streams in memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod node;
mod replication;
mod verify;
