//! The replicated state as one sequence of commands, and what its controller may propose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use trine_protocol::{
    Change, ClusterState, Command, Copy, Database, Epoch, Evidence, Member, NodeName, Outcome, Position, Reign, Report,
    Seal, Settings, SyncRule, Verdict, Wish, elect, rule_for,
};

use super::log::Log;
use super::state::{Committed, Db, Node, Proposal, Rule, Told, small};
use super::{Cluster, Mutant, State};

/// The first epoch that has a primary: a fresh copy's log is numbered 1 already.
pub(super) const FIRST: u8 = 2;

impl Cluster {
    /// All follow the first node, which is open.
    pub(super) fn healthy(&self) -> State {
        let member = |n: &NodeName| Member { zone: n.to_string(), address: String::new(), voter: true, priority: 100 };
        let members: BTreeMap<NodeName, Member> = self.names.iter().map(|n| (n.clone(), member(n))).collect();
        let settings =
            Settings { acks: self.scope.acks, durability: self.scope.durability, ..super::recovery::settings() };
        let create = Change::Create {
            cluster: "small".to_owned(),
            cluster_id: "1".to_owned(),
            engine: "log".to_owned(),
            settings,
            members,
            seed: self.names[0].clone(),
        };
        let mut state = ClusterState::default();
        let mut apply = |change: Change| {
            let by = self.names[0].clone();
            let outcome = state.apply(&Command { by, at_ms: 0, change });
            assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
            state.clone()
        };
        let created = apply(create);
        let (zero, first) = (Epoch::ZERO, Epoch(FIRST.into()));
        apply(begin_epoch(zero, first, false, None));
        let standbys = self.names[1..].iter().cloned().collect();
        let rule = rule_for(&created, self.names[0].clone(), standbys);
        apply(elect_primary(first, self.names[0].clone(), rule.clone(), Position::default()));
        let mut state = apply(Change::BarrierPassed { epoch: first });
        forget_stories(&mut state);

        let mut log = Log::default();
        log.push(FIRST);
        let node = |i: usize| Node {
            promise: FIRST,
            log,
            flushed: 1,
            copy: Copy::Complete,
            joined: true,
            view: 0,
            db: if i == 0 { Db::Stopped } else { Db::Following { epoch: FIRST, primary: 0 } },
            agent: None,
        };
        let mut s = State {
            history: vec![Committed::new(state.clone())],
            nodes: self.all().map(node).collect(),
            proposals: Default::default(),
            told: Default::default(),
            messages: Default::default(),
            t: super::lease::BEGINNING,
            left: self.scope.budget,
            committed: log,
            bases: Arc::new([(FIRST, Log::default())].into()),
            opened: Default::default(),
            lossy: Default::default(),
            broken: None,
        };
        s.opened.insert(FIRST);
        self.all().for_each(|i| self.start(&mut s, i, false));
        let setting = trine_protocol::sync_setting(&state, &rule);
        self.begin_to_lead(&mut s, FIRST, self.setting(&setting));
        s
    }

    /// A command takes its place in the one sequence. False: it is refused.
    fn commit(&self, s: &mut State, by: usize, change: Change) -> bool {
        let before = s.latest();
        let mut state = before.clone();
        let begins = matches!(change, Change::BeginEpoch { .. });
        let changes_rule = matches!(change, Change::ChangeRule { .. });
        let lossy = match &change {
            Change::BeginEpoch { epoch, accept_loss: true, .. } => Some(small(*epoch)),
            _ => None,
        };
        let command = Command { by: self.names[by].clone(), at_ms: 0, change };
        if !matches!(state.apply(&command), Outcome::Applied(_)) {
            return false;
        }
        if begins
            && self.is(Mutant::GuardingForgotten)
            && let Reign::Held(held) = &before.reign
        {
            state.guarding = std::iter::once(&held.rule).chain(&held.pending).cloned().collect();
        }
        if changes_rule
            && self.is(Mutant::OldRuleDroppedAtOnce)
            && let Reign::Held(held) = &mut state.reign
        {
            held.rule = held.target().clone();
            held.pending = vec![held.rule.clone()];
        }
        forget_stories(&mut state);
        if state == *before {
            return false;
        }
        lossy.into_iter().for_each(|epoch| s.lossy.insert(epoch));
        if state.held().is_some_and(|h| h.opened) {
            s.opened.insert(small(state.epoch));
        }
        s.history.push(Committed::new(state));
        true
    }

    pub(super) fn commit_proposal(&self, s: &mut State, p: Proposal) -> bool {
        s.proposals.remove(&p);
        let (by, change) = match p {
            Proposal::BarrierPassed { by, epoch } => (by, Change::BarrierPassed { epoch: Epoch(epoch.into()) }),
            Proposal::RuleRuns { by, epoch, rule, number } => {
                (by, Change::RuleRuns { epoch: Epoch(epoch.into()), rule: self.full_rule(rule), number })
            }
            Proposal::RebuildDone { by, number } => (by, Change::EndWish { number, outcome: Ok(()) }),
        };
        self.commit(s, by, change)
    }

    /// What the controller says on its own, in [`super::recovery`].
    pub(super) fn commit_change(&self, s: &mut State, change: Change) -> bool {
        self.commit(s, 0, change)
    }

    pub(super) fn begin(&self, s: &mut State) -> bool {
        s.left.epochs -= 1;
        let state = s.latest();
        let Some(held) = state.held() else { return false };
        let change = begin_epoch(state.epoch, state.epoch.next(), false, held.leaving.clone());
        self.commit(s, 0, change)
    }

    pub(super) fn gamble(&self, s: &mut State) -> bool {
        s.left.gambles -= 1;
        let epoch = s.latest().epoch;
        self.commit(s, 0, begin_epoch(epoch, epoch.next(), true, None))
    }

    pub(super) fn start_switchover(&self, s: &mut State, to: usize) -> bool {
        s.left.switchovers -= 1;
        let state = s.latest();
        if !state.is_open() || state.primary() == Some(&self.names[to]) {
            return false;
        }
        let change = Change::StartSwitchover { epoch: state.epoch, target: self.names[to].clone() };
        self.commit(s, 0, change)
    }

    pub(super) fn ask_rebuild(&self, s: &mut State, i: usize) -> bool {
        s.left.rebuilds -= 1;
        let change = s.latest().asking(Wish::Rebuild { node: self.names[i].clone() });
        self.commit(s, i, change)
    }

    /// Every rule that the primary's standbys, or some of them, would have.
    pub(super) fn other_rules(&self, s: &State) -> impl Iterator<Item = Rule> {
        let state = s.latest();
        let sets = if state.held().is_some() { 0..1u32 << self.names.len() } else { 0..0 };
        let mut rules: Vec<Rule> = sets
            .filter_map(|bits| {
                let held = state.held()?;
                let standbys: Vec<usize> = self.all().filter(|i| bits & (1 << i) != 0).collect();
                if standbys.iter().any(|i| self.names[*i] == held.primary) {
                    return None;
                }
                let names = standbys.iter().map(|i| self.names[*i].clone()).collect();
                let rule: SyncRule = rule_for(state, held.primary.clone(), names);
                (rule != *held.target()).then(|| self.rule(&rule))
            })
            .collect();
        rules.sort_unstable();
        rules.dedup();
        rules.into_iter()
    }

    pub(super) fn change_rule(&self, s: &mut State, rule: Rule) -> bool {
        s.left.rules -= 1;
        let change = Change::ChangeRule { epoch: s.latest().epoch, rule: self.full_rule(rule), because: String::new() };
        self.commit(s, 0, change)
    }

    /// Is there a seal of the present epoch to tell of, and an election that waits for it?
    pub(super) fn can_tell(&self, s: &State, i: usize) -> bool {
        let sealed = s.nodes[i].agent.as_ref().and_then(|a| a.sealed);
        sealed.is_some_and(|(epoch, _)| epoch == s.epoch()) && s.latest().held().is_none()
    }

    /// The node's seal of the present epoch, as the controller is told. What counts in an election is all of it.
    pub(super) fn tell(&self, s: &mut State, i: usize) {
        let now = self.now(s, i);
        let node = &s.nodes[i];
        let Some((agent, (epoch, mut position))) = node.agent.as_ref().and_then(|a| Some((a, a.sealed?))) else {
            return;
        };
        if self.is(Mutant::DataEpochIgnored) {
            position.iter_mut().for_each(|p| p.epoch = Epoch::ZERO);
        }
        let copy = match node.copy {
            Copy::Incomplete if self.is(Mutant::IncompleteCounts) => Copy::Complete,
            copy => copy,
        };
        let leases_over = self.is(Mutant::LeaseNotWaitedOut) || agent.voter.lease_left(now).is_zero();
        s.told[i] = Some(Told { epoch, position, copy, leases_over });
    }

    /// The controller elects, if by what it was told it can: among equals this node, since priorities and lags may be any.
    /// `without`: whose copy is left out. Nothing depends on whose that may be, or on when the controller wants it.
    pub(super) fn elect(&self, s: &mut State, among_equals: usize, without: Option<usize>) -> bool {
        let mut state = s.latest().clone();
        let Reign::Vacant { prefer, without: out, .. } = &mut state.reign else { return false };
        *prefer = Some(self.names[among_equals].clone());
        *out = without.map(|i| self.names[i].clone());
        let reports: Vec<(NodeName, Report)> =
            self.all().filter_map(|i| Some((self.names[i].clone(), report_of(s.told[i]?)))).collect();
        let reports = reports.iter().map(|(n, r)| (n.clone(), r)).collect();
        match elect(&state, &reports) {
            Verdict::Elect { primary, rule, position, .. } => {
                let change = elect_primary(state.epoch, primary, rule, position);
                self.commit(s, 0, change)
            }
            Verdict::Wait(_) => false,
        }
    }
}

fn begin_epoch(from: Epoch, epoch: Epoch, accept_loss: bool, prefer: Option<NodeName>) -> Change {
    Change::BeginEpoch {
        from,
        epoch,
        because: String::new(),
        prefer,
        accept_loss,
        without: None,
        evidence: Evidence::new(),
    }
}

fn elect_primary(epoch: Epoch, primary: NodeName, rule: SyncRule, position: Position) -> Change {
    Change::Elect { epoch, primary, rule, interim: false, position, evidence: Evidence::new() }
}

/// What no rule reads: two states that differ only in it are one.
fn forget_stories(state: &mut ClusterState) {
    state.events.clear();
    state.last_event = 0;
    state.asked.clear();
}

/// A report as far as an election reads it.
fn report_of(told: Told) -> Report {
    let epoch = Epoch(told.epoch.into());
    let lease_left = if told.leases_over { Duration::ZERO } else { Duration::from_nanos(1) };
    Report {
        promised: epoch,
        seen: Epoch::ZERO,
        silence: Duration::ZERO,
        seal: Some(Seal { epoch, lease_left, position: told.position }),
        data: told.copy,
        database: Database::Sealed,
        floor: Epoch::ZERO,
        position: told.position,
        replay_lag: 0,
        failed: None,
        yielded: None,
        needs: None,
        standbys: BTreeMap::new(),
        reaches: BTreeSet::new(),
    }
}
