//! Measurements of a client's view: pauses, commits, steps.
fn main() {}
