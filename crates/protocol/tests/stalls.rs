//! Nobody can take the primary's log, and all agents reach each other: another node leads if that helps, and else nothing
//! changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own world: a panic is a failed test")]

#[allow(dead_code, reason = "the histories here do not do all that can be done")]
mod world;

use trine_protocol::Durability;
use world::Action::{self, *};
use world::{Clock, History, Mutant, Point, Setup, World};

/// A healthy cluster that n1 leads.
fn healthy(nodes: usize, acks: usize, priorities: &[u32]) -> World {
    let setup = Setup {
        clocks: (0..nodes).map(|_| Clock { offset_ms: 0, ppm: 0 }).collect(),
        priorities: priorities.to_vec(),
        acks,
        durability: Durability::Strict,
        mutant: Mutant::None,
        bounded: true,
    };
    let mut world = World::new(setup);
    play(&mut world, &[Until(Point::Open), Rounds(20)]);
    world
}

fn play(world: &mut World, history: &[Action]) {
    world.run(&History(history.to_vec())).unwrap();
}

/// Rounds of 50 ms.
fn seconds(seconds: usize) -> Vec<Action> {
    vec![Rounds(20); seconds]
}

/// What n1 writes from now on stays on n1, and nobody is told that it was done.
fn stalled(world: &mut World) {
    play(world, &[UnreachPrimary, Write(0), Write(0), Flush(0)]);
}

#[test]
fn writes_go_on_at_a_node_that_the_others_reach() {
    let mut world = healthy(3, 1, &[100, 100, 50]);
    let epoch = world.state().epoch;
    stalled(&mut world);
    play(&mut world, &seconds(1));
    assert_eq!(world.state().epoch, epoch, "a stream may be back in a moment");
    let before = world.told();
    play(&mut world, &seconds(4));
    let state = world.state();
    assert_eq!((state.is_open(), state.primary().unwrap().as_str()), (true, "n2"), "{}", world.story());
    assert!(world.told() > before);
    // The old primary has lost its end and follows: it reaches the others.
    play(&mut world, &seconds(5));
    assert!(world.state().held().unwrap().rule.standbys.iter().any(|n| n.as_str() == "n1"), "{}", world.story());
    assert_eq!(world.state().epoch, epoch.next());
}

#[test]
fn nothing_changes_where_nobody_would_do_better() {
    let mut world = healthy(3, 1, &[100; 3]);
    let epoch = world.state().epoch;
    // Nobody reaches anybody.
    stalled(&mut world);
    play(&mut world, &[Unreach(1), Unreach(2)]);
    play(&mut world, &seconds(40));
    assert_eq!(world.state().epoch, epoch);
    // The only one that is reached must not lead, or has less.
    let mut world = healthy(3, 1, &[100, 0, 100]);
    let epoch = world.state().epoch;
    stalled(&mut world);
    play(&mut world, &[Unreach(2)]);
    play(&mut world, &seconds(40));
    assert_eq!(world.state().epoch, epoch);
    // One standby is enough for the primary.
    let mut world = healthy(3, 1, &[100; 3]);
    let epoch = world.state().epoch;
    play(&mut world, &[Crash(2, 9)]);
    play(&mut world, &seconds(40));
    assert_eq!(world.state().epoch, epoch);
    // The one that is left has nobody to take its log.
    stalled(&mut world);
    play(&mut world, &seconds(40));
    assert_eq!(world.state().epoch, epoch);
}

/// Between the beginning of the epoch and its election one of the two copies is lost: the old primary's is needed.
#[test]
fn a_primary_that_is_needed_is_counted_again() {
    let mut world = healthy(3, 1, &[100; 3]);
    let epoch = world.state().epoch;
    stalled(&mut world);
    play(&mut world, &seconds(1));
    play(&mut world, &[Until(Point::Vacant), LoseData(1)]);
    assert_eq!(world.state().epoch, epoch.next());
    play(&mut world, &seconds(5));
    let state = world.state();
    assert_eq!((state.epoch, state.primary().unwrap().as_str()), (epoch.next().next(), "n1"), "{}", world.story());
    // And it leads no worse than before.
    play(&mut world, &[Mend]);
    play(&mut world, &seconds(5));
    assert!(world.state().is_open(), "{}", world.story());
}

#[test]
fn it_does_not_go_from_node_to_node() {
    let mut world = healthy(3, 1, &[100; 3]);
    stalled(&mut world);
    play(&mut world, &seconds(8));
    let epoch = world.state().epoch;
    play(&mut world, &[Mend, UnreachPrimary]);
    play(&mut world, &seconds(20));
    assert_eq!(world.state().epoch, epoch);
    play(&mut world, &seconds(20));
    assert_eq!(world.state().epoch, epoch.next());
    assert!(world.state().is_open());
}

#[test]
fn two_of_four_standbys_must_do_without_the_primary() {
    let mut world = healthy(5, 2, &[100; 5]);
    stalled(&mut world);
    play(&mut world, &seconds(6));
    assert!(world.state().is_open());
    assert_ne!(world.state().primary().unwrap().as_str(), "n1");
}

/// The copies that could lead without the primary must prove all that was acknowledged.
#[test]
fn the_rest_must_be_safe() {
    let mut world = healthy(3, 1, &[100; 3]);
    let epoch = world.state().epoch;
    // Only n3 acknowledges; then it is lost.
    play(
        &mut world,
        &[ChooseStandby(2), DeliverAll, Spin(3), Write(0), Flush(0), Replicate(2, 9), Flush(2), DeliverAll],
    );
    play(&mut world, &[LoseData(2), KillAgent(2)]);
    stalled(&mut world);
    play(&mut world, &seconds(20));
    assert_eq!((world.state().epoch, world.state().primary().unwrap().as_str()), (epoch, "n1"));
}
