//! The mount, on a volume in memory: does it what a plain directory does?
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;
mod here;
mod life;
mod mapping;
mod names;
mod posix;
mod random;
mod syncs;
