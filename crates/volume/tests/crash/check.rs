//! What has to hold for whatever a crash has left.

use std::sync::Arc;
use std::time::Duration;

use trine_protocol::{Epoch, SyncSetting};
use trine_volume::steps::Steps;
use trine_volume::{Folder, Grade, Ino, Mark, Medium, Settings, Sizes, Store};

use crate::model::{History, Model, epoch};
use crate::sim::{Image, Sim};

/// Small enough that a short script goes over every border.
pub(crate) const SIZES: Sizes =
    Sizes { segment: 1024, mark_every: 300, checkpoint_every: 1, step: 1, read: 200, later: Duration::ZERO };
pub(crate) const SETTINGS: Settings = Settings { grade: Grade::Disk, retain: 4096 };

pub(crate) fn open(sim: &Sim) -> Steps {
    Steps::open(Arc::new(sim.clone()), SETTINGS, SIZES).unwrap()
}

/// Leads, and applies all.
pub(crate) fn lead(steps: &Steps, number: u64) {
    steps.volume.lead(Epoch(number)).unwrap();
    steps.volume.set_sync(&SyncSetting::Alone);
    while steps.apply().unwrap() {}
    let progress = *steps.volume.progress().borrow();
    assert_eq!(progress.applied, progress.end, "not all is applied");
}

/// Tree, content and objects are what the model says.
pub(crate) fn same(steps: &Steps, sim: &Sim, model: &Model) {
    steps.volume.look(|tree| assert_eq!(tree, &model.tree));
    for (ino, content) in &model.content {
        let found = steps.volume.read(*ino, 0, usize::MAX).unwrap();
        assert!(found == *content, "the content of {ino:?} is another: {}", differ(&found, content));
    }
    for number in sim.list(Folder::Objects).unwrap() {
        let size = model.tree.size(Ino(number));
        let length = sim.length(trine_volume::Part::Object(Ino(number))).unwrap();
        assert!(size.is_some(), "{number} is a stray");
        assert!(length <= size, "{number} has {length:?} bytes of {size:?}");
    }
}

/// The tree that is led on, whatever was refused.
pub(crate) fn same_after_all(leader: &crate::leader::Leader) {
    leader.steps.volume.look(|tree| assert_eq!(tree, &leader.history.now.tree));
    assert_eq!(leader.steps.volume.log_end(), leader.history.end);
}

fn differ(found: &[u8], expected: &[u8]) -> String {
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    format!("{} bytes of {}, first at {at:?}", found.len(), expected.len())
}

/// Opens what is left, twice, and leads on it; says where the log ended and what its disk was asked to do.
pub(crate) fn recovers(image: Image, history: &History, calls: usize, number: u64) -> (Mark, Sim, History) {
    let sim = Sim::new(image);
    let steps = open(&sim);
    let end = steps.volume.log_end();
    let least = history.least(calls);
    assert!(end.lsn >= least, "{} of the log is there, {least} was acknowledged", end.lsn);
    let model = history.at(end, calls).unwrap_or_else(|| panic!("no log ends like {end:?}"));
    // What is said to be kept is there.
    let first = steps.volume.first();
    for mark in history.between(first, end.lsn, calls).into_iter().filter(|_| history.one_log()).step_by(5) {
        let found = steps.volume.check_at(mark.lsn).unwrap_or_else(|e| panic!("the log is kept from {first} on: {e}"));
        assert_eq!(found, Some(mark.check), "the log is kept from {first} on");
    }
    let lineage = steps.volume.lineage();
    drop(steps);
    let steps = open(&sim);
    assert_eq!(steps.volume.log_end(), end, "the second opening differs");
    assert_eq!(steps.volume.lineage(), lineage);
    lead(&steps, number);
    let mut history = history.clone_at(end, model);
    history.wrote(&epoch(number), steps.volume.log_end());
    same(&steps, &sim, &history.now);
    // What was made of it lasts: a checkpoint, and what is opened from that.
    steps.tend().unwrap();
    let point = steps.point().unwrap();
    steps.keep(&point).unwrap();
    let again = open(&sim);
    assert_eq!(again.volume.log_end(), steps.volume.log_end());
    let progress = *again.volume.progress().borrow();
    assert_eq!(progress.applied, progress.end);
    (end, sim, history)
}
