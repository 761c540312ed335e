//! A small cluster, and every order in which things can happen to it.
//!
//! What is decided is decided by `trine-protocol` itself: how a command changes the replicated state, who wins an
//! election, what a node's goal is, when it must fence itself, what a voter grants and how long a lease lasts. The model adds
//! what is around it: a sequence of commands for consensus, a log for a database, agents that take one small step towards
//! their goal at a time, and whatever can go wrong.
//!
//! The network is not modelled, but for leases: a message that is late is a step that is not taken yet, and one that is lost a
//! step that is never taken. Nor is the controller's judgement, but for the question whether a cluster comes back: an epoch
//! may begin at any time, and a rule may change to any other. So nothing that holds here rests on who suspects whom, and when.
#![allow(clippy::indexing_slicing, reason = "nodes are numbered from 0 to their count; a panic is a failed search")]

mod action;
mod agent;
mod check;
mod consensus;
mod database;
mod lease;
mod log;
mod recovery;
mod scope;
mod scopes;
mod search;
mod state;

use stateright::{Model, Property};
use trine_protocol::{Copy, NodeName};

use state::Db;

pub use action::Action;
pub use lease::Message;
pub use scope::{Budget, Mutant, Scope};
pub use scopes::{CLOCK_BEYOND_ITS_BOUND, DEEP, SCOPES, scope};
pub use search::{Found, search};
pub use state::{Broken, Proposal, Rule, State};

/// A cluster, as far as it does not change.
#[derive(Clone, Debug)]
pub struct Cluster {
    scope: Scope,
    names: Vec<NodeName>,
}

impl Cluster {
    /// A healthy cluster that its first node leads, and that this may happen to.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        const NAMES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
        let names = NAMES.iter().take(scope.nodes).filter_map(|n| n.parse().ok()).collect();
        Self { scope, names }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.scope.mutant == mutant
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..self.names.len()
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.healthy()]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        if s.broken.is_some() {
            return;
        }
        let left = &s.left;
        let mut may = |there_is: bool, action: Action| {
            if there_is {
                actions.push(action);
            }
        };
        // What could not happen is not even tried: most of the work is to copy states.
        let held = s.latest().held();
        for i in self.all() {
            let node = &s.nodes[i];
            let runs = node.agent.is_some();
            may(runs && node.view + 1 < s.history.len(), Action::See(i));
            may(runs, Action::Step(i));
            may(self.can_tell(s, i), Action::Tell(i));
            may(left.writes > 0 && self.can_write(s, i), Action::Write(i));
            may(self.can_receive(s, i), Action::Receive(i));
            may(node.flushed < node.log.len(), Action::Flush(i));
            may(runs && left.crashes > 0, Action::Crash(i, false));
            may(runs && left.crashes > 0 && node.flushed < node.log.len(), Action::Crash(i, true));
            may(!runs, Action::Start(i, false));
            may(!runs && node.view > 0, Action::Start(i, true));
            may(runs && left.agents > 0, Action::RestartAgent(i));
            may(left.databases > 0 && node.db != Db::Stopped, Action::StopDatabase(i));
            may(left.losses > 0 && node.copy != Copy::Missing, Action::Lose(i));
            may(left.tears > 0 && node.copy != Copy::Missing, Action::Tear(i));
            may(left.wipes > 0, Action::Wipe(i));
            may(left.switchovers > 0, Action::Leave(i));
            may(left.rebuilds > 0, Action::Rebuild(i));
            may(left.renewals > 0 && self.can_renew(s, i), Action::Renew(i));
            may(held.is_none() && s.told[i].is_some(), Action::Elect(i));
            let leaves_out = left.left_out > 0 && held.is_none() && s.told[i].is_some();
            self.all().filter(|out| *out != i).for_each(|out| may(leaves_out, Action::ElectWithout(i, out)));
        }
        s.proposals.iter().for_each(|p| may(true, Action::Commit(*p)));
        may(left.epochs > 0 && held.is_some(), Action::Begin);
        may(left.gambles > 0, Action::Gamble);
        if left.rules > 0 {
            self.other_rules(s).for_each(|rule| may(true, Action::ChangeRule(rule)));
        }
        s.messages.iter().for_each(|m| may(true, Action::Deliver(*m)));
        may(left.waits > 0, Action::WaitForDeadline);
        may(left.waits > 0, Action::WaitHalf);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        let happens = match action {
            Action::See(i) => {
                s.nodes[i].view += 1;
                true
            }
            Action::Step(i) => {
                self.step(&mut s, i);
                true
            }
            Action::Tell(i) => {
                self.tell(&mut s, i);
                true
            }
            Action::Commit(p) => self.commit_proposal(&mut s, p),
            Action::Begin => self.begin(&mut s),
            Action::Gamble => self.gamble(&mut s),
            Action::Elect(i) => self.elect(&mut s, i, None),
            Action::ElectWithout(i, out) => {
                s.left.left_out -= 1;
                self.elect(&mut s, i, Some(out))
            }
            Action::ChangeRule(rule) => self.change_rule(&mut s, rule),
            Action::Leave(to) => self.start_switchover(&mut s, to),
            Action::Rebuild(i) => self.ask_rebuild(&mut s, i),
            Action::Write(i) => {
                self.write(&mut s, i);
                true
            }
            Action::Receive(i) => {
                self.receive(&mut s, i);
                true
            }
            Action::Flush(i) => {
                self.flush(&mut s, i);
                true
            }
            Action::Crash(i, keeps) => {
                s.left.crashes -= 1;
                self.crash(&mut s, i, keeps);
                true
            }
            Action::Start(i, back) => {
                self.start(&mut s, i, back);
                true
            }
            Action::RestartAgent(i) => {
                s.left.agents -= 1;
                s.nodes[i].agent = None;
                self.start(&mut s, i, false);
                true
            }
            Action::StopDatabase(i) => {
                s.left.databases -= 1;
                s.nodes[i].db = Db::Stopped;
                true
            }
            Action::Lose(i) => {
                s.left.losses -= 1;
                self.lose(&mut s, i, false)
            }
            Action::Tear(i) => {
                s.left.tears -= 1;
                self.lose(&mut s, i, true)
            }
            Action::Wipe(i) => {
                s.left.wipes -= 1;
                self.wipe(&mut s, i);
                true
            }
            Action::Renew(i) => {
                self.renew(&mut s, i);
                true
            }
            Action::Deliver(message) => {
                self.deliver(&mut s, message);
                true
            }
            Action::WaitForDeadline => self.wait_for_deadline(&mut s),
            Action::WaitHalf => self.wait_half(&mut s),
        };
        if !happens {
            return None;
        }
        self.check(&mut s);
        self.tidy(&mut s);
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::<Self>::always(LOST, |_, s| s.broken != Some(Broken::Lost)),
            Property::<Self>::always(CONTRADICTED, |_, s| s.broken != Some(Broken::Contradicted)),
            Property::<Self>::always(TWO_PRIMARIES, |_, s| s.broken != Some(Broken::TwoPrimaries)),
            Property::<Self>::always(TWO_SERVE, |_, s| s.broken != Some(Broken::TwoServe)),
            Property::<Self>::always(STALE_READ, |_, s| s.broken != Some(Broken::StaleRead)),
        ];
        if self.scope.budget.epochs > 0 {
            all.push(Property::<Self>::sometimes(GOES_ON, |_, s| s.committed.epoch() > consensus::FIRST));
        }
        if self.scope.recovery {
            all.push(Property::<Self>::always(COMES_BACK, Self::comes_back));
        }
        all
    }
}

/// The search is not empty: in a later epoch something is acknowledged.
pub const GOES_ON: &str = "a later epoch acknowledges";
/// Every acknowledged entry is in every later epoch's primary.
pub const LOST: &str = "nothing acknowledged is lost";
/// What is acknowledged is one log.
pub const CONTRADICTED: &str = "what is acknowledged is one log";
/// An epoch has one primary.
pub const TWO_PRIMARIES: &str = "an epoch has one primary";
/// Never two that serve.
pub const TWO_SERVE: &str = "at most one node serves";
/// A read at a node that serves has all that was acknowledged.
pub const STALE_READ: &str = "a read is never stale";
/// A majority with a copy that proves everything gets a primary, opens and acknowledges a write.
pub const COMES_BACK: &str = "a healthy majority comes back";
