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
use crate::shared::Shared;
use crate::{Op, Tree, Volume, VolumeError};

/// The most of a file that is looked at in one step, in bytes: nothing is applied meanwhile.
pub const LARGEST_REGION: u64 = 1 << 20;

/// What a copy that nobody asks for its findings keeps of them.
const KEPT: usize = 1024;

/// The note in a copy that differs from the others: it is of no use, also after a restart.
pub(crate) const DIFFERS: &str = "differs";

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
    /// Who is right, by majority. What can't be read is wrong, whatever the others have.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut by: BTreeMap<u64, usize> = BTreeMap::new();
        for found in self.others.values().chain([&self.own]) {
            if let Found::Hash(hash) = found {
                *by.entry(*hash).or_default() += 1;
            }
        }
        let known: usize = by.values().sum();
        let right = by.iter().find(|(_, count)| **count * 2 > known).map(|(hash, _)| *hash);
        let unreadable = |found: &Found| *found == Found::Unreadable;
        let Some(right) = right else {
            let any = known > 0 || unreadable(&self.own) || self.others.values().any(unreadable);
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

/// Who is told what was found.
pub(crate) type Told = Box<dyn FnOnce(Findings) + Send>;

/// A comparison that not all have answered yet.
pub(crate) struct Asked {
    own: Option<Found>,
    others: BTreeMap<NodeName, Option<Found>>,
    told: Told,
}

/// The comparisons under way on the copy that writes the log, by the end of their entries.
#[derive(Default)]
pub(crate) struct Comparisons(BTreeMap<u64, Asked>);

impl std::fmt::Debug for Comparisons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Comparisons {
    fn ask(&mut self, lsn: u64, others: impl Iterator<Item = NodeName>, told: Told) {
        self.0.insert(lsn, Asked { own: None, others: others.map(|node| (node, None)).collect(), told });
    }

    fn own(&mut self, lsn: u64, found: Found) {
        if let Some(asked) = self.0.get_mut(&lsn) {
            asked.own = Some(found);
        }
    }

    pub(crate) fn other(&mut self, node: &NodeName, lsn: u64, found: Found) {
        if let Some(answer) = self.0.get_mut(&lsn).and_then(|asked| asked.others.get_mut(node)) {
            *answer = Some(found);
        }
    }

    /// It takes the log no longer, so it will not answer.
    pub(crate) fn left(&mut self, node: &NodeName) {
        for asked in self.0.values_mut() {
            asked.others.remove(node);
        }
    }

    /// Takes out those that all have answered.
    pub(crate) fn answered(&mut self) -> Vec<(Told, Findings)> {
        let all = |asked: &Asked| asked.own.is_some() && asked.others.values().all(Option::is_some);
        let done: Vec<u64> = self.0.iter().filter(|(_, asked)| all(asked)).map(|(lsn, _)| *lsn).collect();
        let taken = done.iter().filter_map(|lsn| self.0.remove(lsn));
        let findings = |asked: Asked| {
            let others = asked.others.into_iter().filter_map(|(node, found)| Some((node, found?))).collect();
            (asked.told, Findings { own: asked.own.unwrap_or(Found::Unsure), others })
        };
        taken.map(findings).collect()
    }
}

pub(crate) fn tell_all(answered: Vec<(Told, Findings)>) {
    for (told, findings) in answered {
        told(findings);
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

    /// This copy differs from the others: it is closed, and of no use from now on.
    pub(crate) fn condemn(&self) -> VolumeError {
        let place = self.medium.place();
        // Without the note it is found out again the next time.
        if let Err(error) =
            self.medium.write(Part::Note(DIFFERS), 0, b"x").and_then(|()| self.medium.sync(Part::Note(DIFFERS)))
        {
            tracing::warn!(%error, %place, "can't note that this copy differs from the others");
        }
        let error = VolumeError::Damaged { place, lsn: self.state().progress.applied, what: DIFFERENT };
        self.fail_on_disk(&error);
        error
    }
}

/// What is said of a copy that is odd.
pub(crate) const DIFFERENT: &str = "its content differs from that of the other nodes";

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
                leading.comparisons.ask(mark.lsn, leading.followers.keys().cloned(), told);
            }
            // Nothing is applied before it is acknowledged, and nothing acknowledged before somebody waits.
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

    /// What this copy has found since it was last asked, for the one that writes the log.
    pub(crate) fn take_found(&self) -> Vec<(u64, Found)> {
        std::mem::take(&mut self.shared.state().found)
    }

    /// Closes this copy, which differs from the others, for good: it has to be made anew.
    pub fn condemn(&self) {
        self.shared.condemn();
    }

    /// Lets a node that takes the log know that its copy differs from the others.
    pub fn condemn_other(&self, node: &NodeName) {
        let mut state = self.shared.state();
        if let Some(leading) = state.leading.as_mut() {
            leading.condemned.insert(node.clone());
            self.shared.publish(&mut state);
        }
    }

    /// Whether that node is to be told so now.
    pub(crate) fn take_condemned(&self, node: &NodeName) -> bool {
        self.shared.state().leading.as_mut().is_some_and(|l| l.condemned.remove(node))
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
