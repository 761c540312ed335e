//! Compares what the copies have in their files with each other.
//!
//! A comparison is an entry of the log ([`crate::Op::Verify`]): each copy looks at the same region when it has applied the
//! same operations, so what differs is damage and nothing else. The log itself needs none of it: its entries are chained by
//! their checks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trine_protocol::NodeName;
use xxhash_rust::xxh3::xxh3_64;

use crate::entry::Mark;
use crate::medium::Part;
use crate::op::Region;
use crate::shared::{Shared, content_of};
use crate::{Op, Store as _, Tree, Volume, VolumeError};

/// The most of a file that is looked at in one step, in bytes: nothing is applied meanwhile.
pub const LARGEST_REGION: u64 = 1 << 20;

/// What a copy that nobody asks for its findings keeps of them.
const KEPT: usize = 1024;

/// So many regions that differ are remembered until they are repaired.
const MOST_DIFFERING: usize = 64;

/// What a copy has found in a region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Found {
    /// A hash of it.
    Hash(u64),
    /// Its disk can't read it.
    Unreadable,
    /// Nothing that counts: before it was opened, operations that come later may have been applied already.
    Unsure,
}

/// What all copies have found in a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Findings {
    /// This one.
    pub own: Found,
    /// Those that took the log when it was asked for, and still do.
    pub others: BTreeMap<NodeName, Found>,
}

/// What follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The copies that could say are equal.
    Equal,
    /// These differ from the others, of which there are more.
    Odd {
        /// This one does.
        own: bool,
        /// These do.
        others: BTreeSet<NodeName>,
    },
    /// They differ, and there is no majority that would say which are right.
    Undecided,
}

impl Findings {
    /// What more than half of those have that can read it.
    #[must_use]
    pub fn right(&self) -> Option<u64> {
        let mut by: BTreeMap<u64, usize> = BTreeMap::new();
        for found in self.others.values().chain([&self.own]) {
            if let Found::Hash(hash) = found {
                *by.entry(*hash).or_default() += 1;
            }
        }
        let known: usize = by.values().sum();
        by.iter().find(|(_, count)| **count * 2 > known).map(|(hash, _)| *hash)
    }

    /// Who is right, by majority. What can't be read is wrong, whatever the others have.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let right = self.right();
        let Some(right) = right else {
            let known = |found: &Found| *found != Found::Unsure;
            let any = known(&self.own) || self.others.values().any(known);
            return if any { Verdict::Undecided } else { Verdict::Equal };
        };
        let wrong = |found: &Found| match found {
            Found::Hash(hash) => *hash != right,
            Found::Unreadable => true,
            Found::Unsure => false,
        };
        let others: BTreeSet<NodeName> =
            self.others.iter().filter(|(_, found)| wrong(found)).map(|(node, _)| node.clone()).collect();
        match wrong(&self.own) {
            false if others.is_empty() => Verdict::Equal,
            own => Verdict::Odd { own, others },
        }
    }

    /// How many copies could say something.
    #[must_use]
    pub fn compared(&self) -> usize {
        self.others.values().chain([&self.own]).filter(|found| **found != Found::Unsure).count()
    }
}

/// Who is told what was found, and the end of the entry that asked.
pub(crate) type Told = Box<dyn FnOnce(u64, Findings) + Send>;

/// A comparison that not all have answered yet.
pub(crate) struct Asked {
    watch: Watch,
    own: Option<Found>,
    others: BTreeMap<NodeName, Option<Found>>,
    told: Told,
}

/// A region, and whether it has changed since it was looked at.
#[derive(Clone, Copy, Debug)]
struct Watch {
    region: Region,
    changed: bool,
}

/// The comparisons under way on the copy that writes the log, by the end of their entries.
#[derive(Default)]
pub(crate) struct Comparisons {
    asked: BTreeMap<u64, Asked>,
    /// Those that were answered, and not all alike.
    differing: BTreeMap<u64, Watch>,
}

impl std::fmt::Debug for Comparisons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparisons").field("differing", &self.differing).finish_non_exhaustive()
    }
}

impl Comparisons {
    fn ask(&mut self, lsn: u64, region: Region, others: impl Iterator<Item = NodeName>, told: Told) {
        let watch = Watch { region, changed: false };
        self.asked.insert(lsn, Asked { watch, own: None, others: others.map(|node| (node, None)).collect(), told });
    }

    fn own(&mut self, lsn: u64, found: Found) {
        if let Some(asked) = self.asked.get_mut(&lsn) {
            asked.own = Some(found);
        }
    }

    fn other(&mut self, node: &NodeName, lsn: u64, found: Found) {
        if let Some(answer) = self.asked.get_mut(&lsn).and_then(|asked| asked.others.get_mut(node)) {
            *answer = Some(found);
        }
    }

    /// It takes the log no longer, so it will not answer.
    pub(crate) fn left(&mut self, node: &NodeName) {
        for asked in self.asked.values_mut() {
            asked.others.remove(node);
        }
    }

    /// Something is about to change.
    pub(crate) fn changes(&mut self, op: &Op<'_>) {
        for watch in self.asked.values_mut().map(|asked| &mut asked.watch).chain(self.differing.values_mut()) {
            watch.changed |= watch.region.is_changed_by(op);
        }
    }

    /// Takes out those that all have answered.
    pub(crate) fn answered(&mut self) -> Vec<Answer> {
        let all = |asked: &Asked| asked.own.is_some() && asked.others.values().all(Option::is_some);
        let done: Vec<u64> = self.asked.iter().filter(|(_, asked)| all(asked)).map(|(lsn, _)| *lsn).collect();
        let mut answers = Vec::new();
        for lsn in done {
            let Some(asked) = self.asked.remove(&lsn) else { continue };
            let others = asked.others.into_iter().filter_map(|(node, found)| Some((node, found?))).collect();
            let findings = Findings { own: asked.own.unwrap_or(Found::Unsure), others };
            if findings.verdict() != Verdict::Equal {
                self.differing.insert(lsn, asked.watch);
                if self.differing.len() > MOST_DIFFERING {
                    self.differing.pop_first();
                }
            }
            answers.push((asked.told, lsn, findings));
        }
        answers
    }
}

/// Who is to be told of an answered comparison, and what.
type Answer = (Told, u64, Findings);

pub(crate) fn tell_all(answers: Vec<Answer>) {
    for (told, lsn, findings) in answers {
        told(lsn, findings);
    }
}

impl Region {
    /// Whether what is in it may be something else after the operation.
    fn is_changed_by(self, op: &Op<'_>) -> bool {
        let Self::Content { ino, offset, len } = self else { return true };
        match op {
            Op::Write { ino: other, offset: at, data, .. } => {
                *other == ino && *at < offset.saturating_add(len) && offset < at.saturating_add(data.len() as u64)
            }
            other => content_of(other) == Some(ino),
        }
    }
}

impl Shared {
    /// Looks at a region, as it is after the operation that ends at `at`.
    pub(crate) fn look_at(&self, region: Region, at: Mark, tree: &Tree) -> Found {
        if at.lsn <= self.opened_at {
            return Found::Unsure;
        }
        match region {
            Region::Tree => match postcard::to_stdvec(tree) {
                Ok(bytes) => Found::Hash(xxh3_64(&bytes)),
                Err(_) => Found::Unreadable,
            },
            Region::Content { ino, offset, len } => {
                let there = tree.size(ino).unwrap_or(0).saturating_sub(offset).min(len).min(LARGEST_REGION);
                let mut content = vec![0; usize::try_from(there).unwrap_or(0)];
                let part = Part::Object(ino);
                // What is in memory says nothing about the disk.
                self.medium.forget(part, offset, there);
                match self.medium.read(part, offset, &mut content) {
                    // What was never written is zeros.
                    Ok(_) => Found::Hash(xxh3_64(&content)),
                    Err(error) => {
                        tracing::warn!(%error, place = self.medium.place(), ?ino, offset, "a file's content can't be read");
                        Found::Unreadable
                    }
                }
            }
        }
    }

    /// What was found goes to who asked: here, or over the stream to the copy that writes the log.
    pub(crate) fn found(&self, found: Vec<(u64, Found)>) {
        if found.is_empty() {
            return;
        }
        let mut state = self.state();
        let answered = match state.leading.as_mut() {
            Some(leading) => {
                found.into_iter().for_each(|(lsn, found)| leading.comparisons.own(lsn, found));
                leading.comparisons.answered()
            }
            None => {
                let more = (state.found.len() + found.len()).saturating_sub(KEPT).min(state.found.len());
                state.found.drain(..more);
                state.found.extend(found);
                self.publish(&mut state);
                Vec::new()
            }
        };
        drop(state);
        tell_all(answered);
    }
}

impl Volume {
    /// Has every copy look at a region, through the log, and `told` called with what they found. It is dropped uncalled when
    /// the volume is closed before.
    ///
    /// # Errors
    /// [`VolumeError::Closed`]; the disk's.
    pub fn verify(&self, region: Region, told: Told) -> Result<(), VolumeError> {
        let shared = &self.shared;
        self.append_and(&Op::Verify { region }, |state, mark| {
            if let Some(leading) = state.leading.as_mut() {
                leading.comparisons.ask(mark.lsn, region, leading.followers.keys().cloned(), told);
            }
            // Nothing is applied before it is acknowledged, and nothing acknowledged before somebody waits.
            state.eager = mark.lsn;
            shared.wait_for(state, mark.lsn, Box::new(|_| ()));
        })
    }

    /// A node that takes the log says what it has found.
    pub(crate) fn heard(&self, node: &NodeName, lsn: u64, found: Found) {
        let mut state = self.shared.state();
        let Some(leading) = state.leading.as_mut() else { return };
        leading.comparisons.other(node, lsn, found);
        let answered = leading.comparisons.answered();
        drop(state);
        tell_all(answered);
    }

    /// Writes into every copy what the majority has in a region, if this copy has it: `lsn` is the end of the entry that asked,
    /// `right` the hash that the majority has found. False: it has changed meanwhile, or this copy has it not.
    ///
    /// # Errors
    /// [`VolumeError::Closed`]; the disk's.
    pub fn repair(&self, lsn: u64, right: u64) -> Result<bool, VolumeError> {
        let shared = &self.shared;
        // Nothing changes from here on, so what was looked at is what is there.
        let one = shared.writing();
        let watch = shared.state().leading.as_mut().and_then(|l| l.comparisons.differing.remove(&lsn));
        let Some(Watch { region: Region::Content { ino, offset, len }, changed: false }) = watch else {
            return Ok(false);
        };
        let size = self.look(|tree| tree.size(ino)).unwrap_or(0);
        let there = size.saturating_sub(offset).min(len).min(LARGEST_REGION);
        let mut content = vec![0; usize::try_from(there).unwrap_or(0)];
        if shared.medium.read(Part::Object(ino), offset, &mut content).is_err() || xxh3_64(&content) != right {
            return Ok(false);
        }
        let op = Op::Repair { ino, offset, data: content.into() };
        self.append_holding(&one, &op, |state, mark| {
            if let Some(leading) = state.leading.as_mut() {
                leading.unapplied.add(&op, mark.lsn);
            }
            shared.wait_for(state, mark.lsn, Box::new(|_| ()));
        })?;
        Ok(true)
    }

    /// What this copy has found since it was last asked, for the one that writes the log.
    pub(crate) fn take_found(&self) -> Vec<(u64, Found)> {
        std::mem::take(&mut self.shared.state().found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(node: &str) -> NodeName {
        node.parse().unwrap()
    }

    fn verdict(own: Found, others: &[(&str, Found)]) -> Verdict {
        Findings { own, others: others.iter().map(|(node, found)| (name(node), *found)).collect() }.verdict()
    }

    #[test]
    fn the_majority_of_those_who_know_is_right() {
        let (a, b, c) = (Found::Hash(1), Found::Hash(2), Found::Hash(3));
        let odd = |own, others: &[&str]| Verdict::Odd { own, others: others.iter().map(|n| name(n)).collect() };
        assert_eq!(verdict(a, &[("b", a), ("c", a)]), Verdict::Equal);
        assert_eq!(verdict(a, &[("b", a), ("c", b)]), odd(false, &["c"]));
        assert_eq!(verdict(b, &[("b", a), ("c", a)]), odd(true, &[]));
        assert_eq!(verdict(a, &[("b", b), ("c", c)]), Verdict::Undecided);
        assert_eq!(verdict(a, &[("b", b)]), Verdict::Undecided);
        assert_eq!(verdict(a, &[]), Verdict::Equal, "nobody to compare with");
        assert_eq!(verdict(a, &[("b", a), ("c", Found::Unsure)]), Verdict::Equal);
        assert_eq!(verdict(a, &[("b", b), ("c", Found::Unsure)]), Verdict::Undecided);
        assert_eq!(verdict(a, &[("b", Found::Unsure), ("c", Found::Unsure)]), Verdict::Equal);
        assert_eq!(verdict(Found::Unsure, &[("b", a), ("c", b)]), Verdict::Undecided);
    }

    #[test]
    fn what_can_not_be_read_is_wrong() {
        let (a, b, lost) = (Found::Hash(1), Found::Hash(2), Found::Unreadable);
        let others = |nodes: &[&str]| nodes.iter().map(|n| name(n)).collect();
        assert_eq!(verdict(lost, &[("b", a), ("c", a)]), Verdict::Odd { own: true, others: others(&[]) });
        assert_eq!(verdict(a, &[("b", lost)]), Verdict::Odd { own: false, others: others(&["b"]) });
        assert_eq!(verdict(lost, &[("b", a), ("c", b)]), Verdict::Undecided);
        assert_eq!(verdict(lost, &[("b", lost)]), Verdict::Undecided, "nobody has it");
        assert_eq!(verdict(lost, &[]), Verdict::Undecided);
    }
}
