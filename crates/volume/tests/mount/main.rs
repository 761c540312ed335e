//! The mount, on a volume in memory: does it what a plain directory does?

mod common;
mod life;
