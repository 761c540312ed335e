//! The copy that writes the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trine_protocol::{Epoch, SyncSetting};
use trine_volume::steps::{Point, Steps};
use trine_volume::{Growth, Kind, Op, Store, Tree, Volume};

use crate::check::{SETTINGS, open};
use crate::cuts::everywhere;
use crate::model::{AT, History, IDENTITY, clear, epoch, link, make, rename, reserve, resize, unlink, write};
use crate::sim::{Fault, Image, Sim};

/// What happens to a copy.
#[derive(Clone, Debug)]
pub(crate) enum Do {
    Op(Op<'static>),
    Barrier,
    /// All up to now is acknowledged.
    Sync,
    /// All that is acknowledged is applied, but for so many steps.
    Apply,
    One,
    Point,
    Keep,
    Tend,
}

pub(crate) struct Leader {
    pub(crate) sim: Sim,
    pub(crate) steps: Steps,
    pub(crate) history: History,
    point: Option<Point>,
}

/// A disk with an empty volume.
pub(crate) fn empty() -> Image {
    let sim = Sim::default();
    Volume::create(&sim, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap();
    sim.disk().after(|_| false)
}

impl Leader {
    pub(crate) fn new(number: u64) -> Self {
        let mut this = Self::begin();
        this.lead(number).unwrap();
        this
    }

    pub(crate) fn begin() -> Self {
        let sim = Sim::new(empty());
        let steps = open(&sim);
        Self { sim, steps, history: History::new(), point: None }
    }

    pub(crate) fn lead(&mut self, number: u64) -> Result<(), trine_volume::VolumeError> {
        let led = self.steps.volume.lead(Epoch(number));
        // Written it may be even so.
        let end = self.steps.volume.log_end();
        if end != self.history.end {
            self.history.wrote(&epoch(number), end);
        }
        led?;
        self.history.acked(self.sim.count(), end.lsn);
        self.steps.volume.set_sync(&SyncSetting::Alone);
        Ok(())
    }

    /// False: the volume says no.
    pub(crate) fn change(&mut self, op: &Op<'static>) -> Result<(), rustix::io::Errno> {
        self.steps.volume.change(|_| Ok((op.clone(), ())))?;
        self.history.wrote(op, self.steps.volume.log_end());
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> bool {
        let told = Arc::new(AtomicBool::new(false));
        let tell = told.clone();
        let end = self.steps.volume.log_end().lsn;
        self.steps.volume.sync(Box::new(move |done| tell.store(done.is_ok(), Ordering::Relaxed)));
        let _ = self.steps.volume.flush();
        let acked = told.load(Ordering::Relaxed);
        if acked {
            self.history.acked(self.sim.count(), end);
        }
        acked
    }

    /// Goes on as far as the volume lets it; says how often it was told that there is no room.
    pub(crate) fn run(&mut self, script: &[Do]) -> usize {
        let mut full = 0;
        for step in script {
            if self.steps.volume.closed().is_some() {
                break;
            }
            // No thread would make room in the log.
            let progress = *self.steps.volume.progress().borrow();
            if self.history.end.lsn > progress.applied + SETTINGS.retain / 2 {
                self.sync();
                while self.steps.apply().unwrap_or(false) {}
                continue;
            }
            let _ = match step {
                Do::Op(op) => {
                    match self.change(op) {
                        Err(rustix::io::Errno::NOSPC) => full += 1,
                        Err(rustix::io::Errno::IO) | Ok(()) => {}
                        // What was to be there was refused before.
                        Err(_) if full > 0 => {}
                        Err(error) => panic!("{op:?}: {error}"),
                    }
                    Ok(())
                }
                Do::Barrier => self.steps.volume.barrier(Box::new(|_| ())).map(|()| {
                    let end = self.steps.volume.log_end();
                    self.history.wrote(&Op::Barrier, end);
                }),
                Do::Sync => {
                    self.sync();
                    Ok(())
                }
                Do::One => self.steps.apply().map(drop),
                Do::Apply => loop {
                    match self.steps.apply() {
                        Ok(true) => {}
                        done => break done.map(drop),
                    }
                },
                Do::Point => self.steps.point().map(|point| self.point = Some(point)),
                Do::Keep => match self.point.take() {
                    Some(point) => self.steps.keep(&point),
                    None => Ok(()),
                },
                Do::Tend => self.steps.tend(),
            };
        }
        full
    }
}

/// All kinds of operations, and all that the threads do, in an order in which each can harm the others.
pub(crate) fn script() -> Vec<Do> {
    let op = Do::Op;
    let mut script = vec![
        op(make(2, "a", Kind::File)),
        op(write(2, 0, 1, 700)),
        Do::Sync,
        op(make(3, "dir", Kind::Directory)),
        op(make(4, "b", Kind::File)),
        op(write(4, 300, 2, 400)),
        Do::Apply,
        Do::Tend,
        Do::Sync,
        op(resize(2, 100)),
        op(write(2, 500, 3, 60)),
        Do::Barrier,
        Do::Sync,
        Do::Apply,
        // What is done between the two halves of a checkpoint is in the files, and not in the checkpoint.
        Do::Point,
        op(clear(4, 350, 100, Growth::Keeps)),
        op(link(4, "c")),
        op(write(4, 0, 4, 600)),
        op(resize(2, 40)),
        op(make(5, "d", Kind::File)),
        op(write(5, 0, 5, 200)),
        op(rename("d", "a")),
        Do::Sync,
        Do::Apply,
        Do::Keep,
        Do::Tend,
        op(make(6, "e", Kind::File)),
        op(reserve(6, 0, 900)),
        op(write(6, 100, 6, 30)),
        op(unlink("e", true)),
        Do::Sync,
        op(clear(6, 0, 1000, Growth::Grows)),
        op(Op::Forget { ino: trine_volume::Ino(6) }),
        op(unlink("b", false)),
        op(unlink("c", false)),
        Do::Sync,
        Do::One,
        Do::One,
        Do::Point,
        Do::Keep,
        Do::Apply,
        Do::Tend,
    ];
    // Far enough from a checkpoint that only that keeps files of the log; then they are used again.
    for round in 0..12_u8 {
        script.push(op(write(5, u64::from(round) * 150, 10 + round, 400)));
        script.push(op(write(5, 100, 30 + round, 300)));
        if round % 2 == 0 {
            script.push(Do::Sync);
            script.push(Do::Apply);
            script.push(Do::Tend);
        }
        if round == 8 {
            script.extend([
                Do::Sync,
                Do::Apply,
                Do::Point,
                op(resize(5, 120)),
                Do::Sync,
                Do::Apply,
                Do::Keep,
                Do::Tend,
            ]);
        }
    }
    script.extend([Do::Sync, Do::Apply, Do::Point, Do::Keep, Do::Tend, op(write(5, 0, 99, 10))]);
    script
}

#[test]
fn whatever_a_leader_was_doing_nothing_acknowledged_is_lost() {
    let begun = empty().disk();
    let mut leader = Leader::new(2);
    assert_eq!(leader.run(&script()), 0);
    assert_eq!(leader.steps.volume.closed(), None);
    let first = leader.steps.volume.first();
    assert!(first > 4096, "no file of the log was used again: {first}");
    let seen = everywhere("leader", begun, &leader.sim.calls(), 0, &leader.history);
    assert!(seen.states > 5_000, "{seen:?}");
}

#[test]
fn a_volume_that_is_being_made_is_there_or_not() {
    let sim = Sim::default();
    Volume::create(&sim, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap();
    let calls = sim.calls();
    let mut disk = crate::sim::Disk::default();
    let mut random = crate::cuts::Random(7);
    for (number, call) in calls.iter().enumerate() {
        disk.call(call);
        crate::cuts::mixtures(&disk, 12, 0, &mut random, |image| {
            let left = Sim::new(image.clone());
            let found = Volume::identity_in(&left).unwrap();
            assert!(found.is_some() || number + 1 < calls.len(), "it was made, and is not there");
            match found {
                Some(identity) => assert_eq!(identity, IDENTITY),
                None => Volume::create(&left, IDENTITY, Epoch(1), Tree::new(0, 0, AT)).unwrap(),
            }
            crate::check::recovers(left.shown(), &History::new(), 0, 2);
        });
    }
}

/// The sound states after a fault: nothing that was acknowledged is lost, and the log goes on after it, or not at all.
fn with(fault: Fault, script: &[Do]) -> (Leader, usize) {
    let mut leader = Leader::begin();
    leader.sim.fail(Some(fault));
    let mut full = 0;
    if leader.lead(2).is_ok() {
        full = leader.run(script);
    }
    leader.sim.fail(None);
    (leader, full)
}

#[test]
fn a_full_disk_leaves_a_sound_log() {
    let writes = {
        let mut leader = Leader::new(2);
        leader.run(&script());
        leader.sim.counts().0
    };
    let (mut told, mut states) = (0, 0);
    for number in Leader::begin().sim.counts().0..writes {
        for fault in [Fault::Full(number), Fault::FullFrom(number)].into_iter().take(1 + usize::from(number % 3 == 0)) {
            let (mut leader, full) = with(fault, &script());
            assert!(leader.sim.faulted() || matches!(fault, Fault::FullFrom(_)), "{fault:?}");
            told += full;
            // There is room again: what is open goes on.
            if leader.steps.volume.closed().is_none() && leader.steps.volume.leading().is_some() {
                crate::check::same_after_all(&leader);
                assert!(leader.sync(), "{fault:?}");
            }
            let mut random = crate::cuts::Random(number as u64 + 1);
            crate::cuts::mixtures(&leader.sim.disk(), 2, 4, &mut random, |image| {
                states += 1;
                crate::check::recovers(image, &leader.history, usize::MAX - 1, 90);
            });
        }
    }
    println!("a full disk: {writes} writes, {told} times told so, {states} states");
    assert!(told > 5, "nobody was told: {told}");
}

#[test]
fn a_sync_that_fails_ends_it_for_good() {
    let syncs = {
        let mut leader = Leader::new(2);
        leader.run(&script());
        leader.sim.counts().1
    };
    let mut states = 0;
    for number in Leader::begin().sim.counts().1..syncs {
        let (mut leader, _) = with(Fault::Sync(number), &script());
        let closed = leader.steps.volume.closed().is_some();
        assert_eq!(closed, leader.sim.faulted(), "sync {number}");
        if closed {
            assert!(leader.steps.volume.flush().is_err(), "sync {number}: the second try says that all is well");
            assert!(!leader.sync());
        }
        let mut random = crate::cuts::Random(number as u64 + 1);
        crate::cuts::mixtures(&leader.sim.disk(), 5, 20, &mut random, |image| {
            states += 1;
            crate::check::recovers(image, &leader.history, usize::MAX - 1, 90);
        });
    }
    println!("a sync that fails: {syncs} syncs, {states} states");
}
