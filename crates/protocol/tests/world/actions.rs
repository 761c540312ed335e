//! What can happen, and rounds in which everything happens that can.

use super::types::{Message, Point};
use super::{Action, Change, Copy, Db, Epoch, ROUND_MS, World};
use trine_protocol::{SyncRule, Wish};

impl World {
    pub(super) fn act(&mut self, action: &Action) {
        let n = |i: u8| usize::from(i) % self.setup.clocks.len();
        match *action {
            Action::Rounds(count) => (0..count).for_each(|_| self.round()),
            Action::Until(point) => self.until(point),
            Action::Tick(i) => self.tick(n(i)),
            Action::See(i, count) => self.see(n(i), count.into()),
            Action::Renew(i) => self.renew(n(i)),
            Action::Tell(i, j) => self.tell(n(i), n(j)),
            Action::Control(i) => self.control(n(i)),
            Action::Deliver(k) => {
                if let Some(message) = self.take(k) {
                    self.deliver(message);
                }
            }
            Action::Drop(k) => drop(self.take(k)),
            Action::Duplicate(k) => {
                if !self.messages.is_empty() {
                    let message = self.messages[usize::from(k) % self.messages.len()].clone();
                    self.deliver(message);
                }
            }
            Action::Hold(k) => {
                let message = self.take(k);
                self.held_up.extend(message);
            }
            Action::Late(k) => {
                if !self.held_up.is_empty() {
                    let message = self.held_up[usize::from(k) % self.held_up.len()].clone();
                    self.deliver(message);
                }
            }
            Action::Advance(ms) => self.advance(u64::from(ms)),
            Action::Write(i) => self.write(n(i)),
            Action::Flush(i) => self.flush(n(i)),
            Action::Replicate(i, count) => self.replicate(n(i), count.into()),
            Action::KillDatabase(i) => self.nodes[n(i)].db = Db::Stopped,
            Action::KillAgent(i) => self.kill_agent(n(i)),
            Action::Crash(i, kept) => self.crash(n(i), kept.into()),
            Action::Start(i, back) => self.start(n(i), back.into()),
            Action::StartAll => (0..self.nodes.len()).for_each(|i| self.start(i, 0)),
            Action::Cut(i, j) => {
                self.cut.insert((n(i), n(j)));
            }
            Action::Isolate(i) => self.isolate(n(i)),
            Action::UnreachPrimary => {
                let primary = self.primary();
                self.unreached.extend(primary);
            }
            Action::Unreach(i) => {
                self.unreached.insert(n(i));
            }
            Action::Mend => {
                self.cut.clear();
                self.unreached.clear();
            }
            Action::LoseData(i) => self.lose_data(n(i), 0),
            Action::TearData(i) => self.lose_data(n(i), self.nodes[n(i)].log.len() / 2),
            Action::Wipe(i) => self.wipe(n(i)),
            Action::Switchover(to) => self.ask(Wish::Switchover { to: to.map(|i| self.nodes[n(i)].name.clone()) }),
            Action::Failover(to, accept_loss) => {
                self.ask(Wish::Failover { to: to.map(|i| self.nodes[n(i)].name.clone()), accept_loss });
            }
            Action::Rebuild(i) => self.ask(Wish::Rebuild { node: self.nodes[n(i)].name.clone() }),
            Action::CrashPrimary => {
                if let Some(p) = self.primary() {
                    self.crash(p, 9);
                }
            }
            Action::IsolatePrimary => {
                if let Some(p) = self.primary() {
                    self.isolate(p);
                }
            }
            Action::Freeze(i) => {
                self.frozen.insert(n(i));
            }
            Action::FreezePrimary => {
                let primary = self.primary();
                self.frozen.extend(primary);
            }
            Action::Thaw => self.frozen.clear(),
            Action::CutPrimary(i, towards) => {
                if let Some(p) = self.primary() {
                    self.cut.insert(if towards { (n(i), p) } else { (p, n(i)) });
                }
            }
            Action::RebuildStandby(i) => {
                let other =
                    (0..self.nodes.len()).map(|k| (k + n(i)) % self.nodes.len()).find(|k| Some(*k) != self.primary());
                let node = self.nodes[other.unwrap_or(0)].name.clone();
                self.ask(Wish::Rebuild { node });
            }
            Action::DeliverAll => self.deliver_all(),
            Action::Spin(count) => (0..count).for_each(|_| self.spin()),
            Action::ChooseStandby(i) => self.choose(n(i)),
            Action::HoldProposal => {
                let last = self.messages.iter().rposition(|m| matches!(m, Message::Propose { .. }));
                let last = last.map(|k| self.messages.remove(k));
                self.held_up.extend(last);
            }
        }
    }

    fn primary(&self) -> Option<usize> {
        self.latest().primary().map(|p| self.index(p))
    }

    fn take(&mut self, k: u16) -> Option<Message> {
        let len = self.messages.len();
        (len > 0).then(|| self.messages.remove(usize::from(k) % len))
    }

    fn ask(&mut self, wish: Wish) {
        let change = self.latest().asking(wish);
        self.propose(0, change);
    }

    fn isolate(&mut self, i: usize) {
        for j in (0..self.nodes.len()).filter(|j| *j != i) {
            self.cut.insert((i, j));
            self.cut.insert((j, i));
        }
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.t += ms * 1_000_000;
        for i in 0..self.nodes.len() {
            let now = self.now(i);
            // The guard needs nobody for that.
            if matches!(&self.nodes[i].db, Db::Primary(p) if now >= p.guard) {
                self.nodes[i].db = Db::Stopped;
            }
        }
    }

    fn see(&mut self, i: usize, count: usize) {
        if self.nodes[i].joined.is_none() || !self.has_quorum(i) {
            return;
        }
        let latest = self.states.len() - 1;
        let agent = self.nodes[i].agent.as_mut().unwrap();
        agent.view = agent.view.saturating_add(count).min(latest);
    }

    fn control(&mut self, i: usize) {
        if self.nodes[i].joined.is_none() || !self.has_quorum(i) {
            return;
        }
        let now = self.now(i);
        let state = self.view(i).unwrap().clone();
        let no_majority = self.is(super::Mutant::NoMajorityOfPromises);
        let stays_stuck = self.is(super::Mutant::NoRebuildWhenStuck);
        let agent = self.nodes[i].agent.as_mut().unwrap();
        if no_majority {
            for heard in agent.heard.values_mut() {
                let position = heard.report.seal.filter(|s| s.epoch == state.epoch).and_then(|s| s.position);
                let lease_left = std::time::Duration::ZERO;
                heard.report.promised = state.epoch;
                heard.report.seal = Some(trine_protocol::Seal { epoch: state.epoch, lease_left, position });
            }
        }
        let changes = agent.controller.step(&state, &agent.heard, now);
        for change in changes {
            if stays_stuck && matches!(&change, Change::RaiseAlarm { alarm, .. } if alarm == "not-open") {
                continue;
            }
            self.propose(i, change);
        }
    }

    /// A client writes at a primary that is open as far as its node knows. Nobody asks the lease: no promise about data
    /// may rest on it.
    fn write(&mut self, i: usize) {
        let Db::Primary(prime) = &self.nodes[i].db else { return };
        let epoch = prime.epoch;
        if self.view(i).is_some_and(|s| s.epoch == epoch && s.is_open()) {
            self.append(i, epoch, false);
        }
    }

    fn kill_agent(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if let Some(agent) = node.agent.take() {
            node.seen = agent.view;
        }
    }

    /// The machine goes down: of what was not flushed, only some entries stay.
    pub(super) fn crash(&mut self, i: usize, kept: usize) {
        self.kill_agent(i);
        let node = &mut self.nodes[i];
        node.db = Db::Stopped;
        node.flushed = node.flushed.min(node.log.len());
        node.log.truncate(node.flushed.saturating_add(kept));
        node.flushed = node.log.len();
    }

    /// Half of its log is gone, or all of it.
    fn lose_data(&mut self, i: usize, kept: usize) {
        let node = &mut self.nodes[i];
        node.db = Db::Stopped;
        node.log.truncate(kept);
        node.flushed = node.log.len();
        node.copy = if node.log.is_empty() { Copy::Missing } else { Copy::Incomplete };
        if let Some(agent) = &mut node.agent {
            agent.needs = None;
            agent.work = None;
            agent.sealed = agent.sealed.map(|(e, _)| (e, None));
        }
    }

    fn wipe(&mut self, i: usize) {
        self.lose_data(i, 0);
        self.kill_agent(i);
        self.nodes[i].promise = Epoch::ZERO;
        self.nodes[i].joined = None;
        self.nodes[i].seen = 0;
    }

    /// Everything that one node can do at the moment.
    fn slice(&mut self, i: usize) {
        if self.moves(i) {
            self.see(i, usize::MAX);
            self.tick(i);
            self.tick(i);
        }
        self.write(i);
        self.replicate(i, 9);
        self.flush(i);
        self.renew(i);
        for to in 0..self.nodes.len() {
            self.tell(i, to);
        }
        // The first that is in touch with a majority leads consensus.
        if (0..self.nodes.len()).find(|j| self.has_quorum(*j)) == Some(i) {
            self.control(i);
        }
        self.deliver_all();
        self.check();
    }

    pub(super) fn deliver_all(&mut self) {
        for _ in 0..3 {
            for message in std::mem::take(&mut self.messages) {
                self.deliver(message);
            }
        }
    }

    fn choose(&mut self, i: usize) {
        let epoch = self.latest().epoch;
        let Some(primary) = self.latest().primary().cloned() else { return };
        let others = (0..self.nodes.len()).map(|k| self.nodes[(k + i) % self.nodes.len()].name.clone());
        let standbys = others.filter(|n| *n != primary).take(self.setup.acks).collect();
        let rule = SyncRule { primary, standbys, acks: self.setup.acks };
        self.propose(i, Change::ChangeRule { epoch, rule, because: "a test".to_owned() });
    }

    fn spin(&mut self) {
        for i in 0..self.nodes.len() {
            self.slice(i);
        }
    }

    /// A while in which everything gets through that can.
    pub(super) fn round(&mut self) {
        self.spin();
        self.advance(ROUND_MS);
        self.check();
    }

    /// Runs until the world is at this point, or for a while.
    fn until(&mut self, point: Point) {
        for _ in 0..40 {
            for i in 0..self.nodes.len() {
                self.slice(i);
                if self.is_at(point) || !self.violations.is_empty() {
                    return;
                }
            }
            self.advance(ROUND_MS);
        }
    }

    fn is_at(&self, point: Point) -> bool {
        let state = self.latest();
        let epoch: Epoch = state.epoch;
        let agents = || self.nodes.iter().filter_map(|n| n.agent.as_ref());
        match (point, state.held()) {
            (Point::Vacant, held) => held.is_none(),
            (Point::Sealed, held) => {
                held.is_none() && agents().any(|a| a.sealed.is_some_and(|(e, p)| e == epoch && p.is_some()))
            }
            (Point::Elected, held) => held.is_some_and(|h| !h.opened),
            (Point::Promoted, held) => {
                held.is_some_and(|h| !h.opened)
                    && self.nodes.iter().any(|n| matches!(&n.db, Db::Primary(p) if p.epoch == epoch))
            }
            (Point::Changing, held) => held.is_some_and(|h| !h.pending.is_empty()),
            (Point::Setting, _) => self.nodes.iter().any(|n| matches!(&n.db, Db::Primary(p) if p.settings.len() > 1)),
            (Point::Repairing, _) => agents().any(|a| a.work.is_some()),
            (Point::Open, _) => state.is_open(),
        }
    }
}
