//! When a drill may end a node's database: both who asks for it and the node that is asked look at this.

use trine_protocol::NodeName;

use crate::{Health, NodeState, RequestState, Role, Status};

/// Why ending this node's database now could be more than a drill, in one sentence; `None`: the cluster as it is can take it.
///
/// It can when all of it is well, nothing is under way, and commits go on, or a successor is certain, without the node.
#[must_use]
pub fn refusal(status: &Status, node: &NodeName) -> Option<String> {
    let Some(struck) = status.node(node) else {
        let names: Vec<&str> = status.nodes.iter().map(|n| n.name.as_str()).collect();
        return Some(format!("there is no node {node}; the nodes are {}", names.join(", ")));
    };
    if status.leader.is_none() {
        return Some("the node that answers sees no majority of the voters".to_owned());
    }
    if let Some(alarm) = status.alarms.first() {
        return Some(format!("an alarm is raised: {alarm}"));
    }
    if let Some(reason) = &status.paused {
        return Some(format!("automatic repair is paused ({reason}), so what the drill ends might stay down"));
    }
    if status.health != Health::Healthy {
        return Some(format!("the cluster is {}, not healthy", status.health));
    }
    if let Some(request) = status.requests.iter().find(|r| r.state == RequestState::Pending) {
        return Some(format!("something else is under way: {}", request.what));
    }
    if struck.role == Role::None {
        return Some(format!("{node} has no database that runs"));
    }
    let primary = struck.role == Role::Primary;
    let streams =
        |n: &&NodeName| status.node(n).is_some_and(|s| s.role == Role::Standby && s.state == NodeState::Running);
    let left = status.sync.standbys.iter().filter(|n| *n != node).filter(streams).count();
    // Without the primary, one of the standbys leads, and needs the others.
    let (left, needed) = if primary { (left, status.sync.acks + 1) } else { (left, status.sync.acks) };
    if status.sync.acks == 0 || left < needed {
        return Some(format!(
            "without {node} too few standbys would be left: {left} stream, and {needed} {} needed",
            if needed == 1 { "is" } else { "are" }
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Status {
        let node = |name: &str, role: &str| {
            serde_json::json!({"name": name, "zone": name, "address": "127.0.0.1", "role": role, "state": "running",
                "agent_pid": 1, "guard_pid": 2, "database_pid": 3, "database_port": 6500, "data_dir": "/d", "data_epoch": 4,
                "position": "0/4", "lag_bytes": 0, "lag_seconds": 0.0})
        };
        serde_json::from_value(serde_json::json!({
            "cluster": "demo", "engine": "postgres", "epoch": 4, "primary": "n1", "health": "healthy", "paused": null,
            "sync": {"standbys": ["n2", "n3"], "acks": 1}, "endpoints": {"writer": [], "reader": [], "api": []},
            "nodes": [node("n1", "primary"), node("n2", "standby"), node("n3", "standby")],
            "writable": true, "leader": "n1",
        }))
        .unwrap()
    }

    fn refused(node: &str, change: impl FnOnce(&mut Status)) -> String {
        let mut status = healthy();
        change(&mut status);
        refusal(&status, &node.parse().unwrap()).unwrap_or_default()
    }

    #[test]
    fn a_healthy_cluster_can_take_it() {
        for node in ["n1", "n2", "n3"] {
            assert_eq!(refused(node, |_| {}), "", "{node}");
        }
    }

    #[test]
    fn a_cluster_that_is_not_well_can_not() {
        assert!(refused("n9", |_| {}).contains("n1, n2, n3"));
        assert!(refused("n2", |s| s.health = Health::Degraded).contains("degraded"));
        assert!(refused("n2", |s| s.leader = None).contains("majority"));
        assert!(refused("n2", |s| s.alarms = vec!["n3 is full".into()]).contains("n3 is full"));
        assert!(refused("n2", |s| s.paused = Some("new disks".into())).contains("new disks"));
        let request = crate::RequestStatus {
            number: 1,
            what: "switchover to n3".into(),
            state: RequestState::Pending,
            message: String::new(),
        };
        assert!(refused("n2", |s| s.requests = vec![request]).contains("switchover to n3"));
    }

    #[test]
    fn enough_standbys_must_be_left() {
        // Both standbys must acknowledge: none can be spared.
        assert!(refused("n2", |s| s.sync.acks = 2).contains("1 stream, and 2 are needed"));
        assert!(refused("n1", |s| s.sync.acks = 2).contains("too few"));
        assert!(refused("n2", |s| s.sync.standbys = vec!["n2".parse().unwrap()]).contains("0 stream"));
        let rejoins = |s: &mut Status| s.nodes[2].state = NodeState::Rejoining;
        assert!(refused("n2", rejoins).contains("0 stream, and 1 is needed"));
        assert!(refused("n1", rejoins).contains("too few"));
        // It goes on alone already.
        assert!(refused("n1", |s| s.sync.acks = 0).contains("too few"));
    }
}
