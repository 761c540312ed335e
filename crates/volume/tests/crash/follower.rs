//! The copy that takes the log, and the one that has to give some of it back.

use trine_protocol::SyncSetting;
use trine_volume::steps::Steps;
use trine_volume::{Kind, Mark, Op};

use crate::check::open;
use crate::cuts::{Random, everywhere};
use crate::leader::{Do, Leader, empty, script};
use crate::model::{History, epoch, make, write};
use crate::sim::Sim;

/// The log of a leader that has kept all of it.
fn log_of(leader: &Leader, from: u64) -> Vec<u8> {
    let mut log = vec![0; usize::try_from(leader.steps.volume.log_end().lsn - from).unwrap()];
    assert_eq!(leader.steps.volume.read_log(from, &mut log).unwrap(), log.len());
    log
}

fn kept_whole(script: Vec<Do>) -> Vec<Do> {
    script.into_iter().filter(|step| !matches!(step, Do::Tend)).collect()
}

fn apply(steps: &Steps) {
    while steps.apply().unwrap() {}
}

#[test]
fn whatever_a_follower_was_doing_nothing_it_confirmed_is_lost() {
    let mut leader = Leader::new(2);
    leader.run(&kept_whole(script()));
    let log = log_of(&leader, 0);
    let begun = empty();
    let sim = Sim::new(begun.clone());
    let steps = open(&sim);
    let mut history = leader.history.clone();
    history.acked.clear();
    let mut random = Random(99);
    let (mut left, mut buffer, mut round) = (&log[..], Vec::new(), 0);
    let mut point = None;
    while !left.is_empty() {
        round += 1;
        let length = usize::try_from(1 + random.below(700)).unwrap().min(left.len());
        buffer.extend_from_slice(&left[..length]);
        left = &left[length..];
        let done = steps.volume.receive(&buffer).unwrap();
        buffer.drain(..done);
        // What is acknowledged may be more than is here by now.
        steps.volume.told(leader.steps.volume.log_end().lsn);
        match round % 7 {
            0 | 3 => {
                steps.volume.flush().unwrap();
                history.acked(sim.count(), steps.volume.reached().durable);
            }
            1 | 5 => apply(&steps),
            2 => point = Some(steps.point().unwrap()),
            4 => {
                if let Some(point) = point.take() {
                    steps.keep(&point).unwrap();
                }
            }
            _ => steps.tend().unwrap(),
        }
    }
    assert!(buffer.is_empty());
    assert_eq!(steps.volume.log_end(), leader.steps.volume.log_end());
    let seen = everywhere("follower", begun.disk(), &sim.calls(), 0, &history);
    assert!(seen.states > 2_000, "{seen:?}");
}

/// A primary that went on alone: what it had acknowledged, what not, and its disk.
fn parted() -> (Leader, Mark, Vec<(Op<'static>, Mark)>, Vec<u8>) {
    let mut old = Leader::new(2);
    let op = Do::Op;
    old.run(&[
        op(make(2, "a", Kind::File)),
        op(write(2, 0, 1, 500)),
        Do::Sync,
        Do::Apply,
        Do::Point,
        Do::Keep,
        op(write(2, 100, 2, 200)),
        Do::Sync,
        Do::Apply,
    ]);
    let to = old.steps.volume.log_end();
    let shared = log_of(&old, 0);
    old.steps.volume.set_sync(&SyncSetting::Wait);
    let tail = [
        write(2, 0, 66, 30),
        make(3, "not", Kind::File),
        write(3, 0, 67, 600),
        write(2, 20, 68, 300),
        write(3, 500, 69, 700),
        Op::Barrier,
        write(2, 0, 70, 40),
    ];
    let mut lost = Vec::new();
    for one in tail {
        old.change(&one).unwrap();
        lost.push((one, old.steps.volume.log_end()));
    }
    old.steps.volume.flush().unwrap();
    (old, to, lost, shared)
}

/// Its disk as it is, opened anew by another process.
fn reopened(old: &Leader) -> (Sim, Steps, usize) {
    let steps = open(&old.sim);
    steps.tend().unwrap();
    (old.sim.clone(), steps, old.sim.count())
}

/// The log of the primary after it, whose entries end where those began that are taken back, when they can.
fn successor(shared: &[u8], lost: &[(Op<'static>, Mark)], history: &mut History) -> Vec<u8> {
    let new = Leader::begin();
    assert_eq!(new.steps.volume.receive(shared).unwrap(), shared.len());
    let from = new.steps.volume.log_end();
    new.steps.volume.lead(trine_protocol::Epoch(3)).unwrap();
    new.steps.volume.set_sync(&SyncSetting::Alone);
    history.wrote(&epoch(3), new.steps.volume.log_end());
    let mut change = |op: &Op<'static>| {
        use trine_volume::Store;
        new.steps.volume.change(|_| Ok((op.clone(), ()))).unwrap();
        let end = new.steps.volume.log_end();
        history.wrote(op, end);
        end.lsn
    };
    let before = change(&write(2, 0, 7, 130));
    let over = change(&write(2, 0, 7, 130)) - before - 130;
    let mut end = before + over + 130;
    let mut met = 0;
    for (_, mark) in lost {
        if let Some(length) = mark.lsn.checked_sub(end + over).filter(|length| (128..10_000).contains(length)) {
            end = change(&write(2, 0, 8, usize::try_from(length).unwrap()));
            assert_eq!(end, mark.lsn);
            met += 1;
        }
    }
    assert!(met >= 2, "it ends where another began only {met} times");
    log_of(&new, from.lsn)
}

#[test]
fn what_was_taken_back_never_comes_back_under_another_log() {
    let (old, to, lost, shared) = parted();
    let (sim, steps, first) = reopened(&old);
    let mut history = old.history.clone();
    steps.volume.truncate(to.lsn).unwrap();
    history.took_back(to, sim.count());
    let log = successor(&shared, &lost, &mut history);
    for piece in log.chunks(900).scan(Vec::new(), |buffer: &mut Vec<u8>, piece| {
        buffer.extend_from_slice(piece);
        Some(buffer.clone())
    }) {
        // What came already is not what follows.
        let have = usize::try_from(steps.volume.log_end().lsn - to.lsn).unwrap();
        steps.volume.receive(&piece[have..]).unwrap();
        steps.volume.flush().unwrap();
        history.acked(sim.count(), steps.volume.reached().durable);
        steps.volume.told(u64::MAX);
        apply(&steps);
        steps.tend().unwrap();
    }
    assert_eq!(steps.volume.log_end(), history.end);
    let seen = everywhere("taken back", empty().disk(), &sim.calls(), first, &history);
    assert!(seen.states > 300, "{seen:?}");
}

#[test]
fn what_was_taken_back_never_comes_back_after_what_came_before_it() {
    let (old, to, lost, _) = parted();
    let all = log_of(&old, to.lsn);
    for again in [1, 2, lost.len() - 1] {
        let (old, to, lost, _) = parted();
        let (sim, steps, first) = reopened(&old);
        let mut history = old.history.clone();
        steps.volume.truncate(to.lsn).unwrap();
        history.took_back(to, sim.count());
        // Some of it was acknowledged after all, and comes from another primary that had only that.
        for (op, mark) in &lost[..again] {
            history.wrote(op, *mark);
        }
        let upto = usize::try_from(history.end.lsn - to.lsn).unwrap();
        steps.volume.receive(&all[..upto]).unwrap();
        steps.volume.flush().unwrap();
        history.acked(sim.count(), history.end.lsn);
        everywhere("the same again", empty().disk(), &sim.calls(), first, &history);
    }
}
