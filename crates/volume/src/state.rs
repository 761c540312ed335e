//! What is known of a volume while it is open: how far everything is, and who waits for what.

use std::collections::{BTreeMap, HashMap};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use trine_protocol::{Epoch, NodeName, SyncSetting};

use crate::verify::{Comparisons, Found};
use crate::{Ino, Lineage, Room, Tree};

/// When a node that takes the log counts for what the database wants to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Once it has it on its disk.
    #[default]
    Disk,
    /// Once it has received it: faster; lost when power fails in both zones at once.
    Memory,
}

/// How far a node that takes the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Acked {
    /// It has received the log up to here.
    pub received: u64,
    /// And has it on its disk up to here.
    pub durable: u64,
    /// Room on its disk.
    pub room: Room,
}

/// Who is told once it is acknowledged.
pub(crate) type Done = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// How far everything is; for those who wait for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The log is written up to here.
    pub end: u64,
    /// Somebody waits until it is acknowledged up to here.
    pub wanted: u64,
    /// It is on this node's disk up to here.
    pub durable: u64,
    /// It is acknowledged up to here: no later primary lacks it.
    pub commit: u64,
    /// It is in the files up to here.
    pub applied: u64,
    /// The volume takes and gives nothing more.
    pub closed: bool,
}

/// What only the copy has that writes the log.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) epoch: Epoch,
    /// The end of the epoch's first entry. What comes before it is acknowledged with it and not by itself: another
    /// primary's acknowledgements are not this one's to complete.
    pub(crate) begun: u64,
    /// As after the log's last operation.
    pub(crate) tree: Tree,
    /// Where in the log a file's content was last changed, of those that may not be applied yet.
    pub(crate) changed: HashMap<Ino, u64>,
    /// Who takes the log.
    pub(crate) followers: BTreeMap<NodeName, Acked>,
    pub(crate) comparisons: Comparisons,
}

pub(crate) struct State {
    pub(crate) progress: Progress,
    pub(crate) lineage: Lineage,
    pub(crate) leading: Option<Leading>,
    pub(crate) setting: SyncSetting,
    pub(crate) grade: Grade,
    /// By what they wait for, and a number.
    pub(crate) waiters: BTreeMap<(u64, u64), Done>,
    pub(crate) number: u64,
    /// The end of the log that was last told.
    pub(crate) told: u64,
    /// Room on this node's disk, less what has been written since it was looked at.
    pub(crate) room: Room,
    /// Log up to here must be kept from the named reader on.
    pub(crate) pins: BTreeMap<u64, u64>,
    /// What was found in regions that the log asks for, by the end of the entry; of a copy that takes the log.
    pub(crate) found: Vec<(u64, Found)>,
    /// Why it was closed.
    pub(crate) why: Option<String>,
    /// Because the copy is damaged, or not what its writer had.
    pub(crate) broken: bool,
    /// It was closed because something went wrong.
    pub(crate) failed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl State {
    /// Looks again how far the log is acknowledged, and takes out who has waited for it.
    pub(crate) fn settle(&mut self) -> Vec<Done> {
        let Some(leading) = &self.leading else { return Vec::new() };
        let others = match &self.setting {
            SyncSetting::Wait => 0,
            SyncSetting::Alone => u64::MAX,
            SyncSetting::Any { acks, standbys } => {
                let has = |acked: &Acked| match self.grade {
                    Grade::Disk => acked.durable,
                    Grade::Memory => acked.received,
                };
                let mut far: Vec<u64> = standbys.iter().filter_map(|s| leading.followers.get(s).map(has)).collect();
                far.sort_unstable_by(|a, b| b.cmp(a));
                acks.checked_sub(1).and_then(|nth| far.get(nth)).copied().unwrap_or(0)
            }
        };
        let commit = others.min(self.progress.durable);
        if commit < leading.begun || commit <= self.progress.commit {
            return Vec::new();
        }
        self.progress.commit = commit;
        let later = self.waiters.split_off(&(commit + 1, 0));
        std::mem::replace(&mut self.waiters, later).into_values().collect()
    }

    /// The volume takes nothing more: who waits learns it.
    pub(crate) fn close(&mut self, why: &str) -> Vec<Done> {
        if !self.progress.closed {
            self.progress.closed = true;
            self.why = Some(why.to_owned());
        }
        if let Some(leading) = &mut self.leading {
            leading.comparisons = Comparisons::default();
        }
        std::mem::take(&mut self.waiters).into_values().collect()
    }

    /// Room for the database: of the smallest disk.
    pub(crate) fn smallest(&self) -> Room {
        let followers = self.leading.iter().flat_map(|l| l.followers.values().map(|a| a.room));
        followers
            .filter(|r| r.total > 0)
            .fold(self.room, |least, room| Room { total: least.total.min(room.total), free: least.free.min(room.free) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(setting: SyncSetting, grade: Grade, acked: &[(&str, u64)]) -> u64 {
        let follower = |&(name, durable): &(&str, u64)| {
            (name.parse().unwrap(), Acked { received: durable + 5, durable, room: Room::default() })
        };
        let leading = Leading {
            epoch: Epoch(2),
            begun: 10,
            tree: Tree::default(),
            changed: HashMap::new(),
            followers: acked.iter().map(follower).collect(),
            comparisons: Comparisons::default(),
        };
        let mut state = State {
            progress: Progress { durable: 100, ..Progress::default() },
            lineage: Lineage::new(Epoch(1)),
            leading: Some(leading),
            setting,
            grade,
            waiters: BTreeMap::new(),
            number: 0,
            told: 0,
            room: Room::default(),
            pins: BTreeMap::new(),
            found: Vec::new(),
            why: None,
            broken: false,
            failed: false,
        };
        state.settle();
        state.progress.commit
    }

    fn any(acks: usize, standbys: &[&str]) -> SyncSetting {
        SyncSetting::Any { acks, standbys: standbys.iter().map(|s| s.parse().unwrap()).collect() }
    }

    #[test]
    fn what_the_rule_says_is_acknowledged() {
        let far = [("b", 40), ("c", 60), ("d", 90)];
        assert_eq!(commit(any(1, &["b", "c"]), Grade::Disk, &far), 60);
        assert_eq!(commit(any(2, &["b", "c"]), Grade::Disk, &far), 40);
        assert_eq!(commit(any(1, &["b", "c"]), Grade::Memory, &far), 65);
        assert_eq!(commit(any(1, &["b", "e"]), Grade::Disk, &far), 40);
        assert_eq!(commit(any(2, &["b", "e"]), Grade::Disk, &far), 0, "one of them takes nothing");
        assert_eq!(commit(SyncSetting::Alone, Grade::Disk, &[]), 100);
        assert_eq!(commit(SyncSetting::Wait, Grade::Disk, &far), 0);
        assert_eq!(commit(any(1, &["b"]), Grade::Disk, &[("b", 500)]), 100, "not beyond this node's disk");
        assert_eq!(commit(any(1, &["b"]), Grade::Disk, &[("b", 9)]), 0, "not without the epoch's own first entry");
    }
}
