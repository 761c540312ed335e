//! What a node's agent does, one small step at a time.

use super::types::{Agent, BEFORE, Work};
use super::{Change, Copy, Db, Entry, Epoch, LEASE_MS, Lease, Message, Mutant, Prime, Wish, World, position_of};
use std::collections::BTreeMap;
use std::time::Duration;
use trine_protocol::{
    Condition, Controller, Goal, Mandate, NodeName, Position, Repair, Standing, SyncRule, SyncSetting, Voter, goal,
    mandate, must_fence,
};

impl World {
    /// An agent starts; what it sees of the state may be older than what it saw before.
    pub(super) fn start(&mut self, i: usize, back: usize) {
        if self.nodes[i].agent.is_some() {
            return;
        }
        let now = self.now(i);
        let longest = if self.is(Mutant::RestartForgetsLeases) { 0 } else { LEASE_MS };
        let in_place = self.is(Mutant::PrimaryRestartedInPlace);
        let node = &mut self.nodes[i];
        let view = node.seen.saturating_sub(back).max(node.joined.unwrap_or(0));
        let promise = Some(node.promise).filter(|_| node.joined.is_some());
        let led = match &node.db {
            Db::Primary(p) if in_place => Some(p.epoch),
            _ => None,
        };
        node.agent = Some(Agent {
            voter: Voter::restored(promise, now, Duration::from_millis(longest)),
            view,
            lease: None,
            sealed: None,
            led,
            failed: None,
            yielded: None,
            needs: None,
            work: None,
            controller: Controller::default(),
            heard: BTreeMap::new(),
        });
    }

    fn promise(&mut self, i: usize, epoch: Epoch) {
        let durable = !self.is(Mutant::PromiseNotOnDisk);
        let node = &mut self.nodes[i];
        if durable {
            node.promise = node.promise.max(epoch);
        }
        node.agent.as_mut().unwrap().voter.promise(epoch);
    }

    fn agent(&mut self, i: usize) -> &mut Agent {
        self.nodes[i].agent.as_mut().unwrap()
    }

    /// One step towards the goal.
    pub(super) fn tick(&mut self, i: usize) {
        if !self.moves(i) {
            return;
        }
        if self.nodes[i].joined.is_none() {
            self.join(i);
            return;
        }
        let now = self.now(i);
        let state = self.view(i).unwrap().clone();
        if state.held().is_some() {
            self.agent(i).voter.learn(state.epoch, now);
        }
        if self.fence(i, &state) {
            return;
        }
        let node = &self.nodes[i];
        let agent = node.agent.as_ref().unwrap();
        let condition = Condition { promised: agent.voter.promised(), data: node.copy, needs: agent.needs };
        match goal(&state, &node.name, condition) {
            Goal::Rest(_) => {}
            Goal::Bootstrap => {
                // What it has applied may be old: it asks.
                let asked = self.has_quorum(i) && self.latest().is_virgin();
                if !asked && !self.is(Mutant::BootstrapFromOldView) {
                    return;
                }
                let node = &mut self.nodes[i];
                node.copy = Copy::Complete;
                node.log.clear();
                node.flushed = 0;
            }
            Goal::Seal { epoch } => self.seal(i, epoch),
            Goal::Lead { epoch, sync, rule, barrier, leave, least } => {
                let least = if self.is(Mutant::LeadsWithLess) { Position::default() } else { least };
                match mandate(epoch, least, leave, self.standing(i, epoch)) {
                    Mandate::Over => {}
                    Mandate::Promote => self.become_primary(i, epoch, &sync, &rule),
                    Mandate::Lead => self.lead(i, epoch, &sync, &rule, barrier),
                    Mandate::Leave => self.leave(i, epoch),
                    Mandate::GiveUp(why) => self.give_up(i, epoch, why),
                }
            }
            Goal::Follow { epoch, primary, repair } => self.follow(i, epoch, &primary, repair),
        }
    }

    /// A wiped node comes back into consensus: it sees nothing older, and has promised the epoch that it finds.
    fn join(&mut self, i: usize) {
        if !self.has_quorum(i) {
            return;
        }
        if self.is(Mutant::WipedVoterDoesNotAsk) {
            // It has caught up to the epoch before.
            let epoch = self.latest().epoch;
            let old = self.states.iter().rposition(|s| s.is_open() && s.epoch < epoch).unwrap_or(0);
            self.nodes[i].joined = Some(old);
            self.agent(i).view = old;
            self.agent(i).voter.recall(Epoch::ZERO);
            return;
        }
        let latest = self.states.len() - 1;
        self.nodes[i].joined = Some(latest);
        self.agent(i).view = latest;
        let epoch = self.latest().epoch;
        self.nodes[i].promise = epoch;
        self.agent(i).voter.recall(epoch);
    }

    fn fence(&mut self, i: usize, state: &trine_protocol::ClusterState) -> bool {
        let now = self.now(i);
        let node = &self.nodes[i];
        let agent = node.agent.as_ref().unwrap();
        let (epoch, why) = match &node.db {
            Db::Primary(p) => {
                let why = must_fence(state, &node.name, agent.voter.promised(), p.epoch, Some(p.guard), now);
                let Some(why) = why else { return false };
                (p.epoch, why)
            }
            Db::Stopped => {
                let Some(led) = agent.led else { return false };
                if self.is(Mutant::PrimaryRestartedInPlace) && self.restart_in_place(i, led) {
                    return true;
                }
                (led, "its database has ended".to_owned())
            }
            _ => return false,
        };
        self.nodes[i].db = Db::Stopped;
        let agent = self.agent(i);
        agent.led = None;
        if agent.yielded != Some(epoch) {
            agent.failed = Some((epoch, why));
        }
        self.release(i, epoch);
        true
    }

    fn restart_in_place(&mut self, i: usize, epoch: Epoch) -> bool {
        let now = self.now(i);
        let node = &mut self.nodes[i];
        let lease =
            node.agent.as_ref().and_then(|a| a.lease.as_ref()).filter(|l| l.epoch() == epoch && l.is_valid(now));
        let Some(guard) = lease.and_then(Lease::until) else { return false };
        node.db = Db::Primary(Prime {
            epoch,
            base: node.log.len(),
            settings: vec![SyncSetting::Wait],
            acks: vec![0; self.setup.clocks.len()],
            barrier: None,
            guard,
        });
        true
    }

    fn release(&mut self, i: usize, epoch: Epoch) {
        let now = self.now(i);
        self.agent(i).voter.release(epoch, now);
        for to in (0..self.nodes.len()).filter(|to| *to != i) {
            self.send(Message::Release { from: i, to, epoch });
        }
    }

    fn seal(&mut self, i: usize, epoch: Epoch) {
        if self.agent(i).voter.promised() < epoch {
            self.promise(i, epoch);
            return;
        }
        let read_first = self.is(Mutant::PositionBeforeCut);
        let incomplete_counts = self.is(Mutant::IncompleteCounts);
        let node = &mut self.nodes[i];
        let agent = node.agent.as_mut().unwrap();
        agent.work = None;
        if agent.sealed.is_none_or(|(e, _)| e != epoch) {
            agent.sealed = Some((epoch, None));
            (agent.led, agent.failed, agent.yielded) = (None, None, None);
            return;
        }
        let counts = node.copy == Copy::Complete || (incomplete_counts && node.copy == Copy::Incomplete);
        if !counts {
            node.db = Db::Stopped;
        } else if read_first && agent.sealed == Some((epoch, None)) {
            agent.sealed = Some((epoch, Some(position_of(&node.log))));
        } else if node.db != Db::Sealed {
            node.db = Db::Sealed;
        } else if agent.sealed == Some((epoch, None)) {
            agent.sealed = Some((epoch, Some(position_of(&node.log))));
            agent.needs = None;
        }
    }

    fn standing(&self, i: usize, epoch: Epoch) -> Standing {
        let node = &self.nodes[i];
        let agent = node.agent.as_ref().unwrap();
        let failed = agent.failed.as_ref().map(|(e, _)| *e);
        Standing {
            sealed: agent.sealed.filter(|_| node.db == Db::Sealed),
            leading: agent.led,
            over: [failed, agent.yielded].into_iter().flatten().find(|e| *e == epoch),
        }
    }

    fn give_up(&mut self, i: usize, epoch: Epoch, why: String) {
        self.nodes[i].db = Db::Stopped;
        self.agent(i).failed = Some((epoch, why));
    }

    fn lead(&mut self, i: usize, epoch: Epoch, sync: &SyncSetting, rule: &SyncRule, barrier: bool) {
        let keep_barrier = self.is(Mutant::BarrierBeforeSetting);
        let open_at_once = self.is(Mutant::OpenWithoutBarrier);
        let Db::Primary(prime) = &mut self.nodes[i].db else { return };
        if prime.settings.last() != Some(sync) {
            prime.settings.push(sync.clone());
            if !keep_barrier {
                prime.barrier = None;
            }
        } else if prime.settings.len() > 1 {
            prime.settings = vec![sync.clone()];
        } else if !barrier {
        } else if *sync == SyncSetting::Wait {
            // Nobody can acknowledge any more, and the primary has what was.
            self.settle(i, epoch, rule, open_at_once);
        } else if open_at_once {
            self.settle(i, epoch, rule, true);
        } else if prime.barrier.as_ref().is_none_or(|(r, _)| !keep_barrier && r != rule) {
            let place = self.append(i, epoch, true);
            if let Db::Primary(prime) = &mut self.nodes[i].db {
                prime.barrier = Some((rule.clone(), place));
            }
        } else {
            let passed = self.acknowledged(i);
            let Db::Primary(prime) = &self.nodes[i].db else { return };
            if prime.barrier.as_ref().is_some_and(|(_, place)| *place <= passed) {
                self.settle(i, epoch, rule, true);
            }
        }
    }

    /// Appends an entry and says how long the log is then.
    pub(super) fn append(&mut self, i: usize, epoch: Epoch, barrier: bool) -> usize {
        self.next_entry += 1;
        let entry = Entry { epoch, id: self.next_entry, barrier };
        self.nodes[i].log.push(entry);
        self.nodes[i].log.len()
    }

    fn settle(&mut self, i: usize, epoch: Epoch, rule: &SyncRule, passed: bool) {
        let Some(state) = self.view(i).filter(|s| s.epoch == epoch) else { return };
        let Some(held) = state.held() else { return };
        let (last, number, opened) = (held.pending.last() == Some(rule), held.changes, held.opened);
        if last {
            self.propose(i, Change::RuleRuns { epoch, rule: rule.clone(), number });
        }
        if passed && !opened {
            self.propose(i, Change::BarrierPassed { epoch });
        }
    }

    fn become_primary(&mut self, i: usize, epoch: Epoch, sync: &SyncSetting, rule: &SyncRule) {
        let now = self.now(i);
        let nodes = self.nodes.len();
        let node = &mut self.nodes[i];
        if position_of(&node.log).epoch.max(BEFORE) >= epoch {
            // It has been the primary of this epoch, before it restarted.
            self.give_up(i, epoch, "its log is numbered as far as this".to_owned());
            return;
        }
        let agent = node.agent.as_mut().unwrap();
        let lease = agent.lease.as_ref().filter(|l| l.epoch() == epoch && l.is_valid(now));
        let Some(guard) = lease.and_then(Lease::until) else { return };
        agent.led = Some(epoch);
        agent.sealed = None;
        self.promoted(i, epoch);
        // The switch to a new timeline is on disk before anything else happens.
        let base = self.append(i, epoch, true);
        self.nodes[i].flushed = base;
        self.nodes[i].db = Db::Primary(Prime {
            epoch,
            base,
            settings: vec![sync.clone()],
            acks: vec![0; nodes],
            barrier: Some((rule.clone(), base)),
            guard,
        });
    }

    fn leave(&mut self, i: usize, epoch: Epoch) {
        let releases_early = self.is(Mutant::ReleaseWhileServing);
        let node = &mut self.nodes[i];
        let agent = node.agent.as_mut().unwrap();
        if releases_early && agent.yielded.is_none() {
            agent.yielded = Some(epoch);
            self.release(i, epoch);
            return;
        }
        node.db = Db::Stopped;
        agent.led = None;
        agent.yielded = Some(epoch);
        self.release(i, epoch);
    }

    fn follow(&mut self, i: usize, epoch: Epoch, primary: &NodeName, repair: Option<Repair>) {
        if self.agent(i).voter.promised() < epoch {
            self.promise(i, epoch);
            return;
        }
        let p = self.index(primary);
        let agent = self.agent(i);
        (agent.led, agent.failed, agent.yielded) = (None, None, None);
        if agent.work.is_some_and(|w| w.epoch != epoch) {
            agent.work = None;
        }
        match &self.nodes[i].db {
            Db::Primary(_) => self.nodes[i].db = Db::Stopped,
            Db::Following { epoch: e, .. } if *e != epoch => self.nodes[i].db = Db::Sealed,
            _ => {
                let upstream = match &self.nodes[p].db {
                    Db::Primary(prime) if prime.epoch == epoch && self.reached(p, i) => Some(self.nodes[p].flushed),
                    _ => None,
                };
                match (repair, upstream) {
                    (_, None) => {}
                    (Some(repair), Some(upto)) => self.repair(i, p, Work { repair, epoch, upto }),
                    (None, Some(_)) => self.connect(i, p, epoch),
                }
            }
        }
    }

    fn connect(&mut self, i: usize, p: usize, epoch: Epoch) {
        let prefix = self.nodes[p].log.starts_with(&self.nodes[i].log);
        let node = &mut self.nodes[i];
        let agent = node.agent.as_mut().unwrap();
        if node.copy != Copy::Complete || matches!(node.db, Db::Following { .. }) {
            return;
        }
        if prefix {
            node.db = Db::Following { epoch, primary: p };
            agent.sealed = None;
            agent.needs = None;
        } else {
            agent.needs = Some(Repair::Rewind);
        }
    }

    /// A repair begins, or comes to its end.
    fn repair(&mut self, i: usize, p: usize, work: Work) {
        let follows_on = self.is(Mutant::FollowWhileRebuilding);
        let begun = self.agent(i).work.filter(|w| w.repair == work.repair);
        let Some(begun) = begun else {
            let node = &mut self.nodes[i];
            node.agent.as_mut().unwrap().work = Some(work);
            if work.repair == Repair::Rewind {
                // In place: until it is done the copy proves nothing.
                node.copy = Copy::Incomplete;
                node.db = Db::Stopped;
            } else if matches!(node.db, Db::Following { .. }) && !follows_on {
                node.db = Db::Sealed;
            }
            return;
        };
        let copied = self.nodes[p].log[..begun.upto].to_vec();
        let node = &mut self.nodes[i];
        node.flushed = copied.len();
        node.log = copied;
        node.copy = Copy::Complete;
        node.db = Db::Stopped;
        let agent = node.agent.as_mut().unwrap();
        agent.work = None;
        agent.needs = None;
        agent.sealed = None;
        let name = self.nodes[i].name.clone();
        let ends = match self.view(i).and_then(|s| s.wish.as_ref()) {
            Some((number, Wish::Rebuild { node })) if *node == name => Some(*number),
            _ => None,
        };
        if let Some(number) = ends {
            self.propose(i, Change::EndWish { number, outcome: Ok(()) });
        }
    }
}
