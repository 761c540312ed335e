//! The command line of trine.
fn main() {}
