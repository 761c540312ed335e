//! What is known of a volume while it is open: how far everything is, and who waits for what.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use trine_protocol::{Epoch, Moment, NodeName, SyncSetting};

use crate::unapplied::Unapplied;
use crate::verify::{Comparisons, Found};
use crate::{Lineage, Room, Tree};

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

/// Log that nobody waits for is made durable once there is so much of it.
const FLUSH_AT: u64 = 4 << 20;

/// What is acknowledged is applied at once if there is so much of it, else a little later: together with what comes.
const APPLY_AT: u64 = 1 << 20;

/// A node that takes the log is slow once it has lacked for so long what others have acknowledged. It is not waited for then,
/// so this decides nothing but who may be asked in an election; a stream that was cut is noticed about as soon.
const SLOW: Duration = Duration::from_secs(2);

/// It is slow no longer once what it lacks takes it no longer than this: it is not to come and go.
const QUICK: Duration = Duration::from_secs(1);

/// A node that takes the log, as the one that writes it knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    /// How far it is.
    pub acked: Acked,
    /// It lacks something that others have acknowledged: what was acknowledged then, and since when it lacks that.
    late: Option<(u64, Moment)>,
    slow: bool,
}

impl Follower {
    /// Slow until it has all that is acknowledged by now.
    fn new(acked: Acked, commit: u64, grade: Grade) -> Self {
        Self { acked, late: None, slow: acked.counts(grade) < commit }
    }

    /// With `commit` acknowledged. One that keeps up is late again and again, and for a moment only.
    fn look(&mut self, commit: u64, grade: Grade, now: Moment) {
        let has = self.acked.counts(grade);
        let took = match self.late {
            Some((upto, _)) if has < upto => return,
            Some((_, since)) => now.since(since),
            None => Duration::ZERO,
        };
        if has >= commit {
            // All that there is: it may be the last that is heard of it for long.
            (self.slow, self.late) = (false, None);
            return;
        }
        let keeps_up = self.late.is_some() && took < QUICK;
        self.slow = took >= SLOW || self.slow && !keeps_up;
        self.late = Some((commit, now));
    }

    /// It is behind, and has been for a while.
    #[must_use]
    pub fn is_slow(&self, now: Moment) -> bool {
        self.slow || self.late.is_some_and(|(_, since)| now.since(since) >= SLOW)
    }
}

impl Acked {
    /// What of it counts.
    fn counts(&self, grade: Grade) -> u64 {
        match grade {
            Grade::Disk => self.durable,
            Grade::Memory => self.received,
        }
    }
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
    pub(crate) unapplied: Unapplied,
    /// Who takes the log.
    pub(crate) followers: BTreeMap<NodeName, Follower>,
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
    /// Somebody waits until all up to here is applied.
    pub(crate) eager: u64,
    /// The log has begun another file.
    pub(crate) turned: bool,
    /// The thread that applies waits for anything that it could do.
    pub(crate) rests: bool,
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
    /// Somebody waits until the log is durable, or there is much of it.
    pub(crate) fn is_flush_due(&self) -> bool {
        let p = self.progress;
        p.wanted.min(p.end) > p.durable || p.end >= p.durable + FLUSH_AT
    }

    /// The log may be applied up to here.
    pub(crate) fn appliable(&self) -> u64 {
        self.progress.commit.min(self.progress.durable)
    }

    pub(crate) fn is_apply_possible(&self) -> bool {
        self.appliable() > self.progress.applied
    }

    /// There is something to apply that somebody waits for, or much of it.
    pub(crate) fn is_apply_due(&self) -> bool {
        let applied = self.progress.applied;
        self.is_apply_possible() && (applied < self.eager || self.appliable() >= applied + APPLY_AT)
    }

    /// A node takes the log, or says how far it is.
    pub(crate) fn hear(&mut self, node: &NodeName, acked: Acked) {
        let (commit, grade) = (self.progress.commit, self.grade);
        let Some(leading) = self.leading.as_mut() else { return };
        match leading.followers.get_mut(node) {
            Some(follower) => follower.acked = acked,
            None => drop(leading.followers.insert(node.clone(), Follower::new(acked, commit, grade))),
        }
    }

    /// Looks again how far the log is acknowledged, and takes out who has waited for it.
    pub(crate) fn settle(&mut self, now: Moment) -> Vec<Done> {
        let commit = self.acknowledged();
        if let Some(commit) = commit {
            self.progress.commit = commit;
        }
        for follower in self.leading.iter_mut().flat_map(|l| l.followers.values_mut()) {
            follower.look(self.progress.commit, self.grade, now);
        }
        let Some(commit) = commit else { return Vec::new() };
        let later = self.waiters.split_off(&(commit + 1, 0));
        std::mem::replace(&mut self.waiters, later).into_values().collect()
    }

    /// How far the log is acknowledged, if that is further than before.
    fn acknowledged(&self) -> Option<u64> {
        let leading = self.leading.as_ref()?;
        let others = match &self.setting {
            SyncSetting::Wait => 0,
            SyncSetting::Alone => u64::MAX,
            SyncSetting::Any { acks, standbys } => {
                let has = |follower: &Follower| follower.acked.counts(self.grade);
                let mut far: Vec<u64> = standbys.iter().filter_map(|s| leading.followers.get(s).map(has)).collect();
                far.sort_unstable_by(|a, b| b.cmp(a));
                acks.checked_sub(1).and_then(|nth| far.get(nth)).copied().unwrap_or(0)
            }
        };
        let commit = others.min(self.progress.durable);
        (commit >= leading.begun && commit > self.progress.commit).then_some(commit)
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
        let followers = self.leading.iter().flat_map(|l| l.followers.values().map(|f| f.acked.room));
        followers
            .filter(|r| r.total > 0)
            .fold(self.room, |least, room| Room { total: least.total.min(room.total), free: least.free.min(room.free) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(durable: u64) -> Follower {
        Follower::new(Acked { received: durable + 5, durable, room: Room::default() }, 0, Grade::Disk)
    }

    fn state(setting: SyncSetting, grade: Grade, acked: &[(&str, u64)]) -> State {
        let follower = |&(name, durable): &(&str, u64)| (name.parse().unwrap(), follower(durable));
        let leading = Leading {
            epoch: Epoch(2),
            begun: 10,
            tree: Tree::default(),
            unapplied: Unapplied::default(),
            followers: acked.iter().map(follower).collect(),
            comparisons: Comparisons::default(),
        };
        State {
            progress: Progress { durable: 100, ..Progress::default() },
            lineage: Lineage::new(Epoch(1)),
            leading: Some(leading),
            setting,
            grade,
            waiters: BTreeMap::new(),
            number: 0,
            told: 0,
            eager: 0,
            turned: false,
            rests: false,
            room: Room::default(),
            pins: BTreeMap::new(),
            found: Vec::new(),
            why: None,
            broken: false,
            failed: false,
        }
    }

    fn commit(setting: SyncSetting, grade: Grade, acked: &[(&str, u64)]) -> u64 {
        let mut state = state(setting, grade, acked);
        state.settle(Moment::ZERO);
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

    #[test]
    fn one_that_falls_behind_is_slow_until_it_keeps_up_again() {
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        // What is acknowledged grows by 1 a millisecond.
        let run = |from: u64, upto: u64, behind: u64, it: &mut Follower| {
            for ms in from..upto {
                it.acked.durable = it.acked.durable.max(ms.saturating_sub(behind));
                it.look(ms, Grade::Disk, at(ms));
            }
            it.is_slow(at(upto))
        };
        let it = &mut Follower::new(Acked::default(), 0, Grade::Disk);
        assert!(!run(0, 5_000, 300, it), "a little behind, and always as much");
        assert!(!run(5_000, 6_600, 10_000, it) && run(6_600, 7_100, 10_000, it), "it has stopped");
        assert!(run(7_100, 20_000, 3_000, it), "far behind, and not more and more");
        assert!(run(20_000, 26_000, 1_500, it), "it comes nearer");
        assert!(!run(26_000, 30_000, 300, it));
        assert!(!run(30_000, 40_000, 1_500, it), "it does not go for less than it did not come back for");
        assert!(run(40_000, 45_000, 10_000, it), "it has stopped again");
        it.acked.durable = 44_999;
        it.look(44_999, Grade::Disk, at(60_000));
        assert!(!it.is_slow(at(70_000)), "it has all, and nothing more comes");
        let again = &mut Follower::new(Acked::default(), 40_000, Grade::Disk);
        assert!(run(40_000, 40_100, 40_000, again), "one that comes back with little");
        assert!(!run(40_100, 42_000, 0, again));
    }
}
