//! What is on its way between nodes.

use std::time::Duration;

use super::types::{Agent, BEFORE, Message};
use super::{Copy, Db, Epoch, LEASE_MS, Lease, Mutant, World, position_of};
use trine_protocol::{Database, Grant, Heard, Repair, Report, Seal};

/// More than this are never in flight: the oldest is lost.
const IN_FLIGHT: usize = 120;

/// More than this are never held up.
const HELD_UP: usize = 40;

impl World {
    pub(super) fn send(&mut self, message: Message) {
        if self.messages.len() >= IN_FLIGHT {
            self.messages.remove(0);
        }
        self.messages.push(message);
    }

    /// The primary's node asks everyone for its lease.
    pub(super) fn renew(&mut self, i: usize) {
        if !self.moves(i) {
            return;
        }
        let now = self.now(i);
        let Some(state) = self.view(i) else { return };
        let Some(epoch) = state.held().filter(|h| h.primary == self.nodes[i].name).map(|_| state.epoch) else { return };
        let majority = state.majority();
        let agent = self.nodes[i].agent.as_mut().unwrap();
        let over = agent.yielded == Some(epoch) || agent.failed.as_ref().is_some_and(|(e, _)| *e == epoch);
        if over || agent.voter.promised() > epoch {
            return;
        }
        if agent.lease.as_ref().is_none_or(|l| l.epoch() != epoch) {
            agent.lease = Some(Lease::new(epoch, majority, Duration::from_millis(LEASE_MS)));
        }
        if agent.voter.renew(epoch, now, Duration::from_millis(LEASE_MS)) == Grant::Granted {
            self.granted(i, i, epoch, now);
        }
        for to in (0..self.nodes.len()).filter(|to| *to != i) {
            self.send(Message::Renew { from: i, to, epoch, sent: now });
        }
    }

    fn granted(&mut self, i: usize, voter: usize, epoch: Epoch, sent: trine_protocol::Moment) {
        let name = self.nodes[voter].name.clone();
        let node = &mut self.nodes[i];
        let Some(agent) = &mut node.agent else { return };
        let Some(lease) = agent.lease.as_mut().filter(|l| l.epoch() == epoch) else { return };
        lease.granted(&name, sent);
        if let (Some(until), Db::Primary(prime)) = (lease.until(), &mut node.db)
            && prime.epoch == epoch
        {
            prime.guard = prime.guard.max(until);
        }
    }

    /// A node's own account.
    fn report(&self, i: usize) -> Option<Report> {
        let now = self.now(i);
        let view = self.view(i)?;
        let seen = view.held().map_or(Epoch::ZERO, |_| view.epoch);
        let node = &self.nodes[i];
        let agent = node.agent.as_ref()?;
        let left = if self.is(Mutant::LeaseNotWaitedOut) { Duration::ZERO } else { agent.voter.lease_left(now) };
        let mut data = node.copy;
        if data == Copy::Incomplete && self.is(Mutant::IncompleteCounts) {
            data = Copy::Complete;
        }
        let read = |mut p: trine_protocol::Position| {
            if self.is(Mutant::DataEpochIgnored) {
                p.epoch = Epoch::ZERO;
            }
            p
        };
        let seal = agent.sealed.filter(|(e, _)| agent.voter.promised() >= *e);
        let database = match &node.db {
            Db::Stopped => Database::Stopped,
            Db::Sealed => Database::Sealed,
            Db::Following { epoch, primary } => {
                let there = matches!(&self.nodes[*primary].db, Db::Primary(p) if p.epoch == *epoch);
                Database::Following { epoch: *epoch, streaming: there && self.reached(*primary, i) }
            }
            Db::Primary(p) => Database::Primary { epoch: p.epoch },
        };
        Some(Report {
            promised: agent.voter.promised(),
            seen,
            silence: agent.voter.silence(now),
            seal: seal.map(|(epoch, position)| Seal { epoch, lease_left: left, position: position.map(read) }),
            data,
            database,
            floor: position_of(&node.log).epoch.max(BEFORE),
            position: (data == Copy::Complete).then(|| position_of(&node.log)),
            replay_lag: 0,
            failed: agent.failed.clone(),
            yielded: agent.yielded.filter(|_| matches!(node.db, Db::Stopped)),
            needs: needs(agent),
            standbys: self.senders(i),
            reaches: self.reaches(i),
        })
    }

    /// Whom a primary sends its log to.
    fn senders(&self, i: usize) -> std::collections::BTreeMap<trine_protocol::NodeName, trine_protocol::Position> {
        let Db::Primary(p) = &self.nodes[i].db else { return std::collections::BTreeMap::new() };
        let follows = |n: &usize| {
            matches!(&self.nodes[*n].db, Db::Following { epoch, primary } if *primary == i && *epoch == p.epoch)
                && self.reached(i, *n)
        };
        let all = (0..self.nodes.len()).filter(follows);
        all.map(|n| (self.nodes[n].name.clone(), position_of(&self.nodes[n].log))).collect()
    }

    /// To whose databases a standby that follows and does not stream gets a connection.
    fn reaches(&self, i: usize) -> std::collections::BTreeSet<trine_protocol::NodeName> {
        let Db::Following { epoch, primary } = &self.nodes[i].db else { return std::collections::BTreeSet::new() };
        let there = matches!(&self.nodes[*primary].db, Db::Primary(p) if p.epoch == *epoch);
        if there && self.reached(*primary, i) {
            return std::collections::BTreeSet::new();
        }
        let runs = |k: &usize| *k != i && self.nodes[*k].db != Db::Stopped && self.reached(*k, i);
        (0..self.nodes.len()).filter(runs).map(|k| self.nodes[k].name.clone()).collect()
    }

    pub(super) fn tell(&mut self, from: usize, to: usize) {
        if let Some(report) = self.report(from).filter(|_| self.moves(from)) {
            self.send(Message::Report { from, to, report: Box::new(report) });
        }
    }

    /// A standby says how far it has the log durably.
    pub(super) fn acknowledge(&mut self, i: usize) {
        let before_flush = self.is(Mutant::AcksBeforeFlush);
        let node = &self.nodes[i];
        if let Db::Following { epoch, primary } = &node.db {
            let length = if before_flush { node.log.len() } else { node.flushed };
            let ack = Message::Ack { from: i, to: *primary, epoch: *epoch, length };
            if self.reached(*primary, i) {
                self.send(ack);
            }
        }
    }

    /// Entries cross the stream, if there is one.
    pub(super) fn replicate(&mut self, i: usize, count: usize) {
        let Db::Following { epoch, primary } = self.nodes[i].db else { return };
        let Db::Primary(prime) = &self.nodes[primary].db else { return };
        if prime.epoch != epoch || !self.reached(primary, i) {
            return;
        }
        let (have, upto) = (self.nodes[i].log.len(), self.nodes[primary].flushed);
        let new: Vec<_> = self.nodes[primary].log[..upto].iter().skip(have).take(count).copied().collect();
        self.nodes[i].log.extend(new);
        if self.is(Mutant::AcksBeforeFlush) {
            self.acknowledge(i);
        }
    }

    pub(super) fn flush(&mut self, i: usize) {
        if self.nodes[i].db != Db::Stopped {
            self.nodes[i].flushed = self.nodes[i].log.len();
            self.acknowledge(i);
            self.advance_acknowledged(i);
        }
    }

    pub(super) fn deliver(&mut self, message: Message) {
        let reach = |from: usize, to: usize| !self.cut.contains(&(from, to));
        let frozen = match &message {
            Message::Propose { .. } | Message::Ack { .. } => None,
            Message::Renew { to, .. }
            | Message::Granted { to, .. }
            | Message::Release { to, .. }
            | Message::Report { to, .. } => Some(*to).filter(|to| self.frozen.contains(to)),
        };
        if frozen.is_some() {
            // It is read when the agent goes on, if it ever does.
            self.held_up.push(message);
            let oldest = self.held_up.len().saturating_sub(HELD_UP);
            self.held_up.drain(..oldest);
            return;
        }
        match message {
            Message::Propose { by, change } if (0..self.nodes.len()).any(|i| self.has_quorum(i)) => {
                self.commit_command(by, *change);
            }
            Message::Renew { from, to, epoch, sent } if reach(from, to) => {
                let now = self.now(to);
                let sent = if self.is(Mutant::LeaseFromTheAnswer) { None } else { Some(sent) };
                let Some(agent) = self.nodes[to].agent.as_mut() else { return };
                let grant = agent.voter.renew(epoch, now, Duration::from_millis(LEASE_MS));
                let sent = sent.unwrap_or(trine_protocol::Moment::ZERO);
                self.send(Message::Granted { from: to, to: from, epoch, sent, grant });
            }
            Message::Granted { from, to, epoch, sent, grant } if reach(from, to) && grant == Grant::Granted => {
                let sent = if self.is(Mutant::LeaseFromTheAnswer) { self.now(to) } else { sent };
                self.granted(to, from, epoch, sent);
            }
            Message::Release { from, to, epoch } if reach(from, to) => {
                let now = self.now(to);
                if let Some(agent) = &mut self.nodes[to].agent {
                    agent.voter.release(epoch, now);
                }
            }
            Message::Report { from, to, report } if reach(from, to) => {
                let at = self.now(to);
                let name = self.nodes[from].name.clone();
                if let Some(agent) = &mut self.nodes[to].agent {
                    agent.heard.insert(name, Heard { report: *report, at });
                }
            }
            Message::Ack { from, to, epoch, length } if reach(from, to) => {
                if let Db::Primary(prime) = &mut self.nodes[to].db
                    && prime.epoch == epoch
                {
                    prime.acks[from] = prime.acks[from].max(length);
                    self.advance_acknowledged(to);
                }
            }
            _ => {}
        }
    }
}

fn needs(agent: &Agent) -> Option<Repair> {
    agent.needs.or(agent.work.map(|w| w.repair))
}
