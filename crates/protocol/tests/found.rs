//! What random histories have found, by name. Each failed before it was mended.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own world: a panic is a failed test")]

#[allow(dead_code, reason = "the histories here do not do all that can be done")]
mod world;

use std::collections::BTreeSet;

use trine_protocol::Durability;
use world::Action::*;
use world::{Clock, History, Mutant, Point, Setup, World};

/// An interim primary's machine is lost after it was told to hand over, and is back at once. Its agent did nothing, because
/// this process had never led; it renewed its lease, so nobody suspected it; and no standby could stream from it, so there
/// was no heir whose patience could end. No primary ever led again.
#[test]
fn an_interim_primary_is_lost_while_it_hands_over() {
    let setup = Setup {
        clocks: (0..5).map(|_| Clock { offset_ms: 0, ppm: 0 }).collect(),
        priorities: vec![0, 100, 100, 0, 100],
        acks: 2,
        durability: Durability::Strict,
        mutant: Mutant::None,
        bounded: true,
    };
    let history = vec![Until(Point::Elected), Rounds(9), CrashPrimary, Tick(0)];
    let mut world = World::new(setup);
    world.run(&History(history)).unwrap();
    world.recovers(&BTreeSet::new()).unwrap();
}
