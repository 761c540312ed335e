//! What the API shows and takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trine_api::{
    Accepted, Control, Endpoints, EventView, Findings, Health, NodeState, NodeStatus, Refused, Request, RequestState,
    RequestStatus, Role, Status, SyncStatus, Uris,
};
use trine_engine::Scale;
use trine_protocol::{
    Change, ClusterState, Event, Moment, NO_PRIMARY, NodeName, Outcome, SyncSetting, Wish, sync_setting,
};

use crate::config::{EngineKind, Member};
use crate::digest::Digest;
use crate::node::Node;

/// An account that came so long ago is of a node that nobody hears any more.
const HEARD: Duration = Duration::from_millis(1500);

/// The agent as the API sees it.
#[derive(Debug)]
pub(crate) struct NodeControl(pub(crate) Arc<Node>);

#[async_trait]
impl Control for NodeControl {
    async fn status(&self) -> Result<Status, Refused> {
        Ok(status(&self.0))
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<EventView>, Refused> {
        Ok(self.0.state().events.iter().filter(|e| e.number > after).take(limit).map(view).collect())
    }

    async fn new_events(&self, after: u64) {
        let _ = self.0.consensus.state().wait_for(|s| s.last_event > after).await;
    }

    async fn uris(&self) -> Result<Uris, Refused> {
        let config = &self.0.config;
        let state = self.0.state();
        let mut members: Vec<&Member> = config.members.iter().collect();
        // The shortest way first: the primary's own endpoint for writers, the standbys' for readers.
        members.sort_by_key(|m| Some(&m.name) != state.primary());
        let at = |port: u16, members: &[&Member]| -> Vec<SocketAddr> { members.iter().map(|m| m.at(port)).collect() };
        let writer = at(config.ports.writer, &members);
        members.reverse();
        let reader = at(config.ports.reader, &members);
        let password = &self.0.secrets.app_password;
        if let Some(volume) = &config.volume {
            let uris = |of: &[SocketAddr]| volume.database.uris(of, "app", password);
            return Ok(Uris::of(uris(&writer), uris(&reader)));
        }
        let text = |of: &[SocketAddr]| -> Vec<String> { of.iter().map(ToString::to_string).collect() };
        let (writer, reader) = (text(&writer), text(&reader));
        Ok(match config.engine.kind {
            EngineKind::MariaDb | EngineKind::MySql => Uris::mysql(&writer, &reader, "app", password, "app"),
            EngineKind::Postgres | EngineKind::Volume => Uris::postgres(&writer, &reader, "app", password, "app"),
        })
    }

    async fn examine(&self) -> Result<Findings, Refused> {
        crate::doctor::all(&self.0).await
    }

    async fn request(&self, request: Request) -> Result<Accepted, Refused> {
        let node = &self.0;
        let state = node.state();
        if state.members.is_empty() {
            return Err(Refused::failed("this node has not joined the cluster yet: see its log/agent.log"));
        }
        let wish = match request {
            Request::Switchover { to } => Wish::Switchover { to: known(&state, to)? },
            Request::Failover { to } => Wish::Failover { to: known(&state, to)?, accept_loss: false },
            Request::Rebuild { node: whose } => {
                Wish::Rebuild { node: known(&state, Some(whose.clone()))?.unwrap_or(whose) }
            }
            Request::Pause { reason } => return change(node, Change::Pause { reason }).await.map(|_| taken(None)),
            Request::Resume => return change(node, Change::Resume).await.map(|_| taken(None)),
            Request::Replace { node } => return self.replace(&state, node).await,
            Request::Verify => return crate::verify::ask(node).await,
            Request::EndDatabase { node: whose } => return crate::drill::end_database(node, &whose).await,
            Request::AcceptDataLoss { node: to, confirm } => return crate::loss::accept(node, to, confirm).await,
        };
        // What is asked for is decided on what is so now, and is refused when that has changed by the time it arrives.
        let state = present(node).await?;
        match &wish {
            Wish::Switchover { to } if to.as_ref() != state.primary() => {
                self.prepare_switchover(&state, to.as_ref()).await?;
            }
            Wish::Failover { .. } if state.held().is_none() => {
                if let Some(alarm) = state.alarms.get(NO_PRIMARY) {
                    return Err(Refused::not_safe(format!(
                        "{alarm}. Bring those nodes back; if they are gone for good: trine failover --accept-data-loss"
                    )));
                }
            }
            _ => {}
        }
        change(node, state.asking(wish)).await.map(|number| taken(Some(number)))
    }
}

/// The replicated state as consensus has it now.
pub(crate) async fn present(node: &Node) -> Result<Arc<ClusterState>, Refused> {
    node.consensus.read(PRESENT).await.map_err(|error| {
        tracing::info!(%error, "consensus did not answer");
        Refused::no_majority("too few voters answer, so nothing can be decided safely, and nothing was changed")
    })
}

/// Proposes it, for a person; the number of the latest request.
pub(crate) async fn change(node: &Node, change: Change) -> Result<u64, Refused> {
    match node.propose(change).await {
        Some(Outcome::Applied(number)) => Ok(number),
        Some(Outcome::Refused(why)) => Err(Refused::failed(why)),
        None => Err(Refused::unknown("consensus did not answer in time: whether it was taken is not known")),
    }
}

fn taken(request: Option<u64>) -> Accepted {
    Accepted { request, message: "taken".to_owned(), estimate: None }
}

/// How long consensus may take to tell the present state.
const PRESENT: Duration = Duration::from_secs(3);

/// How long a primary may write its dirty pages before a switchover is begun all the same.
const PREPARE: Duration = Duration::from_secs(20);

impl NodeControl {
    /// The primary writes its dirty pages while clients are still served, so that its stop is short; and the target shows
    /// that it takes what the primary writes.
    async fn prepare_switchover(&self, state: &ClusterState, to: Option<&NodeName>) -> Result<(), Refused> {
        let Some(primary) = state.primary() else { return Ok(()) };
        match self.0.peers.call(primary, "engine/prepare-switchover", &to, PREPARE).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => {
                let why: String = why;
                Err(Refused::failed(format!("{why}; nothing was changed")))
            }
            Err(error) => {
                tracing::info!(%primary, %error, "the primary did not prepare its stop; the switchover begins all the same");
                Ok(())
            }
        }
    }

    /// A machine with nothing on it may take the node's name: its old vote goes.
    async fn replace(&self, state: &ClusterState, node: NodeName) -> Result<Accepted, Refused> {
        let node = known(state, Some(node.clone()))?.unwrap_or(node);
        if state.primary() == Some(&node) {
            return Err(Refused::not_safe(format!("{node} is the primary: switch over first")));
        }
        if heard(&self.0.digest.borrow(), self.0.clock.now(), &node).is_some() {
            return Err(Refused::not_safe(format!("{node} is running: stop its agent first")));
        }
        self.0
            .consensus
            .remove_voter(&node, Duration::from_secs(5))
            .await
            .map_err(|e| Refused::failed(e.to_string()))?;
        Ok(Accepted {
            request: None,
            message: format!(
                "the vote of {node} is gone; start an agent with its trine.toml, secrets.toml and tls/ and an empty \
                 folder, and it joins anew"
            ),
            estimate: None,
        })
    }
}

fn known(state: &ClusterState, node: Option<NodeName>) -> Result<Option<NodeName>, Refused> {
    match node {
        Some(n) if !state.members.contains_key(&n) => {
            let names: Vec<&str> = state.members.keys().map(NodeName::as_str).collect();
            Err(Refused::wrong_use(format!("there is no node {n}; the nodes are {}", names.join(", "))))
        }
        other => Ok(other),
    }
}

fn heard<'a>(digest: &'a Digest, now: Moment, node: &NodeName) -> Option<&'a crate::digest::Account> {
    digest.accounts.get(node).filter(|_| digest.at.is_some_and(|at| now.since(at) < HEARD))
}

/// The whole cluster, from what the controller last told and what this node knows of itself.
pub(crate) fn status(node: &Node) -> Status {
    let state = node.state();
    let mut digest = node.digest.borrow().clone();
    let now = node.clock.now();
    if digest.at.is_none_or(|at| now.since(at) >= HEARD) {
        digest.accounts.clear();
    }
    digest.at = Some(now);
    digest.accounts.insert(node.me().clone(), crate::reporter::account(node));
    let rule = state.held().map(|h| h.target().clone());
    let writable = is_writable(&state, &digest);
    let end = state.primary().and_then(|p| digest.accounts.get(p)).and_then(|a| a.report.position);
    let mut nodes = Vec::new();
    for member in &node.config.members {
        let mut shown = match heard(&digest, now, &member.name) {
            Some(account) => account.status.clone(),
            None => unreachable(node, member),
        };
        let leads = state.primary() == Some(&member.name);
        shown.sync = rule.as_ref().is_some_and(|r| r.standbys.contains(&member.name));
        shown.writable = leads && writable;
        let position = digest.accounts.get(&member.name).and_then(|a| a.report.position);
        shown.lag_bytes = match (position, end) {
            (Some(p), Some(end)) if p.epoch == end.epoch && node.engine.scale() == Scale::Bytes => {
                Scale::Bytes.between(p, end)
            }
            _ => None,
        };
        if leads {
            shown.lag_seconds = Some(0.0);
        }
        nodes.push(shown);
    }
    let config = &node.config;
    let hosts = |port: u16| -> Vec<String> { config.members.iter().map(|m| m.at(port).to_string()).collect() };
    let health = health(&state, &nodes, writable);
    Status {
        cluster: config.cluster.clone(),
        cluster_id: config.cluster_id.clone(),
        engine: config.engine.kind.as_str().to_owned(),
        epoch: state.epoch.0,
        primary: state.primary().cloned(),
        health,
        paused: state.paused.clone(),
        sync: SyncStatus {
            standbys: rule.iter().flat_map(|r| r.standbys.iter().cloned()).collect(),
            acks: rule.as_ref().map_or(0, |r| r.acks),
        },
        endpoints: Endpoints {
            writer: hosts(config.ports.writer),
            reader: hosts(config.ports.reader),
            api: config.members.iter().map(|m| trine_api::api_url(m.at(config.ports.api))).collect(),
        },
        nodes,
        writable,
        leader: node.consensus.leader().borrow().clone(),
        answered_by: Some(node.me().clone()),
        alarms: state.alarms.values().cloned().collect(),
        requests: state.asked.iter().map(request_status).collect(),
        last_event: state.last_event,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Do commits pass? The primary serves, and enough of its standbys stream.
fn is_writable(state: &ClusterState, digest: &Digest) -> bool {
    let Some(held) = state.held().filter(|_| state.is_open()) else { return false };
    let leads = digest.accounts.get(&held.primary).is_some_and(|a| a.status.role == Role::Primary);
    let streams = |n: &&NodeName| {
        digest.accounts.get(*n).is_some_and(|a| a.status.role == Role::Standby && a.status.state == NodeState::Running)
    };
    let enough = match sync_setting(state, held.target()) {
        SyncSetting::Wait => false,
        SyncSetting::Alone => true,
        SyncSetting::Any { acks, standbys } => standbys.iter().filter(streams).count() >= acks,
    };
    leads && enough
}

fn health(state: &ClusterState, nodes: &[NodeStatus], writable: bool) -> Health {
    if !writable {
        return Health::Unavailable;
    }
    let all_run = nodes.iter().all(|n| n.state == NodeState::Running);
    let all_sync = nodes.iter().filter(|n| n.voter && n.role == Role::Standby).all(|n| n.sync);
    let settled = state.held().is_some_and(|h| h.pending.is_empty() && h.leaving.is_none());
    if all_run && all_sync && settled { Health::Healthy } else { Health::Degraded }
}

fn unreachable(node: &Node, member: &Member) -> NodeStatus {
    NodeStatus {
        name: member.name.clone(),
        zone: member.zone.clone(),
        address: member.address.to_string(),
        role: Role::None,
        state: NodeState::Unreachable,
        agent_pid: None,
        guard_pid: None,
        database_pid: None,
        database_port: node.config.ports.database,
        data_dir: String::new(),
        data_epoch: None,
        position: None,
        lag_bytes: None,
        lag_seconds: None,
        voter: member.voter,
        priority: member.priority,
        sync: false,
        writable: false,
        progress: None,
        verification: None,
        problem: Some("nobody hears from its agent".to_owned()),
        agent_version: None,
    }
}

fn request_status(asked: &trine_protocol::Asked) -> RequestStatus {
    let (state, message) = match &asked.outcome {
        None => (RequestState::Pending, String::new()),
        Some(Ok(())) => (RequestState::Done, String::new()),
        Some(Err(why)) => (RequestState::Failed, why.clone()),
    };
    RequestStatus { number: asked.number, what: asked.text(), state, message }
}

fn view(event: &Event) -> EventView {
    let time = i64::try_from(event.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    EventView {
        number: event.number,
        time: time.map(|t| t.to_string()).unwrap_or_default(),
        kind: serde_json::to_value(event.kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
        epoch: event.epoch.0,
        node: Some(event.node.clone()),
        text: event.text.clone(),
        evidence: serde_json::to_value(&event.evidence).unwrap_or_default(),
    }
}
