//! The databases, their logs, and what can happen to them and to their machines.

use std::time::Duration;

use trine_protocol::{Copy, Epoch, Moment, Voter};

use super::lease::LEASE;
use super::state::{Agent, Db, small};
use super::{Cluster, Mutant, State};

impl Cluster {
    /// Can a client write here: at a primary that is open as far as its node knows? Nobody asks the lease: no promise about
    /// data may rest on it.
    pub(super) fn can_write(&self, s: &State, i: usize) -> bool {
        let Db::Primary(prime) = &s.nodes[i].db else { return false };
        let view = s.view(i);
        s.nodes[i].agent.is_some() && small(view.epoch) == prime.epoch && view.is_open()
    }

    /// A client writes. A primary's log is flushed before it is sent.
    pub(super) fn write(&self, s: &mut State, i: usize) {
        let Db::Primary(prime) = &s.nodes[i].db else { return };
        let epoch = prime.epoch;
        s.left.writes -= 1;
        self.append(s, i, epoch);
    }

    /// Appends an entry, and says how long the log is then.
    pub(super) fn append(&self, s: &mut State, i: usize, epoch: u8) -> u8 {
        let node = &mut s.nodes[i];
        node.log.push(epoch);
        node.flushed = node.log.len();
        self.acknowledge(s, i);
        s.nodes[i].flushed
    }

    /// Is there a stream, and something to cross it?
    pub(super) fn can_receive(&self, s: &State, i: usize) -> bool {
        let Db::Following { epoch, primary } = s.nodes[i].db else { return false };
        let Db::Primary(prime) = &s.nodes[primary].db else { return false };
        let (own, sent) = (&s.nodes[i].log, &s.nodes[primary].log);
        prime.epoch == epoch && own.len() < sent.len() && sent.starts_with(own)
    }

    /// The next entry arrives.
    pub(super) fn receive(&self, s: &mut State, i: usize) {
        let Db::Following { primary, .. } = s.nodes[i].db else { return };
        let have = s.nodes[i].log.len();
        s.nodes[i].log = s.nodes[primary].log.prefix(have + 1);
        if self.is(Mutant::AcksBeforeFlush) {
            self.confirm(s, i, have + 1);
        }
        if !self.scope.clocks.is_empty() {
            // Where it is about leases, a standby flushes what it receives at once: fewer states.
            self.flush(s, i);
        }
    }

    pub(super) fn flush(&self, s: &mut State, i: usize) {
        let length = s.nodes[i].log.len();
        s.nodes[i].flushed = length;
        self.confirm(s, i, length);
    }

    /// A standby tells its primary how far it has the log durably.
    pub(super) fn confirm(&self, s: &mut State, i: usize, length: u8) {
        let Db::Following { epoch, primary } = s.nodes[i].db else { return };
        if let Db::Primary(prime) = &mut s.nodes[primary].db
            && prime.epoch == epoch
        {
            prime.acks[i] = prime.acks[i].max(length);
            self.acknowledge(s, primary);
        }
    }

    /// Everything on this machine ends.
    pub(super) fn crash(&self, s: &mut State, i: usize, keeps: bool) {
        let node = &mut s.nodes[i];
        node.agent = None;
        node.db = Db::Stopped;
        if !keeps {
            node.log = node.log.prefix(node.flushed);
        }
        node.flushed = node.log.len();
        s.messages.retain(|m| m.from() != i && m.to() != i);
    }

    pub(super) fn start(&self, s: &mut State, i: usize, back: bool) {
        let now = self.now(s, i);
        let node = &mut s.nodes[i];
        if back && node.joined {
            node.view = node.view.saturating_sub(1);
        }
        let longest =
            if self.scope.clocks.is_empty() || self.is(Mutant::RestartForgetsLeases) { Duration::ZERO } else { LEASE };
        let promise = node.joined.then_some(Epoch(node.promise.into()));
        let led = match &node.db {
            Db::Primary(prime) if self.is(Mutant::PrimaryRestartedInPlace) => Some(prime.epoch),
            _ => None,
        };
        node.agent = Some(Agent {
            voter: Voter::restored(promise, now, longest),
            lease: None,
            sealed: None,
            led,
            failed: None,
            yielded: None,
            needs: None,
            work: None,
        });
    }

    /// The copy is gone, or the half of it.
    pub(super) fn lose(&self, s: &mut State, i: usize, half: bool) -> bool {
        let node = &mut s.nodes[i];
        if node.copy == Copy::Missing {
            return false;
        }
        node.db = Db::Stopped;
        node.log = node.log.prefix(if half { node.log.len() / 2 } else { 0 });
        node.flushed = node.log.len();
        node.copy = if node.log.len() == 0 { Copy::Missing } else { Copy::Incomplete };
        if let Some(agent) = &mut node.agent {
            agent.needs = None;
            agent.work = None;
            agent.sealed = agent.sealed.map(|(epoch, _)| (epoch, None));
        }
        true
    }

    /// The machine comes back as a new one: it knows nothing, and has to join consensus again.
    pub(super) fn wipe(&self, s: &mut State, i: usize) {
        self.lose(s, i, false);
        self.crash(s, i, false);
        let node = &mut s.nodes[i];
        node.promise = 0;
        node.joined = false;
    }

    /// When a lease ends that never does.
    pub(super) const NEVER: Moment = Moment::from_nanos(u64::MAX);
}
