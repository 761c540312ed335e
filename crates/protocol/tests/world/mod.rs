//! A small world that drives the real rules: machines with clocks of their own, logs, messages in flight, faults.
//!
//! Only three things are modelled: consensus as one sequence of commands, the database as a log, and the network as a
//! set of messages that arrive in any order. What a node does about them is what the agent does, one small step at a time.

mod actions;
mod agent;
mod check;
mod messages;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use trine_protocol::{
    Change, ClusterState, Command, Copy, Epoch, Lease, Member, Moment, NodeName, Outcome, Reign, Settings, Wish,
};

#[allow(unused_imports, reason = "each of the tests uses its part of the world")]
pub(crate) use types::{Action, Clock, History, Mutant, Point, Setup, action, setup};
use types::{Db, Entry, GRACE_MS, LEASE_MS, Message, Node, Prime, ROUND_MS, SUSPECT_MS, position_of};

/// All of it.
pub(crate) struct World {
    setup: Setup,
    /// True time, in nanoseconds.
    t: u64,
    nodes: Vec<Node>,
    /// The replicated state after each command.
    states: Vec<ClusterState>,
    messages: Vec<Message>,
    /// Those that are held up.
    held_up: Vec<Message>,
    /// Links that are cut, by direction.
    cut: BTreeSet<(usize, usize)>,
    /// Databases that can't be reached from elsewhere; their agents can.
    unreached: BTreeSet<usize>,
    /// Agents that stand still.
    frozen: BTreeSet<usize>,
    next_entry: u32,
    /// The longest prefix of the log that was acknowledged, or that a client may have seen.
    committed: Vec<Entry>,
    /// What each primary had when it was promoted.
    bases: BTreeMap<Epoch, Vec<Entry>>,
    /// Epochs that have opened: only in those has a client been told or shown anything.
    opened: BTreeSet<Epoch>,
    /// Epochs for which a person accepted loss.
    lossy: BTreeSet<Epoch>,
    violations: Vec<String>,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let names: Vec<NodeName> = (1..=setup.clocks.len()).map(|i| format!("n{i}").parse().unwrap()).collect();
        let members = names.iter().zip(&setup.priorities).map(|(n, priority)| {
            let member = Member { zone: n.to_string(), address: String::new(), voter: true, priority: *priority };
            (n.clone(), member)
        });
        let settings = Settings {
            lease_ms: LEASE_MS,
            suspect_ms: SUSPECT_MS,
            grace_ms: GRACE_MS,
            acks: setup.acks,
            durability: setup.durability,
            ..Settings::default()
        };
        let create = Change::Create {
            cluster: "small".to_owned(),
            cluster_id: "1".to_owned(),
            engine: "log".to_owned(),
            settings,
            members: members.collect(),
            seed: names[0].clone(),
        };
        let mut state = ClusterState::default();
        let outcome = state.apply(&Command { by: names[0].clone(), at_ms: 0, change: create });
        assert!(matches!(outcome, Outcome::Applied(_)));
        let node = |(name, clock): (&NodeName, &types::Clock)| Node {
            name: name.clone(),
            clock: *clock,
            promise: Epoch::ZERO,
            log: Vec::new(),
            flushed: 0,
            copy: Copy::Missing,
            joined: Some(0),
            seen: 0,
            db: Db::Stopped,
            agent: None,
        };
        let nodes: Vec<Node> = names.iter().zip(&setup.clocks).map(node).collect();
        let mut world = Self {
            t: 10_000_000_000,
            nodes,
            states: vec![state],
            messages: Vec::new(),
            held_up: Vec::new(),
            cut: BTreeSet::new(),
            unreached: BTreeSet::new(),
            frozen: BTreeSet::new(),
            next_entry: 0,
            committed: Vec::new(),
            bases: BTreeMap::new(),
            opened: BTreeSet::new(),
            lossy: BTreeSet::new(),
            violations: Vec::new(),
            setup,
        };
        for i in 0..world.nodes.len() {
            world.start(i, 0);
        }
        world
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.setup.mutant == mutant
    }

    fn latest(&self) -> &ClusterState {
        self.states.last().unwrap()
    }

    fn now(&self, i: usize) -> Moment {
        self.nodes[i].clock.at(self.t)
    }

    /// The replicated state.
    #[allow(dead_code, reason = "each of the tests uses its part of the world")]
    pub(crate) fn state(&self) -> &ClusterState {
        self.latest()
    }

    /// How many entries were acknowledged, or may have been seen.
    #[allow(dead_code, reason = "each of the tests uses its part of the world")]
    pub(crate) fn told(&self) -> usize {
        self.committed.len()
    }

    /// What this node has applied of the replicated state.
    fn view(&self, i: usize) -> Option<&ClusterState> {
        let node = &self.nodes[i];
        node.joined?;
        self.states.get(node.agent.as_ref()?.view)
    }

    fn index(&self, name: &NodeName) -> usize {
        self.nodes.iter().position(|n| n.name == *name).unwrap()
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        a == b || !(self.cut.contains(&(a, b)) || self.cut.contains(&(b, a)))
    }

    /// Can `i` take the log, or the data, of `from`?
    fn reached(&self, from: usize, i: usize) -> bool {
        self.linked(i, from) && (i == from || !self.unreached.contains(&from))
    }

    /// Does its agent do anything?
    fn moves(&self, i: usize) -> bool {
        self.nodes[i].agent.is_some() && !self.frozen.contains(&i)
    }

    /// Is this node in touch with a majority of running voters?
    fn has_quorum(&self, i: usize) -> bool {
        let votes = |j: usize| self.moves(j) && self.nodes[j].joined.is_some();
        let others = (0..self.nodes.len()).filter(|j| *j != i && votes(*j) && self.linked(i, *j)).count();
        self.moves(i) && others + usize::from(votes(i)) > self.nodes.len() / 2
    }

    fn propose(&mut self, by: usize, change: Change) {
        self.send(Message::Propose { by, change: Box::new(change) });
    }

    /// A command takes its place in the one sequence.
    fn commit_command(&mut self, by: usize, change: Change) {
        let mut state = self.latest().clone();
        let before = state.clone();
        let change = match change {
            Change::RuleRuns { epoch, rule, .. } if self.is(Mutant::StaleRuleRuns) => {
                let number = state.held().map_or(0, |h| h.changes);
                Change::RuleRuns { epoch, rule, number }
            }
            other => other,
        };
        let lossy = match &change {
            Change::BeginEpoch { epoch, accept_loss: true, .. } => Some(*epoch),
            _ => None,
        };
        let guarding_changes = matches!(change, Change::BeginEpoch { .. });
        let rule_changes = matches!(change, Change::ChangeRule { .. });
        let command = Command { by: self.nodes[by].name.clone(), at_ms: 0, change };
        if !matches!(state.apply(&command), Outcome::Applied(_)) {
            return;
        }
        state.events.clear();
        if guarding_changes && self.is(Mutant::GuardingForgotten) {
            // The epoch before was to answer for those before it, as soon as it had its primary.
            if let Reign::Held(held) = &before.reign {
                state.guarding = std::iter::once(held.rule.clone()).chain(held.pending.clone()).collect();
            }
        }
        if rule_changes
            && self.is(Mutant::OldRuleDroppedAtOnce)
            && let Reign::Held(held) = &mut state.reign
        {
            held.rule = held.target().clone();
            let last = held.rule.clone();
            held.pending = vec![last];
        }
        self.lossy.extend(lossy);
        self.opened.extend(state.held().filter(|h| h.opened).map(|_| state.epoch));
        self.check_command(&before, &state);
        self.states.push(state);
    }

    /// Runs the whole history, and then, if asked, sees that the cluster comes back.
    pub(crate) fn run(&mut self, history: &History) -> Result<(), String> {
        for action in &history.0 {
            if std::env::var_os("TRACE").is_some() {
                eprintln!("{}---- {action:?}", self.story());
            }
            self.act(action);
            self.verdict()?;
        }
        Ok(())
    }

    fn verdict(&mut self) -> Result<(), String> {
        self.check();
        self.violations.first().cloned().map_or(Ok(()), Err)
    }

    /// No more faults, but for nodes that stay away for good: a minority. The cluster must be open again, if its data is
    /// there, and clients' writes must be acknowledged.
    pub(crate) fn recovers(&mut self, away: &BTreeSet<usize>) -> Result<(), String> {
        self.cut.clear();
        self.unreached.clear();
        self.frozen.clear();
        for i in 0..self.nodes.len() {
            if away.contains(&i) {
                self.crash(i, 0);
            } else if self.nodes[i].agent.is_none() {
                self.start(i, 0);
            }
        }
        // What was said or proposed before is no news any more.
        self.deliver_all();
        self.advance(600);
        if !self.is_recoverable(away) {
            return Ok(());
        }
        let goal = self.committed.len();
        for _ in 0..1200 {
            self.round();
            self.verdict()?;
            if self.is_recovered(away, goal) {
                return Ok(());
            }
        }
        Err(format!("it does not come back without {away:?}: {}", self.story()))
    }

    /// Is a majority there, with a copy that proves everything?
    fn is_recoverable(&self, away: &BTreeSet<usize>) -> bool {
        let here = |i: &usize| !away.contains(i) && self.nodes[*i].joined.is_some();
        if (0..self.nodes.len()).filter(here).count() <= self.nodes.len() / 2 {
            return false;
        }
        let state = self.latest();
        if state.is_virgin() {
            return !away.contains(&0);
        }
        let whole = (0..self.nodes.len()).filter(here).filter(|i| self.nodes[*i].copy == Copy::Complete);
        let whole: BTreeSet<NodeName> = whole.map(|i| self.nodes[i].name.clone()).collect();
        !whole.is_empty() && state.rules_in_force().iter().all(|rule| rule.is_safe(&whole))
    }

    fn is_recovered(&self, away: &BTreeSet<usize>, committed: usize) -> bool {
        let state = self.latest();
        let Some(held) = state.held().filter(|h| h.opened && !h.interim) else { return false };
        let follows = |i: usize| matches!(&self.nodes[i].db, Db::Following { epoch, .. } if *epoch == state.epoch);
        let all = (0..self.nodes.len())
            .filter(|i| !away.contains(i) && self.nodes[*i].name != held.primary)
            .all(|i| self.nodes[i].copy == Copy::Complete && follows(i));
        let writes = self.committed.last().is_some_and(|e| e.epoch == state.epoch && !e.barrier);
        let idle = match &state.wish {
            None => true,
            Some((_, Wish::Rebuild { node })) => away.contains(&self.index(node)),
            Some(_) => false,
        };
        all && writes && idle && self.committed.len() > committed
    }

    /// Where everything stands, for a person.
    pub(crate) fn story(&self) -> String {
        let mut text = format!("state: {:?}\n", self.latest());
        for node in &self.nodes {
            text += &format!(
                "{}: {:?}, {} of {} flushed ({:?}), promise {:?}, {:?}, agent: {:?}\n",
                node.name,
                node.copy,
                node.flushed,
                node.log.len(),
                position_of(&node.log),
                node.promise,
                node.db,
                node.agent.as_ref().map(|a| (a.view, a.sealed, &a.failed, a.yielded, a.needs, a.work, &a.lease)),
            );
        }
        text
    }
}
