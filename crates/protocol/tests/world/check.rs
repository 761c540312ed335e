//! What must hold after every step.

use std::collections::BTreeSet;

use super::types::Entry;
use super::{Db, Epoch, Mutant, World};
use trine_protocol::{ClusterState, SyncRule, SyncSetting, must_fence};

impl World {
    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// How much of this primary's log is acknowledged by now, under any setting that it may run.
    pub(super) fn acknowledged(&self, i: usize) -> usize {
        let node = &self.nodes[i];
        let Db::Primary(prime) = &node.db else { return 0 };
        let under = |setting: &SyncSetting| match setting {
            SyncSetting::Wait => 0,
            SyncSetting::Alone => node.flushed,
            SyncSetting::Any { acks, standbys } => {
                let mut durable: Vec<usize> = standbys.iter().map(|n| prime.acks[self.index(n)]).collect();
                durable.sort_unstable_by(|a, b| b.cmp(a));
                acks.checked_sub(1).and_then(|last| durable.get(last)).copied().unwrap_or(0).min(node.flushed)
            }
        };
        prime.settings.iter().map(under).max().unwrap_or(0)
    }

    /// Clients of this primary are told.
    pub(super) fn advance_acknowledged(&mut self, i: usize) {
        let upto = self.acknowledged(i);
        self.settled(i, upto);
    }

    /// A client has been told, or shown, everything up to here.
    fn settled(&mut self, i: usize, upto: usize) {
        let Db::Primary(prime) = &self.nodes[i].db else { return };
        if !self.opened.contains(&prime.epoch) {
            return;
        }
        let (epoch, prefix) = (prime.epoch, self.nodes[i].log[..upto].to_vec());
        if self.committed.starts_with(&prefix) && self.bases.range(epoch.next()..).next().is_none() {
            return;
        }
        let later = self.bases.range(epoch.next()..).find(|(_, base)| !base.starts_with(&prefix)).map(|(e, _)| *e);
        if let Some(later) = later {
            if !self.lost_knowingly(epoch, later) {
                let name = self.nodes[i].name.clone();
                self.violation(format!(
                    "{name} acknowledges {upto} entries in {epoch:?}, and {later:?} has begun without"
                ));
            }
            return;
        }
        if prefix.starts_with(&self.committed) {
            self.committed = prefix;
        } else if !self.committed.starts_with(&prefix) {
            let name = self.nodes[i].name.clone();
            self.violation(format!("{name} acknowledges in {epoch:?} what contradicts what was acknowledged"));
        }
    }

    /// Did a person accept the loss of what was acknowledged in `from`, in an epoch up to `to`?
    fn lost_knowingly(&self, from: Epoch, to: Epoch) -> bool {
        self.lossy.range(from.next()..=to).next().is_some()
    }

    /// This node becomes the primary of `epoch`.
    pub(super) fn promoted(&mut self, i: usize, epoch: Epoch) {
        let node = &self.nodes[i];
        let (name, base) = (node.name.clone(), node.log.clone());
        if self.bases.contains_key(&epoch) {
            self.violation(format!("{name} is promoted in {epoch:?}, which has had a primary"));
        }
        if self.bases.range(epoch.next()..).next().is_none() && !base.starts_with(&self.committed) {
            let from = self.committed.last().map_or(Epoch::ZERO, |e| e.epoch);
            let both = base.iter().zip(&self.committed).take_while(|(a, b)| a == b).count();
            if self.lost_knowingly(from, epoch) {
                self.committed.truncate(both);
            } else {
                let lost: Vec<Entry> = self.committed[both..].to_vec();
                self.violation(format!("{name} leads {epoch:?} without acknowledged entries: {lost:?}"));
            }
        }
        self.bases.insert(epoch, base);
    }

    /// Does it serve clients at this instant of true time?
    fn serves(&self, i: usize) -> bool {
        let now = self.now(i);
        let Db::Primary(prime) = &self.nodes[i].db else { return false };
        if now >= prime.guard {
            return false;
        }
        let (Some(view), Some(agent)) = (self.view(i), &self.nodes[i].agent) else { return false };
        let name = &self.nodes[i].name;
        view.epoch == prime.epoch
            && view.is_open()
            && must_fence(view, name, agent.voter.promised(), prime.epoch, Some(prime.guard), now).is_none()
    }

    /// The database is open to clients as far as this node knows; a lease may have run out.
    fn shows(&self, i: usize) -> bool {
        let Db::Primary(prime) = &self.nodes[i].db else { return false };
        self.view(i).is_some_and(|view| view.epoch == prime.epoch && view.is_open())
    }

    pub(super) fn check(&mut self) {
        for i in 0..self.nodes.len() {
            if self.shows(i)
                && let Db::Primary(prime) = &self.nodes[i].db
            {
                // What it had when its barrier was written is visible from the moment it opens.
                self.settled(i, prime.base);
            }
        }
        if !self.setup.bounded {
            return;
        }
        let serving: Vec<usize> = (0..self.nodes.len()).filter(|i| self.serves(*i)).collect();
        if serving.len() > 1 {
            let names: Vec<_> = serving.iter().map(|i| (&self.nodes[*i].name, &self.nodes[*i].db)).collect();
            let text = format!("two serve at once: {names:?}");
            self.violation(text);
        }
        for i in serving {
            if !self.nodes[i].log.starts_with(&self.committed) {
                let text = format!("a read at {} misses acknowledged entries", self.nodes[i].name);
                self.violation(text);
            }
        }
    }

    /// Rules of earlier epochs and of a change under way bind until they may go.
    pub(super) fn check_command(&mut self, before: &ClusterState, after: &ClusterState) {
        if self.setup.mutant != Mutant::None {
            return;
        }
        let opened = |s: &ClusterState| s.held().is_some_and(|h| h.opened);
        // An epoch that is not open has nothing of its own to guard.
        let binding = |s: &ClusterState| -> BTreeSet<SyncRule> {
            if s.held().is_some() && !opened(s) {
                s.guarding.iter().cloned().collect()
            } else {
                s.rules_in_force().into_iter().cloned().collect()
            }
        };
        let (old, new) = (binding(before), binding(after));
        let barrier = !opened(before) && opened(after);
        let settled =
            before.held().zip(after.held()).is_some_and(|(b, a)| !b.pending.is_empty() && a.pending.is_empty());
        if !old.is_subset(&new) && !barrier && !settled {
            self.violation(format!("a rule in force was dropped: {old:?} became {new:?}"));
        }
        if barrier && !after.guarding.is_empty() {
            self.violation("guarding rules outlive the barrier".to_owned());
        }
        if before.epoch == after.epoch && before.primary().is_some() && before.primary() != after.primary() {
            self.violation(format!("{:?} has two primaries", after.epoch));
        }
        if after.epoch < before.epoch {
            self.violation("an epoch went backwards".to_owned());
        }
    }
}
