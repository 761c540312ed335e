//! What a volume is after its power was cut: at every point, with every mixture of what the disk had not yet confirmed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bent;
mod check;
mod copying;
mod cuts;
mod follower;
mod leader;
mod model;
mod named;
mod random;
mod sim;
