//! A new copy that is interrupted is none, or complete.

use trine_volume::link::{give, take};
use trine_volume::{Kind, Volume};

use crate::check::{lead, open, same};
use crate::cuts::{Random, mixtures};
use crate::leader::{Do, Leader};
use crate::model::{make, resize, unlink, write};
use crate::sim::{Disk, Sim};

fn source() -> Leader {
    let mut leader = Leader::new(2);
    for (ino, name) in [(2, "a"), (3, "b"), (4, "c")] {
        leader.run(&[Do::Op(make(ino, name, Kind::File))]);
        for block in 0..9 {
            let byte = u8::try_from(ino * 20 + block).unwrap();
            leader.run(&[Do::Op(write(ino, block * 1200, byte, 1200)), Do::Sync, Do::Apply]);
        }
    }
    leader.run(&[Do::Point, Do::Keep, Do::Tend]);
    leader
}

/// Copies while the source goes on.
fn copied(leader: &mut Leader, new: &Sim, old: Option<&Sim>) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (here, there) = tokio::io::duplex(1 << 12);
    let volume = leader.steps.volume.clone();
    let mut round = 0;
    let taken = runtime.block_on(async {
        let giving = tokio::spawn(async move { give(&volume, "b", there).await });
        let (taken, stream) = take(new, old.map(|o| o as _), here, |_| {
            round += 1;
            leader.run(&[
                Do::Op(write(3, 500 * round, 200, 900)),
                Do::Op(resize(4, 9000 - 1000 * round)),
                Do::Op(write(4, 10_000, 201, 700)),
                Do::Sync,
                Do::Apply,
                Do::Point,
                Do::Keep,
                Do::Tend,
            ]);
        })
        .await
        .unwrap();
        drop(stream);
        giving.await.unwrap().unwrap();
        taken
    });
    assert_eq!(round, 3);
    leader.run(&[Do::Op(unlink("a", false)), Do::Sync]);
    taken.sent
}

/// It takes what follows, and is the same.
fn completes(leader: &Leader, new: &Sim) {
    let steps = open(new);
    let from = steps.volume.log_end().lsn;
    assert_eq!(leader.steps.volume.check_at(from).unwrap(), Some(steps.volume.log_end().check));
    let mut log = vec![0; usize::try_from(leader.history.end.lsn - from).unwrap()];
    assert_eq!(leader.steps.volume.read_log(from, &mut log).unwrap(), log.len());
    steps.volume.receive(&log).unwrap();
    steps.volume.flush().unwrap();
    assert_eq!(steps.volume.log_end(), leader.history.end);
    let steps = open(new);
    let first = steps.volume.first();
    assert!(first >= from, "it says that it has the log from {first} on, and has it from {from}");
    assert!(steps.volume.check_at(first).unwrap().is_some());
    lead(&steps, 9);
    same(&steps, new, &leader.history.now);
}

#[test]
fn a_copy_that_is_interrupted_is_none_or_complete() {
    let mut states = 0;
    for with_old in [false, true] {
        let mut leader = source();
        let old = Sim::new(leader.sim.shown());
        leader.run(&[Do::Op(write(2, 2000, 99, 300)), Do::Sync, Do::Apply, Do::Point, Do::Keep]);
        let new = Sim::default();
        let sent = copied(&mut leader, &new, with_old.then_some(&old));
        let most = if with_old { 30_000 } else { 40_000 };
        assert!(sent < most, "{sent} bytes were sent");
        let calls = new.calls();
        let mut disk = Disk::default();
        let mut random = Random(3);
        for (number, call) in calls.iter().enumerate() {
            disk.call(call);
            mixtures(&disk, 8, 30, &mut random, |image| {
                states += 1;
                let sim = Sim::new(image);
                match Volume::identity_in(&sim).unwrap() {
                    None => assert!(number + 1 < calls.len(), "it was complete, and is gone"),
                    Some(_) => completes(&leader, &sim),
                }
            });
        }
        completes(&leader, &new);
    }
    println!("a copy: {states} states");
}
