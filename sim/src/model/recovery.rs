//! Does a majority come back? Here the controller's own judgement counts, and time passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trine_protocol::{Controller, Copy, Database, Epoch, Heard, Moment, NodeName, Report, Seal, Settings};

use super::state::{Db, small};
use super::{Cluster, Mutant, State};

/// A look at everything takes the controller so long.
const ROUND: Duration = Duration::from_millis(100);

/// After so many rounds a cluster counts as stuck: 60 s, twice of what the controller waits at most.
const ROUNDS: u32 = 600;

pub(super) fn settings() -> Settings {
    Settings { grace_ms: 300, ..Settings::default() }
}

impl Cluster {
    /// From this state on nothing fails any more, but for a minority that stays away, whichever it is. If the copies that are
    /// there prove everything, the cluster opens and acknowledges a write.
    pub(super) fn comes_back(&self, s: &State) -> bool {
        if s.broken.is_some() {
            return true;
        }
        let minority = (self.names.len() - 1) / 2;
        let sets = (0..1u32 << self.names.len()).filter(|away| away.count_ones() as usize <= minority);
        sets.into_iter().all(|away| self.comes_back_without(s.clone(), away))
    }

    fn comes_back_without(&self, mut s: State, away: u32) -> bool {
        let here: Vec<usize> = self.all().filter(|i| away & (1 << i) == 0).collect();
        for i in self.all() {
            if !here.contains(&i) {
                self.crash(&mut s, i, false);
            } else if s.nodes[i].agent.is_none() {
                self.start(&mut s, i, false);
            }
        }
        self.commit_all(&mut s);
        for i in &here {
            s.nodes[*i].view = s.history.len() - 1;
            if !s.nodes[*i].joined {
                self.step(&mut s, *i);
            }
        }
        if !self.is_recoverable(&s, &here) {
            return true;
        }
        let mut controller = Controller::default();
        let mut now = Moment::from_nanos(1_000_000_000_000);
        for _ in 0..ROUNDS {
            if self.round(&mut s, &here, &mut controller, now) {
                return true;
            }
            now = now + ROUND;
        }
        false
    }

    /// Everything happens that can. True: a client's write is acknowledged.
    fn round(&self, s: &mut State, here: &[usize], controller: &mut Controller, now: Moment) -> bool {
        s.left.writes = 1;
        let before = s.committed;
        for i in here {
            s.nodes[*i].view = s.history.len() - 1;
            self.step(s, *i);
            self.step(s, *i);
            self.catch_up(s, *i);
        }
        let open = here.iter().copied().find(|i| self.can_write(s, *i));
        if let Some(primary) = open {
            self.write(s, primary);
        }
        here.iter().for_each(|i| self.catch_up(s, *i));
        let heard = |i: &usize| Some((self.names[*i].clone(), Heard { report: self.report(s, *i, here)?, at: now }));
        let heard: BTreeMap<NodeName, Heard> = here.iter().filter_map(heard).collect();
        for change in controller.step(s.latest(), &heard, now) {
            let raised = matches!(&change, trine_protocol::Change::RaiseAlarm { .. });
            if !(raised && self.is(Mutant::NoRebuildWhenStuck)) {
                self.commit_change(s, change);
            }
        }
        self.commit_all(s);
        self.check(s);
        open.is_some() && s.committed.len() > before.len() && s.committed.starts_with(&before)
    }

    fn catch_up(&self, s: &mut State, i: usize) {
        while self.can_receive(s, i) {
            self.receive(s, i);
        }
        self.flush(s, i);
    }

    fn commit_all(&self, s: &mut State) {
        for p in std::mem::take(&mut s.proposals) {
            self.commit_proposal(s, p);
        }
    }

    /// Is a majority there, with copies that prove everything?
    fn is_recoverable(&self, s: &State, here: &[usize]) -> bool {
        let whole = here.iter().filter(|i| s.nodes[**i].copy == Copy::Complete);
        let whole: BTreeSet<NodeName> = whole.map(|i| self.names[*i].clone()).collect();
        !whole.is_empty() && s.latest().rules_in_force().iter().all(|rule| rule.is_safe(&whole))
    }

    /// A node's own account, as the controller gets it.
    fn report(&self, s: &State, i: usize, here: &[usize]) -> Option<Report> {
        let node = &s.nodes[i];
        let agent = node.agent.as_ref()?;
        let view = s.view(i);
        let renews = |p: usize| {
            let epoch = small(view.epoch);
            let asks = |a: &super::state::Agent| {
                a.failed != Some(epoch) && a.yielded != Some(epoch) && small(a.voter.promised()) <= epoch
            };
            here.contains(&p) && s.nodes[p].agent.as_ref().is_some_and(asks)
        };
        let silent = !view.primary().is_some_and(|p| renews(self.index(p)));
        let database = match &node.db {
            Db::Stopped => Database::Stopped,
            Db::Sealed => Database::Sealed,
            Db::Following { epoch, primary } => {
                let streaming = matches!(&s.nodes[*primary].db, Db::Primary(p) if p.epoch == *epoch);
                Database::Following { epoch: Epoch((*epoch).into()), streaming }
            }
            Db::Primary(prime) => Database::Primary { epoch: Epoch(prime.epoch.into()) },
        };
        let sealed = agent.sealed.filter(|(epoch, _)| small(agent.voter.promised()) >= *epoch);
        Some(Report {
            promised: agent.voter.promised(),
            seen: view.held().map_or(Epoch::ZERO, |_| view.epoch),
            silence: if silent { Duration::from_secs(10) } else { Duration::ZERO },
            seal: sealed.map(|(epoch, position)| Seal {
                epoch: Epoch(epoch.into()),
                lease_left: Duration::ZERO,
                position,
            }),
            data: node.copy,
            database,
            floor: Epoch(node.log.epoch().into()),
            position: (node.copy == Copy::Complete).then(|| node.log.position()),
            replay_lag: 0,
            failed: agent.failed.map(|epoch| (Epoch(epoch.into()), String::new())),
            yielded: agent.yielded.filter(|_| node.db == Db::Stopped).map(|epoch| Epoch(epoch.into())),
            needs: agent.needs.or(agent.work.map(|w| w.repair)),
            standbys: self.followers(s, i),
            reaches: BTreeSet::new(),
        })
    }

    fn followers(&self, s: &State, i: usize) -> BTreeMap<NodeName, trine_protocol::Position> {
        let Db::Primary(prime) = &s.nodes[i].db else { return BTreeMap::new() };
        let follows = |n: &usize| matches!(&s.nodes[*n].db, Db::Following { epoch, primary } if *primary == i && *epoch == prime.epoch);
        self.all().filter(follows).map(|n| (self.names[n].clone(), s.nodes[n].log.position())).collect()
    }
}
