//! All that a loss of power can leave.

use std::collections::HashSet;

use crate::check::recovers;
use crate::model::History;
use crate::sim::{Call, Disk, Image};

/// Up to so many pieces every mixture is looked at.
const ALL: usize = 9;

/// Beyond that, so many by chance.
const SOME: usize = 50;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
}

/// The mixtures of what a disk has not confirmed.
pub(crate) fn mixtures(disk: &Disk, all: usize, some: usize, random: &mut Random, mut look: impl FnMut(Image)) {
    let n = disk.unsure();
    if n <= all {
        for mask in 0..1_u32 << n {
            look(disk.after(|piece| mask >> piece & 1 == 1));
        }
        return;
    }
    look(disk.after(|_| true));
    look(disk.after(|_| false));
    for one in 0..n {
        look(disk.after(|piece| piece == one));
        look(disk.after(|piece| piece != one));
        look(disk.after(|piece| piece < one));
    }
    for round in 0..some {
        let of_four = 1 + round as u64 % 3;
        let kept: Vec<bool> = (0..n).map(|_| random.below(4) < of_four).collect();
        look(disk.after(|piece| kept[piece]));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) cuts: usize,
    pub(crate) mixtures: usize,
    pub(crate) states: usize,
    pub(crate) in_recovery: usize,
}

/// Cuts the power after each call, from the call `first` on, and looks at whatever is left.
pub(crate) fn everywhere(name: &str, mut disk: Disk, calls: &[Call], first: usize, history: &History) -> Seen {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut looked = HashSet::new();
    let mut seen = Seen::default();
    for made in 0..=calls.len() {
        if made > 0 {
            disk.call(&calls[made - 1]);
        }
        if made < first {
            continue;
        }
        seen.cuts += 1;
        mixtures(&disk, ALL, SOME, &mut random, |image| {
            seen.mixtures += 1;
            let digest = image.digest();
            if looked.insert((digest, history.least(made), history.epoch_of_truth(made))) {
                seen.states += 1;
                let again = digest % 500 == 0;
                look(name, image, history, made, again, &mut seen);
            }
        });
    }
    println!("{name}: {seen:?}");
    seen
}

fn look(name: &str, image: Image, history: &History, made: usize, again: bool, seen: &mut Seen) {
    let begun = image.clone().disk();
    let call = format!("{name}: after {made} calls of the disk");
    let (_, sim, after) = told(&call, || recovers(image, history, made, 90));
    if !again {
        return;
    }
    // The power may go again while it recovers.
    let (calls, mut disk) = (sim.calls(), begun);
    let mut random = Random(made as u64 + 1);
    for (number, one) in calls.iter().enumerate() {
        disk.call(one);
        mixtures(&disk, 2, 1, &mut random, |image| {
            seen.in_recovery += 1;
            told(&format!("{call}, and {number} of the recovery"), || recovers(image, &after, 0, 91));
        });
    }
}

/// Says where it happened.
fn told<T>(place: &str, run: impl FnOnce() -> T) -> T {
    struct Place<'a>(&'a str);
    impl Drop for Place<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{}", self.0);
            }
        }
    }
    let place = Place(place);
    let done = run();
    std::mem::forget(place);
    done
}
