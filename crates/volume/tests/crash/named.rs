//! Single histories that once went wrong.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use trine_protocol::{Epoch, SyncSetting};
use trine_volume::steps::{self, Steps};
use trine_volume::{Disk, Folder, Ino, Kind, Medium, Part, Settings, Sizes, Store, Tree, Volume, VolumeError};

use crate::bent::Bent;
use crate::check::{SETTINGS, SIZES, open, recovers, same_after_all};
use crate::leader::{Do, Leader, script};
use crate::model::{AT, IDENTITY, make, write};
use crate::sim::{Fault, Sim};

#[test]
fn an_operation_that_no_log_takes_changes_nothing() {
    let mut leader = Leader::new(2);
    leader.change(&make(2, "a", Kind::File)).unwrap();
    assert_eq!(leader.change(&write(2, 0, 1, 5 << 20)), Err(Errno::TOOBIG));
    same_after_all(&leader);
    leader.change(&write(2, 0, 1, 5)).unwrap();
    assert!(leader.sync());
    recovers(leader.sim.shown(), &leader.history, usize::MAX - 1, 9);
}

#[test]
fn a_full_disk_is_told_and_the_volume_stays_open() {
    let mut leader = Leader::new(2);
    leader.change(&make(2, "a", Kind::File)).unwrap();
    leader.sim.fail(Some(Fault::FullFrom(0)));
    while leader.change(&write(2, 0, 1, 100)).is_ok() {}
    assert_eq!(leader.change(&write(2, 0, 2, 1000)), Err(Errno::NOSPC));
    leader.steps.tend().unwrap();
    same_after_all(&leader);
    leader.sim.fail(None);
    leader.change(&write(2, 0, 3, 1000)).unwrap();
    assert!(leader.sync());
    recovers(leader.sim.shown(), &leader.history, usize::MAX - 1, 9);
}

#[test]
fn a_leader_takes_nothing_back() {
    let mut leader = Leader::new(2);
    let begun = leader.steps.volume.log_end();
    leader.steps.volume.set_sync(&SyncSetting::Wait);
    leader.change(&make(2, "a", Kind::File)).unwrap();
    let end = leader.steps.volume.log_end();
    assert!(matches!(leader.steps.volume.truncate(begun.lsn), Err(VolumeError::Strange(_))));
    assert_eq!(leader.steps.volume.log_end(), end, "it was refused after it was done");
    recovers(leader.sim.shown(), &leader.history, usize::MAX - 1, 9);
}

#[test]
fn what_was_applied_before_a_restart_is_not_taken_back() {
    let mut leader = Leader::new(2);
    leader.change(&make(2, "a", Kind::File)).unwrap();
    leader.sync();
    let before = leader.steps.volume.log_end().lsn;
    leader.run(&[Do::Op(write(2, 0, 1, 500)), Do::Sync, Do::Apply]);
    // The process was killed; the checkpoint is far behind.
    let again = open(&leader.sim);
    let refused = again.volume.truncate(before);
    assert!(matches!(refused, Err(VolumeError::Applied { .. })), "{refused:?}");
}

#[test]
fn no_checkpoint_says_more_than_the_disk_has_confirmed() {
    for later in 0..4 {
        let mut leader = Leader::new(2);
        leader.run(&script()[..14]);
        leader.run(&[Do::Sync, Do::Apply, Do::Point]);
        let from = leader.sim.counts().1;
        leader.sim.fail(Some(Fault::Sync(from + later)));
        leader.run(&[Do::Keep]);
        leader.sim.fail(None);
        assert!(leader.steps.volume.closed().is_some());
        leader.steps.volume.finish();
        leader.run(&[Do::Sync]);
        let mut random = crate::cuts::Random(5);
        crate::cuts::mixtures(&leader.sim.disk(), 5, 20, &mut random, |image| {
            recovers(image, &leader.history, usize::MAX - 1, 9);
        });
    }
}

/// A volume with several files of log after its checkpoint, closed.
fn long() -> Leader {
    let mut leader = Leader::new(2);
    leader.run(&script()[..10]);
    leader.run(&[Do::Sync, Do::Apply, Do::Tend]);
    for round in 0..6 {
        leader.run(&[Do::Op(write(4, 0, round, 500)), Do::Sync, Do::Apply]);
    }
    leader
}

fn try_open(sim: &Sim) -> Result<Steps, VolumeError> {
    Steps::open(Arc::new(sim.clone()), SETTINGS, SIZES)
}

#[test]
fn a_damaged_log_is_noticed() {
    let end = long().history.end.lsn;
    assert!(end > 4 * SIZES.segment);
    for lsn in (0..end).step_by(61) {
        let leader = long();
        leader.sim.flip(Part::Segment(lsn / SIZES.segment), usize::try_from(lsn % SIZES.segment).unwrap());
        let opened = try_open(&leader.sim);
        assert!(matches!(opened, Err(VolumeError::Damaged { .. })), "byte {lsn} of {end}: {opened:?}");
    }
    for number in 0..end / SIZES.segment {
        let leader = long();
        leader.sim.remove(Part::Segment(number)).unwrap();
        let opened = try_open(&leader.sim);
        assert!(matches!(opened, Err(VolumeError::Damaged { .. })), "file {number}: {opened:?}");
        let leader = long();
        leader.sim.shorten(Part::Segment(number), 100).unwrap();
        let opened = try_open(&leader.sim);
        assert!(matches!(opened, Err(VolumeError::Damaged { .. })), "file {number}: {opened:?}");
    }
}

#[test]
fn a_damaged_checkpoint_is_noticed() {
    let leader = long();
    let part = Part::Note("checkpoint");
    let length = leader.sim.length(part).unwrap().unwrap();
    for byte in 0..usize::try_from(length).unwrap() {
        leader.sim.flip(part, byte);
        let opened = try_open(&leader.sim);
        assert!(matches!(opened, Err(VolumeError::Damaged { .. })), "byte {byte}: {opened:?}");
        leader.sim.flip(part, byte);
    }
    try_open(&leader.sim).unwrap();
}

#[test]
fn a_volume_that_is_made_anew_begins_with_nothing() {
    let leader = long();
    leader.sim.remove(Part::Note("checkpoint")).unwrap();
    Volume::create(&leader.sim, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap();
    let steps = open(&leader.sim);
    assert_eq!(steps.volume.log_end().lsn, 0, "what an older one has left is taken for its log");
    assert_eq!(leader.sim.list(Folder::Objects).unwrap(), [0_u64; 0]);
}

#[test]
fn writing_over_what_is_there_never_fills_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    Volume::create(&disk, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap();
    let sizes = Sizes { segment: 1 << 20, ..Sizes::default() };
    let volume = steps::running(Arc::new(Bent::tight(disk)), Settings::default(), sizes).unwrap();
    volume.lead(Epoch(2)).unwrap();
    volume.set_sync(&SyncSetting::Alone);
    volume.change(|_| Ok((make(2, "a", Kind::File), ()))).unwrap();
    // More than there is room for, with never a moment of rest: somebody always waits.
    for round in 0..600 {
        volume.change(|_| Ok((write(2, 0, 1, 8192), ()))).unwrap_or_else(|e| panic!("{e} after {round} writes"));
        let (tell, told) = std::sync::mpsc::channel();
        volume.sync(Box::new(move |done| tell.send(done).unwrap()));
        told.recv().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(volume.read(Ino(2), 0, 1).unwrap(), [1]);
    volume.end("done");
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_who_asks_or_closes() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    Volume::create(&disk, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap();
    let disk = Arc::new(Bent::tight(disk));
    let volume = Volume::open(disk.clone(), Settings::default()).unwrap();
    volume.lead(Epoch(2)).unwrap();
    volume.set_sync(&SyncSetting::Alone);
    volume.change(|_| Ok((make(2, "a", Kind::File), ()))).unwrap();
    disk.hang(true);
    let writer = std::thread::spawn({
        let volume = volume.clone();
        move || volume.change(|_| Ok((write(2, 0, 1, 8192), ())))
    });
    disk.wait_hung();
    // Each of these is what an agent asks of a primary, on the threads that keep its lease. None may wait.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn({
        let volume = volume.clone();
        move || {
            assert!(volume.leading().is_some() && volume.closed().is_none());
            let _ = (volume.position(), volume.followers(), volume.is_broken(), *volume.progress().borrow());
            volume.look(|tree| assert!(tree.get(Ino(2)).is_some()));
            volume.close("the node is fenced");
            tell.send(()).unwrap();
        }
    });
    let answered = told.recv_timeout(Duration::from_secs(20));
    disk.hang(false);
    answered.expect("it waits for the disk");
    // What was on its way to the disk gets there; nobody is told that it is kept.
    writer.join().unwrap().unwrap();
    assert_eq!(volume.change(|_| Ok((write(2, 0, 2, 1), ()))), Err(Errno::IO));
    volume.end("done");
}

/// A database that was told that the disk is full may write nothing more: no log moves, and there is room all the same.
#[test]
fn room_that_comes_back_is_noticed_while_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    Volume::create(&disk, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap();
    let disk = Arc::new(Bent::tight(disk));
    disk.set_free(1 << 20);
    let volume = Volume::open(disk.clone(), Settings::default()).unwrap();
    volume.lead(Epoch(2)).unwrap();
    volume.set_sync(&SyncSetting::Alone);
    let mut progress = volume.progress();
    assert_eq!(volume.change(|_| Ok((make(2, "a", Kind::File), ()))), Err(Errno::NOSPC));
    // Once when it was opened, once after the epoch's entry: from here on the log does not move.
    disk.wait_looked(2);
    disk.set_free(1 << 30);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    while volume.room().free == 0 {
        let told = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), progress.changed()).await });
        told.expect("nobody who waits, a standby's link for one, is told").unwrap();
    }
    volume.change(|_| Ok((make(2, "a", Kind::File), ()))).unwrap();
    volume.end("done");
}
