//! The replicated state: what consensus keeps, and how each command changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::command::{Change, Command, Event, EventKind, Evidence, Member, Settings, Wish};
use crate::{Epoch, NodeName, Position, SyncRule};

/// How many of the latest events are kept in the state itself.
const EVENTS_KEPT: usize = 1000;

/// How many of the latest wishes are.
const WISHES_KEPT: usize = 20;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It holds now; a wish has this number.
    Applied(u64),
    /// It does not fit the state any more, or never did; nothing changed.
    Refused(String),
}

/// The small state that every voter has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster's name; empty before [`Change::Create`].
    pub cluster: String,
    /// Its identity.
    pub cluster_id: String,
    /// `postgres`, …
    pub engine: String,
    /// How often its consensus group was reformed by a person. Of two groups, the one with the smaller number is over.
    pub generation: u64,
    /// How it behaves.
    pub settings: Settings,
    /// Its nodes.
    pub members: BTreeMap<NodeName, Member>,
    /// The nodes that voted when the present epoch got its primary: they grant its lease, and their promises end it, so a
    /// change of the voters waits for the next epoch. (A primary that counts a majority of the voters before, and an election
    /// that counts one of those after, need not meet.) Empty: those that vote now.
    #[serde(default)]
    pub electorate: BTreeSet<NodeName>,
    /// The node that has, or makes, the first copy of the data.
    pub seed: Option<NodeName>,
    /// The epoch that it is in.
    pub epoch: Epoch,
    /// Who holds it.
    pub reign: Reign,
    /// An epoch has had a primary.
    pub begun: bool,
    /// Rules of earlier epochs under which there may be acknowledged commits that this epoch's barrier has not yet
    /// carried to its own rule.
    pub guarding: Vec<SyncRule>,
    /// Why automatic repair is paused.
    pub paused: Option<String>,
    /// What a person has asked for and has not ended.
    pub wish: Option<(u64, Wish)>,
    /// The number of the latest wish.
    pub wishes: u64,
    /// The latest wishes and what became of them, oldest first.
    pub asked: VecDeque<Asked>,
    /// What a person should look at.
    pub alarms: BTreeMap<String, String>,
    /// The latest events, oldest first.
    pub events: VecDeque<Event>,
    /// The number of the latest event.
    pub last_event: u64,
}

/// A wish and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asked {
    /// Its number.
    pub number: u64,
    /// What was asked for.
    pub wish: Wish,
    /// `None`: not yet.
    pub outcome: Option<Result<(), String>>,
}

/// Who holds the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reign {
    /// Nobody yet: all seal.
    Vacant {
        /// Why the epoch began.
        because: String,
        /// Who should win among equals.
        prefer: Option<NodeName>,
        /// A person accepts that acknowledged data may be lost.
        accept_loss: bool,
        /// Whose copy is left out of the election: what the others have must be safe without it.
        #[serde(default)]
        without: Option<NodeName>,
    },
    /// A primary.
    Held(Held),
}

impl Default for Reign {
    fn default() -> Self {
        Self::Vacant { because: "the cluster is new".to_owned(), prefer: None, accept_loss: false, without: None }
    }
}

/// An epoch with its primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// The node.
    pub primary: NodeName,
    /// The rule that the engine is known to run, or began with.
    pub rule: SyncRule,
    /// Rules that it may run by now, oldest first; the last is the one that it should run.
    pub pending: Vec<SyncRule>,
    /// How often the rule was to change in this epoch: the number of the latest change.
    #[serde(default)]
    pub changes: u64,
    /// A commit has passed through the whole rule.
    pub opened: bool,
    /// It only hands its data on.
    pub interim: bool,
    /// It is leaving, to this node.
    pub leaving: Option<NodeName>,
    /// How far its data reached when it was elected. It may have lost some of that since, and not know it.
    #[serde(default)]
    pub elected_at: Position,
}

impl Asked {
    /// What was asked for, in words.
    #[must_use]
    pub fn text(&self) -> String {
        describe_wish(&self.wish)
    }
}

impl Held {
    /// The rule that the engine should run.
    #[must_use]
    pub fn target(&self) -> &SyncRule {
        self.pending.last().unwrap_or(&self.rule)
    }
}

impl ClusterState {
    /// The epoch's primary.
    #[must_use]
    pub fn primary(&self) -> Option<&NodeName> {
        self.held().map(|h| &h.primary)
    }

    /// The epoch's holder.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        match &self.reign {
            Reign::Held(h) => Some(h),
            Reign::Vacant { .. } => None,
        }
    }

    /// May clients write at the primary?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.held().is_some_and(|h| h.opened && !h.interim)
    }

    /// The nodes whose votes count for the lease of this epoch, and for the election of the next.
    pub fn voters(&self) -> impl Iterator<Item = &NodeName> {
        let votes = |(n, m): &(&NodeName, &Member)| {
            if self.electorate.is_empty() { m.voter } else { self.electorate.contains(*n) }
        };
        self.members.iter().filter(votes).map(|(n, _)| n)
    }

    /// The nodes that are to vote from the next primary on.
    pub fn voters_to_be(&self) -> impl Iterator<Item = &NodeName> {
        self.members.iter().filter(|(_, m)| m.voter).map(|(n, _)| n)
    }

    /// Has no epoch ever had a primary? Then the seed's copy, if it is missing, was never there.
    #[must_use]
    pub fn is_virgin(&self) -> bool {
        !self.begun
    }

    /// How many voters a decision needs.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Every rule under which a commit may have been acknowledged: a safe election is safe under all of them.
    #[must_use]
    pub fn rules_in_force(&self) -> BTreeSet<&SyncRule> {
        let held = self.held().into_iter().flat_map(|h| std::iter::once(&h.rule).chain(&h.pending));
        self.guarding.iter().chain(held).collect()
    }

    /// The change that asks for `wish` in this very state, and in none that comes after it.
    #[must_use]
    pub fn asking(&self, wish: Wish) -> Change {
        Change::Ask { wish, epoch: self.epoch, after: self.wishes }
    }

    /// Changes the state. The same commands in the same order give the same state on every node.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        match self.change(&command.by, &command.change) {
            Ok(None) => Outcome::Applied(self.wishes),
            Ok(Some(story)) => {
                self.tell(command, story);
                Outcome::Applied(self.wishes)
            }
            Err(why) => Outcome::Refused(why),
        }
    }

    fn change(&mut self, by: &NodeName, change: &Change) -> Result<Option<Story>, String> {
        match change {
            Change::Create { cluster, cluster_id, engine, settings, members, seed } => {
                if !self.members.is_empty() {
                    return Err("the cluster exists".to_owned());
                }
                if !members.contains_key(seed) {
                    return Err(format!("the seed {seed} is no member"));
                }
                self.cluster.clone_from(cluster);
                self.cluster_id.clone_from(cluster_id);
                self.engine.clone_from(engine);
                self.settings.clone_from(settings);
                self.members.clone_from(members);
                self.seed = Some(seed.clone());
                self.guarding = vec![SyncRule::alone(seed.clone())];
                self.electorate = self.voters_to_be().cloned().collect();
                story(EventKind::Creation, format!("cluster {cluster} created; {seed} has the first copy"))
            }
            Change::Reform { state } => self.reform(by, state),
            Change::Readmit { node } => {
                let member = self.members.get_mut(node).ok_or_else(|| format!("{node} is no member"))?;
                if std::mem::replace(&mut member.voter, true) {
                    return Ok(None);
                }
                story(EventKind::ConfigurationChange, format!("{node} has its vote back"))
            }
            Change::BeginEpoch { from, epoch, because, prefer, accept_loss, without, evidence } => {
                if *from != self.epoch || epoch <= from {
                    return Err(format!("epoch {} is in force, not {from}", self.epoch));
                }
                if let Some(held) = self.held().filter(|h| h.opened) {
                    self.guarding = std::iter::once(&held.rule).chain(&held.pending).cloned().collect();
                }
                // An epoch that never opened has acknowledged and shown nothing, so its own rules guard nothing: whatever
                // was there before is still guarded by the rules of the epoch that did.
                self.epoch = *epoch;
                if matches!(self.wish, Some((_, Wish::Switchover { .. } | Wish::Failover { .. }))) {
                    // This epoch is what was asked for, or has overtaken it.
                    self.wish = None;
                }
                self.reign = Reign::Vacant {
                    because: because.clone(),
                    prefer: prefer.clone(),
                    accept_loss: *accept_loss,
                    without: without.clone(),
                };
                with(EventKind::Failover, format!("epoch {epoch} begins: {because}"), evidence)
            }
            Change::Elect { epoch, primary, rule, interim, position, evidence } => {
                self.current(*epoch)?;
                if self.held().is_some() {
                    return Err(format!("epoch {epoch} has its primary"));
                }
                if !self.members.contains_key(primary) || rule.primary != *primary {
                    return Err(format!("{primary} can't lead with this rule"));
                }
                self.begun = true;
                self.electorate = self.voters_to_be().cloned().collect();
                self.reign = Reign::Held(Held {
                    primary: primary.clone(),
                    rule: rule.clone(),
                    pending: Vec::new(),
                    changes: 0,
                    opened: false,
                    interim: *interim,
                    leaving: None,
                    elected_at: *position,
                });
                let what = if *interim { "hands its data on (priority 0)" } else { "is primary" };
                with(EventKind::Failover, format!("{primary} {what} in epoch {epoch}"), evidence)
            }
            Change::BarrierPassed { epoch } => {
                self.current(*epoch)?;
                let held = self.held_mut()?;
                if held.opened {
                    return Ok(None);
                }
                held.opened = true;
                let text = format!("{} is open: a commit passed through the whole sync rule", held.primary);
                self.guarding.clear();
                self.settle_wishes();
                story(EventKind::Availability, text)
            }
            Change::ChangeRule { epoch, rule, because } => {
                self.current(*epoch)?;
                let known: BTreeSet<&NodeName> = self.members.keys().collect();
                if let Some(stranger) = rule.nodes().find(|n| !known.contains(n)) {
                    return Err(format!("{stranger} is no member"));
                }
                let held = self.held_mut()?;
                if rule.primary != held.primary || rule == held.target() {
                    return Err("nothing to change".to_owned());
                }
                // All of them bind, the last is the one to run; each is kept once, so that they can't pile up.
                held.pending.retain(|r| r != rule);
                held.pending.push(rule.clone());
                held.changes += 1;
                story(EventKind::ConfigurationChange, format!("sync rule to become {rule}: {because}"))
            }
            Change::RuleRuns { epoch, rule, number } => {
                self.current(*epoch)?;
                let held = self.held_mut()?;
                if held.pending.last() != Some(rule) || held.changes != *number {
                    return Err("another rule is to run".to_owned());
                }
                held.rule = rule.clone();
                held.pending.clear();
                story(EventKind::ConfigurationChange, format!("sync rule is {rule}"))
            }
            Change::Ask { wish, epoch, after } => self.ask(wish, *epoch, *after),
            Change::StartSwitchover { epoch, target } => {
                self.current(*epoch)?;
                let held = self.held_mut()?;
                if held.leaving.is_some() {
                    return Err("it is leaving".to_owned());
                }
                held.leaving = Some(target.clone());
                story(EventKind::Failover, format!("switchover from {} to {target} starts", held.primary))
            }
            Change::EndWish { number, outcome } => {
                if self.wish.as_ref().map(|(n, _)| n) != Some(number) {
                    return Err("it has ended".to_owned());
                }
                self.wish = None;
                self.end_wish(*number, outcome.clone());
                if let Reign::Held(h) = &mut self.reign {
                    h.leaving = None;
                }
                match outcome {
                    Ok(()) => story(EventKind::Notification, format!("request {number} is done")),
                    Err(why) => story(EventKind::Notification, format!("request {number} ended without effect: {why}")),
                }
            }
            Change::Pause { reason } => {
                self.paused = Some(reason.clone());
                story(EventKind::Notification, format!("automatic repair is paused: {reason}"))
            }
            Change::Resume => {
                self.paused.take().ok_or("it is not paused")?;
                story(EventKind::Notification, "automatic repair goes on".to_owned())
            }
            Change::RaiseAlarm { alarm, text, evidence } => {
                if self.alarms.get(alarm) == Some(text) {
                    return Ok(None);
                }
                self.alarms.insert(alarm.clone(), text.clone());
                with(EventKind::Failure, text.clone(), evidence)
            }
            Change::ClearAlarm { alarm } => {
                let text = self.alarms.remove(alarm).ok_or("there is no such alarm")?;
                story(EventKind::Notification, format!("over: {text}"))
            }
            Change::Tell { kind, text, evidence } => with(*kind, text.clone(), evidence),
        }
    }

    /// The survivor's state, in which only the survivor votes, and in which a person accepts what the others had.
    fn reform(&mut self, by: &NodeName, state: &ClusterState) -> Result<Option<Story>, String> {
        if !self.members.is_empty() {
            return Err("the cluster exists".to_owned());
        }
        if !state.members.contains_key(by) {
            return Err(format!("{by} is no member"));
        }
        *self = state.clone();
        self.generation += 1;
        for (name, member) in &mut self.members {
            member.voter = name == by;
        }
        self.electorate = self.voters_to_be().cloned().collect();
        self.guarding = self.rules_in_force().into_iter().cloned().collect();
        // An epoch that the lost majority may have begun is skipped; the survivor's promise is above those that it knew.
        self.epoch = Epoch(self.epoch.0 + 100);
        self.wish = None;
        let because = "the majority of the voters is given up by an operator".to_owned();
        self.reign =
            Reign::Vacant { because: because.clone(), prefer: Some(by.clone()), accept_loss: true, without: None };
        story(EventKind::Failover, format!("epoch {} begins: {because}", self.epoch))
    }

    fn ask(&mut self, wish: &Wish, epoch: Epoch, after: u64) -> Result<Option<Story>, String> {
        if after + 1 == self.wishes && self.asked.back().is_some_and(|a| a.wish == *wish) {
            // The same once more: its answer was lost, and it has its number.
            return Ok(None);
        }
        self.current(epoch)?;
        if after != self.wishes {
            return Err(format!("request {} was taken meanwhile: {}", self.wishes, self.latest_wish()));
        }
        if let Some((number, _)) = &self.wish
            && !matches!(wish, Wish::Failover { .. })
        {
            return Err(format!("request {number} has not ended yet"));
        }
        let node = match wish {
            Wish::Switchover { to } | Wish::Failover { to, .. } => to.as_ref(),
            Wish::Rebuild { node } => Some(node),
        };
        if let Some(stranger) = node.filter(|n| !self.members.contains_key(n)) {
            return Err(format!("{stranger} is no member"));
        }
        if let Wish::Switchover { to: Some(to) } = wish
            && self.primary() == Some(to)
        {
            return Err(format!("{to} is the primary"));
        }
        if let Wish::Rebuild { node } = wish
            && self.primary() == Some(node)
        {
            return Err(format!("{node} is the primary; switch over first"));
        }
        self.wishes += 1;
        self.wish = Some((self.wishes, wish.clone()));
        self.asked.push_back(Asked { number: self.wishes, wish: wish.clone(), outcome: None });
        while self.asked.len() > WISHES_KEPT {
            self.asked.pop_front();
        }
        story(EventKind::Notification, format!("request {}: {}", self.wishes, describe_wish(wish)))
    }

    fn latest_wish(&self) -> String {
        self.asked.back().map(Asked::text).unwrap_or_default()
    }

    /// An epoch is open: what was asked of it has happened, or can't happen any more.
    fn settle_wishes(&mut self) {
        if !self.is_open() {
            return;
        }
        let primary = self.primary().cloned();
        let waiting = self.wish.as_ref().map(|(n, _)| *n);
        for asked in self.asked.iter_mut().filter(|a| a.outcome.is_none() && Some(a.number) != waiting) {
            let to = match &asked.wish {
                Wish::Switchover { to } | Wish::Failover { to, .. } => to.as_ref(),
                Wish::Rebuild { .. } => continue,
            };
            asked.outcome = Some(match (to, &primary) {
                (Some(to), Some(primary)) if to != primary => {
                    Err(format!("{primary} is the primary: its data reached further than that of {to}"))
                }
                _ => Ok(()),
            });
        }
    }

    fn end_wish(&mut self, number: u64, outcome: Result<(), String>) {
        if let Some(asked) = self.asked.iter_mut().find(|a| a.number == number) {
            asked.outcome = Some(outcome);
        }
    }

    fn current(&self, epoch: Epoch) -> Result<(), String> {
        if epoch == self.epoch { Ok(()) } else { Err(format!("epoch {} is in force, not {epoch}", self.epoch)) }
    }

    fn held_mut(&mut self) -> Result<&mut Held, String> {
        match &mut self.reign {
            Reign::Held(h) => Ok(h),
            Reign::Vacant { .. } => Err("the epoch has no primary".to_owned()),
        }
    }

    fn tell(&mut self, command: &Command, (kind, text, evidence): Story) {
        self.last_event += 1;
        self.events.push_back(Event {
            number: self.last_event,
            at_ms: command.at_ms,
            kind,
            epoch: self.epoch,
            node: command.by.clone(),
            text,
            evidence,
        });
        while self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
    }
}

type Story = (EventKind, String, Evidence);

#[expect(clippy::unnecessary_wraps, reason = "each arm of `change` ends with it")]
fn story(kind: EventKind, text: String) -> Result<Option<Story>, String> {
    Ok(Some((kind, text, Evidence::new())))
}

#[expect(clippy::unnecessary_wraps, reason = "each arm of `change` ends with it")]
fn with(kind: EventKind, text: String, evidence: &Evidence) -> Result<Option<Story>, String> {
    Ok(Some((kind, text, evidence.clone())))
}

fn describe_wish(wish: &Wish) -> String {
    let to = |to: &Option<NodeName>| to.as_ref().map(|n| format!(" to {n}")).unwrap_or_default();
    match wish {
        Wish::Switchover { to: t } => format!("switchover{}", to(t)),
        Wish::Failover { to: t, accept_loss: false } => format!("failover{}", to(t)),
        Wish::Failover { to: t, accept_loss: true } => format!("failover{} that accepts data loss", to(t)),
        Wish::Rebuild { node } => format!("rebuild {node}"),
    }
}
