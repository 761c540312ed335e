//! The promises.

use std::sync::Arc;

use trine_protocol::{Epoch, must_fence};

use super::log::Log;
use super::state::{Broken, Db, Setting, small};
use super::{Cluster, State};

impl Cluster {
    fn breaks(&self, s: &mut State, what: Broken) {
        s.broken.get_or_insert(what);
    }

    /// How much of this primary's log is acknowledged by now, under any setting that the engine may run.
    pub(super) fn acknowledged(&self, s: &State, i: usize) -> u8 {
        let node = &s.nodes[i];
        let Db::Primary(prime) = &node.db else { return 0 };
        let under = |setting: Setting| match setting {
            Setting::Wait => 0,
            Setting::Alone => node.flushed,
            Setting::Any { acks, standbys } => {
                let have = |length: u8| {
                    let all = prime.acks.iter().enumerate();
                    all.filter(|(n, at)| standbys & (1 << n) != 0 && **at >= length).count()
                };
                (0..=node.flushed).rev().find(|length| have(*length) >= usize::from(acks)).unwrap_or(0)
            }
        };
        under(prime.setting).max(prime.former.map_or(0, under))
    }

    /// Clients of this primary are told.
    pub(super) fn acknowledge(&self, s: &mut State, i: usize) {
        let upto = self.acknowledged(s, i);
        self.settled(s, i, upto);
    }

    /// A client has been told, or shown, everything up to here.
    fn settled(&self, s: &mut State, i: usize, upto: u8) {
        let Db::Primary(prime) = &s.nodes[i].db else { return };
        let epoch = prime.epoch;
        if !s.opened.contains(epoch) {
            return;
        }
        let prefix = s.nodes[i].log.prefix(upto);
        let later = s.bases.range(epoch + 1..).find(|(_, base)| !base.starts_with(&prefix)).map(|(e, _)| *e);
        if let Some(later) = later {
            // A person may have accepted the loss of it.
            if !s.lossy.any_between(epoch, later) {
                self.breaks(s, Broken::Lost);
            }
        } else if prefix.starts_with(&s.committed) {
            s.committed = prefix;
        } else if !s.committed.starts_with(&prefix) {
            self.breaks(s, Broken::Contradicted);
        }
    }

    /// This node becomes the primary of `epoch`, with the log that it has.
    pub(super) fn check_promotion(&self, s: &mut State, i: usize, epoch: u8) {
        let base: Log = s.nodes[i].log;
        if s.bases.contains_key(&epoch) {
            self.breaks(s, Broken::TwoPrimaries);
        }
        let is_latest = s.bases.range(epoch + 1..).next().is_none();
        if is_latest && !base.starts_with(&s.committed) {
            if s.lossy.any_between(s.committed.epoch(), epoch) {
                s.committed = s.committed.prefix(base.common(&s.committed));
            } else {
                self.breaks(s, Broken::Lost);
            }
        }
        Arc::make_mut(&mut s.bases).insert(epoch, base);
    }

    /// Does it serve clients at this instant of true time?
    fn serves(&self, s: &State, i: usize) -> bool {
        let now = self.now(s, i);
        let node = &s.nodes[i];
        let (Db::Primary(prime), Some(agent)) = (&node.db, &node.agent) else { return false };
        let view = s.view(i);
        let (promised, serving) = (agent.voter.promised(), Epoch(prime.epoch.into()));
        now < prime.guard
            && small(view.epoch) == prime.epoch
            && view.is_open()
            && must_fence(view, &self.names[i], promised, serving, Some(prime.guard), now).is_none()
    }

    /// After every step.
    pub(super) fn check(&self, s: &mut State) {
        for i in self.all() {
            let Db::Primary(prime) = &s.nodes[i].db else { continue };
            let (epoch, base) = (prime.epoch, prime.base);
            let view = s.view(i);
            if s.nodes[i].agent.is_some() && small(view.epoch) == epoch && view.is_open() {
                // What it had when its barrier was written is visible from the moment it opens.
                self.settled(s, i, base);
            }
        }
        if self.scope.clocks.is_empty() {
            // Without clocks a lease never ends: that is for the promise about data.
            return;
        }
        let serving: Vec<usize> = self.all().filter(|i| self.serves(s, *i)).collect();
        if serving.len() > 1 {
            self.breaks(s, Broken::TwoServe);
        }
        if serving.iter().any(|i| !s.nodes[*i].log.starts_with(&s.committed)) {
            self.breaks(s, Broken::StaleRead);
        }
    }
}
