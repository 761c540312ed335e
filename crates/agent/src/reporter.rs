//! Looks at the database and tells the controller, at once when there is news and every 100 ms when there is none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use trine_api::{NodeState, NodeStatus, Progress, Role};
use trine_engine::{Inspection, Process, Role as DatabaseRole};
use trine_platform::plain;
use trine_protocol::{Database, Epoch, Position, Report, Seal};

use crate::digest::{Account, Digest};
use crate::lease::fence;
use crate::node::{Doing, Node, copy_of};

/// How often a node tells that nothing has changed, while something is wrong or under way.
const BEAT: Duration = Duration::from_millis(100);

/// And while all is well. Two of them are within the age at which the controller holds a report for old.
const CALM_BEAT: Duration = Duration::from_millis(200);

/// How often the database is looked at while something is wrong or under way.
const LOOK: Duration = Duration::from_millis(250);

/// And while all is well.
const CALM_LOOK: Duration = Duration::from_millis(500);

/// A primary that has not answered the agent for so long hangs (its disk, most likely): another node should lead.
const HUNG: Duration = Duration::from_secs(4);

/// A standby that has not streamed for so long shows readers a past that they would not expect: longer than the time in
/// which a receiver connects again, and about the default of `sync.grace_ms`.
const READABLE: Duration = Duration::from_secs(5);

/// How long the controller may take to answer.
const ANSWER: Duration = Duration::from_millis(300);

/// Looks at the database for ever.
pub(crate) async fn keep_looking(node: Arc<Node>) {
    loop {
        tokio::select! {
            () = sleep(if is_calm(&node) { CALM_LOOK } else { LOOK }) => {}
            () = node.look.notified() => {}
        }
        let seen = node.inspect().await;
        let leading = node.doing.borrow().leading;
        if let Some(epoch) = leading
            && seen.process == Process::Hung
            && seen.silent > HUNG
        {
            fence(&node, epoch, &format!("its database has not answered for {:.1} s", seen.silent.as_secs_f64()));
        }
    }
}

/// Tells the controller for ever.
pub(crate) async fn keep_reporting(node: Arc<Node>) {
    loop {
        tokio::select! {
            () = sleep(until_news(&node)) => {}
            () = node.tell.notified() => {}
        }
        let leader = node.consensus.leader().borrow().clone();
        let account = account(&node);
        match leader {
            Some(leader) if leader == *node.me() => {
                let digest = node.bureau.take(node.me().clone(), account);
                take_digest(&node, digest);
            }
            Some(leader) => {
                let told: Result<Digest, _> = node.peers.call(&leader, "controller/report", &account, ANSWER).await;
                match told {
                    Ok(digest) => take_digest(&node, digest),
                    Err(error) => {
                        tracing::debug!(%leader, %error, "the controller did not take the report");
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            None => {}
        }
    }
}

/// The epoch is open under a rule that names every standby, nothing is about to change, and this node does its part.
fn is_calm(node: &Node) -> bool {
    let state = node.state();
    let Some(held) = state.held().filter(|h| h.opened && h.leaving.is_none() && h.pending.is_empty()) else {
        return false;
    };
    let complete = held.rule.standbys.len() + 1 >= state.voters().count();
    complete && (node.seen.borrow().streaming || node.serving.epoch().is_some())
}

/// When this node has something to tell next by the mere passing of time.
fn until_news(node: &Node) -> Duration {
    let state = node.state();
    let mut next = if is_calm(node) { CALM_BEAT } else { BEAT };
    // The primary has been silent for too long from then on.
    let suspect = Duration::from_millis(state.settings.suspect_ms);
    let left = suspect.checked_sub(node.desk.silence()).filter(|left| !left.is_zero());
    next = next.min(left.unwrap_or(next));
    // The leases that it has granted are over, which an election waits for.
    let left = node.desk.lease_left();
    if node.doing.borrow().sealed.is_some() && !left.is_zero() {
        next = next.min(left);
    }
    next
}

fn take_digest(node: &Node, mut digest: Digest) {
    let now = node.clock.now();
    digest.at = Some(now);
    let primary = node.state().primary().cloned();
    let positions = digest.accounts.iter().filter_map(|(name, a)| Some((name, a.report.position?)));
    node.known().hear(primary.as_ref(), positions, now);
    node.digest.send_replace(digest);
}

/// This node's account of itself.
pub(crate) fn account(node: &Node) -> Account {
    let seen = node.seen.borrow().clone();
    let doing = node.doing.borrow().clone();
    let state = node.state();
    let led = state.held().map_or(Epoch::ZERO, |_| state.epoch);
    node.desk.learn(led);
    let database = database(node, &seen, &doing);
    let since = streamed_ago(node);
    let readable = shows_standbys(node) && is_readable(&seen, &doing, &database, since);
    let report = Report {
        promised: node.desk.promised(),
        seen: led,
        silence: node.desk.silence(),
        seal: doing.sealed.map(|(epoch, position)| Seal { epoch, lease_left: node.desk.lease_left(), position }),
        data: copy_of(&seen),
        database,
        floor: seen.timeline.map(Epoch).unwrap_or_default(),
        position: seen.position,
        replay_lag: seen.received.zip(seen.replayed).map_or(0, |(got, done)| got.saturating_sub(done)),
        failed: doing.failed.as_ref().map(|(epoch, why)| (*epoch, plain(why))),
        yielded: doing.yielded.filter(|_| seen.process == Process::Stopped),
        needs: doing.needs,
        standbys: standbys(&seen, state.epoch),
        reaches: node.reaches.borrow().clone(),
    };
    let status = status(node, &seen, &doing, &report);
    Account { report, status, readable }
}

fn standbys(seen: &Inspection, epoch: Epoch) -> BTreeMap<trine_protocol::NodeName, Position> {
    let position = |offset| Position { epoch, offset };
    seen.standbys.iter().filter_map(|(n, s)| Some((n.clone(), position(s.flushed?)))).collect()
}

/// What the database of this node does.
pub(crate) fn present(node: &Node) -> Database {
    let (seen, doing) = (node.seen.borrow().clone(), node.doing.borrow().clone());
    database(node, &seen, &doing)
}

fn database(node: &Node, seen: &Inspection, doing: &Doing) -> Database {
    match seen.process {
        Process::Stopped => Database::Stopped,
        Process::Starting => Database::Starting,
        Process::Running | Process::Hung => match (doing.leading, doing.following) {
            (Some(epoch), _) => Database::Primary { epoch },
            (None, Some(epoch)) => Database::Following { epoch, streaming: seen.streaming },
            (None, None) if node.serving.epoch().is_some() => Database::Starting,
            (None, None) => Database::Sealed,
        },
    }
}

/// May this node's database be shown to readers?
pub(crate) fn readable(node: &Node) -> bool {
    let (seen, doing) = (node.seen.borrow().clone(), node.doing.borrow().clone());
    let database = database(node, &seen, &doing);
    shows_standbys(node) && is_readable(&seen, &doing, &database, streamed_ago(node))
}

/// A volume's standbys run no database: their readers are led to the primary.
fn shows_standbys(node: &Node) -> bool {
    node.config.volume.is_none()
}

/// How long ago its database was last seen to stream; `None`: not since the agent started, nor since it was a primary.
fn streamed_ago(node: &Node) -> Option<Duration> {
    let streamed = *node.streamed.borrow();
    streamed.map(|at| node.clock.now().since(at))
}

/// Readers are led to a standby that follows, and not away from one that is only waiting for its next primary. One that has
/// not streamed yet may have been a primary: the end of its log may be what nobody else has, and taken back soon.
fn is_readable(seen: &Inspection, doing: &Doing, database: &Database, streamed: Option<Duration>) -> bool {
    let standby = seen.process == Process::Running && seen.role == Some(DatabaseRole::Standby) && doing.needs.is_none();
    let fit = match (database, streamed) {
        (Database::Following { streaming: true, .. }, _) => true,
        (Database::Following { streaming: false, .. }, Some(ago)) => ago < READABLE,
        (Database::Sealed, streamed) => streamed.is_some(),
        _ => false,
    };
    standby && fit
}

fn status(node: &Node, seen: &Inspection, doing: &Doing, report: &Report) -> NodeStatus {
    let member = &node.config.me;
    let role = match report.database {
        Database::Primary { .. } => Role::Primary,
        Database::Following { .. } | Database::Sealed => Role::Standby,
        Database::Stopped | Database::Starting => Role::None,
    };
    let progress = node.progress.borrow().clone();
    let copying = doing.work.is_some_and(|w| w.starts_with("copying"));
    let progress =
        copying.then_some(Progress { what: progress.phase, done_bytes: progress.done, total_bytes: progress.total });
    NodeStatus {
        name: member.name.clone(),
        zone: member.zone.clone(),
        address: member.address.to_string(),
        role,
        state: node_state(node, seen, doing, report),
        agent_pid: Some(std::process::id()),
        guard_pid: seen.guard_pid,
        database_pid: seen.database_pid,
        database_port: node.config.ports.database,
        data_dir: node.config.data_dir().display().to_string(),
        data_epoch: report.position.map(|p| p.epoch.0),
        position: report.position.map(|p| node.engine.scale().show(p)),
        lag_bytes: None,
        lag_seconds: seen.lag.map(|l| l.as_secs_f64()),
        voter: member.voter,
        priority: member.priority,
        sync: false,
        writable: false,
        progress,
        verification: node.verification.borrow().clone().filter(|_| role == Role::Primary),
        problem: problem(seen, doing).map(|why| plain(why)),
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
    }
}

fn problem<'a>(seen: &'a Inspection, doing: &'a Doing) -> Option<&'a String> {
    doing.problem.as_ref().or(doing.failed.as_ref().map(|(_, why)| why)).or(seen.not_ready.as_ref())
}

fn node_state(node: &Node, seen: &Inspection, doing: &Doing, report: &Report) -> NodeState {
    if !node.state().members.contains_key(node.me()) {
        return NodeState::Joining;
    }
    if doing.failed.is_some() || doing.yielded.is_some() {
        return NodeState::Fenced;
    }
    if doing.work.is_some_and(|w| w.starts_with("copying")) {
        return if report.data == trine_protocol::Copy::Missing { NodeState::Cloning } else { NodeState::Rebuilding };
    }
    if doing.needs.is_some() || report.data == trine_protocol::Copy::Incomplete {
        return NodeState::Rejoining;
    }
    match report.database {
        Database::Primary { .. } | Database::Following { streaming: true, .. } => NodeState::Running,
        Database::Following { streaming: false, .. } => NodeState::Starting,
        Database::Sealed => NodeState::Sealed,
        Database::Starting => NodeState::Starting,
        Database::Stopped if seen.process == Process::Stopped => NodeState::Stopped,
        Database::Stopped => NodeState::Starting,
    }
}

#[cfg(test)]
mod tests {
    use trine_engine::DataCopy;

    use super::*;

    /// A machine that was the primary lost its power. Its database starts as a standby, with a commit at the end that no
    /// other node has: readers saw it, and then it was rewound.
    #[test]
    fn what_may_have_been_a_primary_is_shown_to_readers_when_it_follows() {
        let seen =
            Inspection { role: Some(DatabaseRole::Standby), ..Inspection::of(DataCopy::Complete, Process::Running) };
        let readable = |database, streamed| is_readable(&seen, &Doing::default(), &database, streamed);
        let follows = |streaming| Database::Following { epoch: Epoch(3), streaming };
        assert!(!readable(Database::Sealed, None));
        assert!(!readable(follows(false), None));
        assert!(readable(follows(true), None));
        let ago = Some(Duration::from_secs(1));
        assert!(readable(Database::Sealed, ago));
        assert!(readable(follows(false), ago));
        let ago = Some(READABLE);
        assert!(readable(Database::Sealed, ago), "it only waits for its next primary");
        assert!(!readable(follows(false), ago));
    }
}
