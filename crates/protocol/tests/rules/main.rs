//! Single decisions of the controller, of an election and of a node, and what the state accepts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests: a panic is a failed test")]

mod bed;
mod elections;
mod epochs;
mod standbys;
