//! What a node's agent does, one small step at a time.

use std::sync::Arc;

use trine_protocol::{
    Condition, Copy, Epoch, Goal, Mandate, Moment, Position, Repair, Standing, Wish, goal, mandate, must_fence,
};

use super::log::Log;
use super::state::{Db, Prime, Proposal, Rule, Setting, Work, small};
use super::{Cluster, Mutant, State};

/// What a primary should be doing: [`Goal::Lead`], small.
struct Lead {
    epoch: u8,
    setting: Setting,
    rule: Rule,
    barrier: bool,
}

impl Cluster {
    /// A node that is in touch with consensus, and wiped, has promised what it finds there. Another takes one step towards its
    /// goal.
    pub(super) fn step(&self, s: &mut State, i: usize) {
        if !s.nodes[i].joined {
            self.join(s, i);
            return;
        }
        if self.fence(s, i) {
            return;
        }
        let node = &s.nodes[i];
        let seen = Arc::clone(&s.history[node.view]);
        let state = &seen.state;
        let Some(agent) = &node.agent else { return };
        let condition = Condition { promised: agent.voter.promised(), data: node.copy, needs: agent.needs };
        match goal(state, &self.names[i], condition) {
            Goal::Rest(_) | Goal::Bootstrap => {}
            Goal::Seal { epoch } => self.seal(s, i, small(epoch)),
            Goal::Lead { epoch, sync, rule, barrier, leave, least } => {
                let least = if self.is(Mutant::LeadsWithLess) { Position::default() } else { least };
                let (setting, rule) = (self.setting(&sync), self.rule(&rule));
                let what = mandate(epoch, least, leave, standing(s, i, epoch));
                let epoch = small(epoch);
                match what {
                    Mandate::Over => {}
                    Mandate::Promote => self.become_primary(s, i, epoch, setting),
                    Mandate::Lead => self.lead(s, i, &Lead { epoch, setting, rule, barrier }),
                    Mandate::Leave => self.leave(s, i, epoch),
                    Mandate::GiveUp(_) => give_up(s, i, epoch),
                }
            }
            Goal::Follow { epoch, primary, repair } => {
                self.follow(s, i, small(epoch), self.index(&primary), repair);
            }
        }
    }

    fn join(&self, s: &mut State, i: usize) {
        let asks = !self.is(Mutant::WipedVoterDoesNotAsk);
        // A node that does not ask has caught up with some state: the oldest that anybody still has.
        let view = if asks { s.history.len() - 1 } else { 0 };
        let epoch = if asks { s.epoch() } else { 0 };
        let node = &mut s.nodes[i];
        node.joined = true;
        node.view = view;
        node.promise = epoch;
        if let Some(agent) = &mut node.agent {
            agent.voter.recall(Epoch(epoch.into()));
        }
    }

    fn promise(&self, s: &mut State, i: usize, epoch: u8) {
        let node = &mut s.nodes[i];
        if !self.is(Mutant::PromiseNotOnDisk) {
            node.promise = node.promise.max(epoch);
        }
        if let Some(agent) = &mut node.agent {
            agent.voter.promise(Epoch(epoch.into()));
        }
    }

    /// A primary that must not go on ends. True: that was the step.
    fn fence(&self, s: &mut State, i: usize) -> bool {
        let now = self.now(s, i);
        let node = &s.nodes[i];
        let Some(agent) = &node.agent else { return false };
        let epoch = match &node.db {
            Db::Primary(prime) => {
                let serving = Epoch(prime.epoch.into());
                let promised = agent.voter.promised();
                if must_fence(s.view(i), &self.names[i], promised, serving, Some(prime.guard), now).is_none() {
                    return false;
                }
                prime.epoch
            }
            Db::Stopped => {
                let Some(led) = agent.led else { return false };
                if self.is(Mutant::PrimaryRestartedInPlace) {
                    self.start_in_place(s, i, led);
                    return true;
                }
                led
            }
            _ => return false,
        };
        let node = &mut s.nodes[i];
        node.db = Db::Stopped;
        if let Some(agent) = &mut node.agent {
            agent.led = None;
            if agent.yielded != Some(epoch) {
                agent.failed = Some(epoch);
            }
        }
        self.release(s, i, epoch);
        true
    }

    /// The first node leads from the beginning.
    pub(super) fn begin_to_lead(&self, s: &mut State, epoch: u8, setting: Setting) {
        let guard = self.first_lease(s, epoch);
        let node = &mut s.nodes[0];
        node.db = Db::Primary(self.prime(epoch, node.log.len(), setting, Some(node.log.len()), guard));
        if let Some(agent) = &mut node.agent {
            agent.led = Some(epoch);
        }
        let length = s.nodes[0].log.len();
        self.all().skip(1).for_each(|i| self.confirm(s, i, length));
    }

    fn start_in_place(&self, s: &mut State, i: usize, epoch: u8) {
        let base = s.nodes[i].log.len();
        s.nodes[i].db = Db::Primary(self.prime(epoch, base, Setting::Wait, None, Self::NEVER));
    }

    fn prime(&self, epoch: u8, base: u8, setting: Setting, barrier: Option<u8>, guard: Moment) -> Prime {
        Prime { epoch, base, setting, former: None, acks: Default::default(), barrier, guard }
    }

    /// Promise, cut, read. Between these nothing else can happen to the copy, so they are one step; with the first two
    /// exchanged they are not.
    fn seal(&self, s: &mut State, i: usize, epoch: u8) {
        self.promise(s, i, epoch);
        let read_first = self.is(Mutant::PositionBeforeCut);
        let incomplete_counts = self.is(Mutant::IncompleteCounts);
        let node = &mut s.nodes[i];
        let Some(agent) = &mut node.agent else { return };
        agent.work = None;
        (agent.led, agent.failed, agent.yielded) = (None, None, None);
        let counts = node.copy == Copy::Complete || (incomplete_counts && node.copy == Copy::Incomplete);
        if !counts {
            node.db = Db::Stopped;
            agent.sealed = Some((epoch, None));
        } else if agent.sealed.is_none_or(|(e, p)| e != epoch || p.is_none()) {
            agent.sealed = Some((epoch, Some(node.log.position())));
            agent.needs = None;
            if !read_first {
                node.db = Db::Sealed;
            }
        } else {
            node.db = Db::Sealed;
        }
    }

    fn lead(&self, s: &mut State, i: usize, to: &Lead) {
        let Lead { epoch, setting, rule, barrier } = *to;
        let keeps_barrier = self.is(Mutant::BarrierBeforeSetting);
        let opens_at_once = self.is(Mutant::OpenWithoutBarrier);
        let passed = self.acknowledged(s, i);
        let Db::Primary(prime) = &mut s.nodes[i].db else { return };
        if prime.setting != setting {
            // Some of the engine has taken over the new one, some has not.
            prime.former = Some(prime.setting);
            prime.setting = setting;
            if !keeps_barrier {
                prime.barrier = None;
            }
            self.acknowledge(s, i);
        } else if prime.former.is_some() {
            prime.former = None;
        } else if !barrier {
        } else if setting == Setting::Wait {
            // Nobody can acknowledge any more, and the primary has what was.
            self.settle(s, i, epoch, rule, opens_at_once);
        } else if opens_at_once {
            self.settle(s, i, epoch, rule, true);
        } else if let Some(place) = prime.barrier {
            if place <= passed {
                self.settle(s, i, epoch, rule, true);
            }
        } else {
            let place = self.append(s, i, epoch);
            if let Db::Primary(prime) = &mut s.nodes[i].db {
                prime.barrier = Some(place);
            }
        }
    }

    /// Tells consensus what the engine runs now, and that a barrier has passed.
    fn settle(&self, s: &mut State, i: usize, epoch: u8, rule: Rule, passed: bool) {
        let view = s.view(i);
        let Some(held) = view.held().filter(|_| small(view.epoch) == epoch) else { return };
        let (opened, number) = (held.opened, held.changes);
        if held.pending.last().is_some_and(|last| self.rule(last) == rule) {
            s.proposals.insert(Proposal::RuleRuns { by: i, epoch, rule, number });
        }
        if passed && !opened {
            s.proposals.insert(Proposal::BarrierPassed { by: i, epoch });
        }
    }

    fn become_primary(&self, s: &mut State, i: usize, epoch: u8, setting: Setting) {
        let now = self.now(s, i);
        let node = &mut s.nodes[i];
        if node.log.epoch() >= epoch {
            // It has been the primary of this epoch, in another process.
            give_up(s, i, epoch);
            return;
        }
        let Some(agent) = &mut node.agent else { return };
        let guard = if self.scope.clocks.is_empty() {
            Self::NEVER
        } else {
            let lease = agent.lease.as_ref().filter(|l| small(l.epoch()) == epoch && l.is_valid(now));
            let Some(until) = lease.and_then(trine_protocol::Lease::until) else { return };
            until
        };
        agent.led = Some(epoch);
        agent.sealed = None;
        self.check_promotion(s, i, epoch);
        // The switch to the new epoch is on disk before anything else happens.
        let node = &mut s.nodes[i];
        node.log.push(epoch);
        node.flushed = node.log.len();
        let base = node.flushed;
        node.db = Db::Primary(self.prime(epoch, base, setting, Some(base), guard));
        self.acknowledge(s, i);
    }

    fn leave(&self, s: &mut State, i: usize, epoch: u8) {
        let node = &mut s.nodes[i];
        let Some(agent) = &mut node.agent else { return };
        let early = self.is(Mutant::ReleaseWhileServing) && agent.yielded.is_none();
        agent.yielded = Some(epoch);
        if !early {
            node.db = Db::Stopped;
            agent.led = None;
        }
        self.release(s, i, epoch);
    }

    fn follow(&self, s: &mut State, i: usize, epoch: u8, primary: usize, repair: Option<Repair>) {
        self.promise(s, i, epoch);
        let upto = match &s.nodes[primary].db {
            Db::Primary(prime) if prime.epoch == epoch => Some(s.nodes[primary].flushed),
            _ => None,
        };
        let node = &mut s.nodes[i];
        let Some(agent) = &mut node.agent else { return };
        (agent.led, agent.failed, agent.yielded) = (None, None, None);
        if agent.work.is_some_and(|w| w.epoch != epoch) {
            agent.work = None;
        }
        match (&node.db, repair, upto) {
            (Db::Primary(_), ..) => node.db = Db::Stopped,
            (Db::Following { epoch: e, .. }, ..) if *e != epoch => node.db = Db::Sealed,
            (_, _, None) => {}
            (_, Some(repair), Some(upto)) => self.repair(s, i, primary, Work { repair, epoch, upto }),
            (_, None, Some(_)) => self.connect(s, i, primary, epoch),
        }
    }

    fn connect(&self, s: &mut State, i: usize, primary: usize, epoch: u8) {
        let is_part = s.nodes[primary].log.starts_with(&s.nodes[i].log);
        let node = &mut s.nodes[i];
        let Some(agent) = &mut node.agent else { return };
        if node.copy != Copy::Complete || matches!(node.db, Db::Following { .. }) {
            return;
        }
        if !is_part {
            agent.needs = Some(Repair::Rewind);
            return;
        }
        node.db = Db::Following { epoch, primary };
        agent.sealed = None;
        agent.needs = None;
        // It tells what it has as soon as it is connected.
        let flushed = node.flushed;
        self.confirm(s, i, flushed);
    }

    /// A repair begins, or comes to its end.
    fn repair(&self, s: &mut State, i: usize, primary: usize, work: Work) {
        let node = &mut s.nodes[i];
        let Some(agent) = &mut node.agent else { return };
        let Some(begun) = agent.work.filter(|w| w.repair == work.repair) else {
            agent.work = Some(work);
            if work.repair == Repair::Rewind {
                // In place: until it is done the copy proves nothing.
                node.copy = Copy::Incomplete;
                node.db = Db::Stopped;
            } else if matches!(node.db, Db::Following { .. }) && !self.is(Mutant::FollowWhileRebuilding) {
                node.db = Db::Sealed;
            }
            return;
        };
        agent.work = None;
        agent.needs = None;
        agent.sealed = None;
        let copied: Log = s.nodes[primary].log.prefix(begun.upto);
        let node = &mut s.nodes[i];
        node.flushed = copied.len();
        node.log = copied;
        node.copy = Copy::Complete;
        node.db = Db::Stopped;
        let asked = match &s.view(i).wish {
            Some((number, Wish::Rebuild { node })) if *node == self.names[i] => Some(*number),
            _ => None,
        };
        s.proposals.extend(asked.map(|number| Proposal::RebuildDone { by: i, number }));
    }
}

/// What the process of node `i` has come to in `epoch`.
fn standing(s: &State, i: usize, epoch: Epoch) -> Standing {
    let node = &s.nodes[i];
    let large = |e: u8| Epoch(e.into());
    let agent = node.agent.as_ref();
    let sealed = agent.and_then(|a| a.sealed).filter(|_| node.db == Db::Sealed);
    let over = agent.into_iter().flat_map(|a| [a.failed, a.yielded]).flatten().map(large).find(|e| *e == epoch);
    Standing { sealed: sealed.map(|(e, p)| (large(e), p)), leading: agent.and_then(|a| a.led).map(large), over }
}

fn give_up(s: &mut State, i: usize, epoch: u8) {
    let node = &mut s.nodes[i];
    node.db = Db::Stopped;
    if let Some(agent) = &mut node.agent {
        agent.failed = Some(epoch);
    }
}
