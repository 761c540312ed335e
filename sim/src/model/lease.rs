//! Leases, and the time that passes: only in a scope that has clocks.

use std::time::Duration;

use trine_protocol::{Epoch, Grant, Lease, Moment};

use super::state::{Db, small};
use super::{Cluster, State};

/// How long a lease is.
pub(super) const LEASE: Duration = Duration::from_millis(1);

/// The true time at which a search begins, in nanoseconds since some machine's boot.
pub(super) const BEGINNING: u64 = 100_000_000;

/// A message about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// A primary's node asks.
    Renew {
        /// Who asks.
        from: usize,
        /// Whom.
        to: usize,
        /// For which epoch.
        epoch: u8,
        /// When, by its own clock.
        sent: Moment,
    },
    /// The answer is yes.
    Granted {
        /// Who says so.
        from: usize,
        /// To whom.
        to: usize,
        /// For which epoch.
        epoch: u8,
        /// The moment in the question.
        sent: Moment,
    },
    /// A primary has stopped serving.
    Release {
        /// Whose node says so.
        from: usize,
        /// To whom.
        to: usize,
        /// Which epoch's.
        epoch: u8,
    },
}

impl Message {
    pub(super) fn from(self) -> usize {
        match self {
            Self::Renew { from, .. } | Self::Granted { from, .. } | Self::Release { from, .. } => from,
        }
    }

    pub(super) fn to(self) -> usize {
        match self {
            Self::Renew { to, .. } | Self::Granted { to, .. } | Self::Release { to, .. } => to,
        }
    }
}

impl Cluster {
    fn rate(&self, i: usize) -> Option<i128> {
        self.scope.clocks.get(i).map(|ppm| 1_000_000 + i128::from(*ppm))
    }

    /// What a node's clock shows. Without clocks no time passes.
    pub(super) fn now(&self, s: &State, i: usize) -> Moment {
        let shown = self.rate(i).map_or(0, |rate| i128::from(s.t) * rate / 1_000_000);
        Moment::from_nanos(u64::try_from(shown).unwrap_or(u64::MAX))
    }

    /// The true time at which a node's clock shows `moment`.
    fn true_time(&self, i: usize, moment: Moment) -> Option<u64> {
        let rate = self.rate(i)?;
        u64::try_from((i128::from(moment.as_nanos()) * 1_000_000 + rate - 1) / rate).ok()
    }

    /// All voters have granted the first lease at the beginning.
    pub(super) fn first_lease(&self, s: &mut State, epoch: u8) -> Moment {
        if self.scope.clocks.is_empty() {
            return Self::NEVER;
        }
        let sent = self.now(s, 0);
        let mut lease = self.lease(s, epoch);
        for i in self.all() {
            let now = self.now(s, i);
            // Whatever it granted before it started is over by the beginning.
            let promise = Epoch(s.nodes[i].promise.into());
            let Some(agent) = s.agent(i) else { continue };
            agent.voter = trine_protocol::Voter::restored(Some(promise), now, Duration::ZERO);
            if agent.voter.renew(Epoch(epoch.into()), now, LEASE) == Grant::Granted {
                lease.granted(&self.names[i], sent);
            }
        }
        let until = lease.until().unwrap_or(sent);
        if let Some(agent) = s.agent(0) {
            agent.lease = Some(lease);
        }
        until
    }

    fn lease(&self, s: &State, epoch: u8) -> Lease {
        Lease::new(Epoch(epoch.into()), s.latest().majority(), LEASE)
    }

    /// Does this node lead, as far as it knows, and has not given up?
    pub(super) fn can_renew(&self, s: &State, i: usize) -> bool {
        let view = s.view(i);
        let epoch = small(view.epoch);
        let leads = view.held().is_some_and(|h| h.primary == self.names[i]);
        leads
            && s.nodes[i].agent.as_ref().is_some_and(|a| {
                a.yielded != Some(epoch) && a.failed != Some(epoch) && small(a.voter.promised()) <= epoch
            })
    }

    /// The primary's node asks everyone for its lease.
    pub(super) fn renew(&self, s: &mut State, i: usize) {
        s.left.renewals -= 1;
        let now = self.now(s, i);
        let epoch = small(s.view(i).epoch);
        let fresh = self.lease(s, epoch);
        let Some(agent) = s.agent(i) else { return };
        if agent.lease.as_ref().is_none_or(|l| small(l.epoch()) != epoch) {
            agent.lease = Some(fresh);
        }
        if agent.voter.renew(Epoch(epoch.into()), now, LEASE) == Grant::Granted {
            self.granted(s, i, i, epoch, now);
        }
        let others = self.all().filter(|to| *to != i);
        s.messages.extend(others.map(|to| Message::Renew { from: i, to, epoch, sent: now }));
    }

    fn granted(&self, s: &mut State, i: usize, voter: usize, epoch: u8, sent: Moment) {
        let node = &mut s.nodes[i];
        let Some(lease) = node.agent.as_mut().and_then(|a| a.lease.as_mut()) else { return };
        if small(lease.epoch()) != epoch {
            return;
        }
        lease.granted(&self.names[voter], sent);
        if let (Some(until), Db::Primary(prime)) = (lease.until(), &mut node.db)
            && prime.epoch == epoch
        {
            prime.guard = prime.guard.max(until);
        }
    }

    /// The node says that its database has ended.
    pub(super) fn release(&self, s: &mut State, i: usize, epoch: u8) {
        if self.scope.clocks.is_empty() {
            return;
        }
        let now = self.now(s, i);
        if let Some(agent) = s.agent(i) {
            agent.voter.release(Epoch(epoch.into()), now);
        }
        let others = self.all().filter(|to| *to != i);
        s.messages.extend(others.map(|to| Message::Release { from: i, to, epoch }));
    }

    pub(super) fn deliver(&self, s: &mut State, message: Message) {
        s.messages.remove(&message);
        let to = message.to();
        let now = self.now(s, to);
        match message {
            Message::Renew { from, to, epoch, sent } => {
                let Some(agent) = s.agent(to) else { return };
                if agent.voter.renew(Epoch(epoch.into()), now, LEASE) == Grant::Granted {
                    s.messages.insert(Message::Granted { from: to, to: from, epoch, sent });
                }
            }
            Message::Granted { from, to, epoch, sent } => {
                self.granted(s, to, from, epoch, sent);
            }
            Message::Release { to, epoch, .. } => {
                if let Some(agent) = s.agent(to) {
                    agent.voter.release(Epoch(epoch.into()), now);
                }
            }
        }
    }

    /// To the next moment at which something ends: a lease as its holder counts it, one as a voter does, a guard's patience.
    pub(super) fn wait_for_deadline(&self, s: &mut State) -> bool {
        s.left.waits -= 1;
        let of_node = |i: usize| {
            let now = self.now(s, i);
            let node = &s.nodes[i];
            let guard = match &node.db {
                Db::Primary(prime) => Some(prime.guard),
                _ => None,
            };
            let agent = node.agent.as_ref();
            let held = agent.and_then(|a| a.lease.as_ref()).and_then(Lease::until);
            let granted = agent.map(|a| now + a.voter.lease_left(now));
            let all = [guard, held, granted].into_iter().flatten();
            all.filter(move |m| *m > now).filter_map(move |m| self.true_time(i, m))
        };
        let Some(next) = self.all().flat_map(of_node).filter(|t| *t > s.t).min() else { return false };
        self.pass(s, next);
        true
    }

    pub(super) fn wait_half(&self, s: &mut State) -> bool {
        s.left.waits -= 1;
        let half = u64::try_from(LEASE.as_nanos() / 2).unwrap_or(u64::MAX);
        self.pass(s, s.t.saturating_add(half));
        true
    }

    /// The guards need nobody to keep to their time.
    fn pass(&self, s: &mut State, t: u64) {
        s.t = t;
        for i in self.all() {
            let now = self.now(s, i);
            if matches!(&s.nodes[i].db, Db::Primary(prime) if now >= prime.guard) {
                s.nodes[i].db = Db::Stopped;
            }
        }
    }
}
