//! The cluster's beginning: the seed proposes it, once.

use std::sync::Arc;
use std::time::Duration;

use trine_platform::Disk;
use trine_protocol::{Change, Member, Outcome, Settings};

use crate::config;
use crate::node::Node;

/// Proposes the cluster until it exists, then removes the one-time marker.
pub(crate) async fn create(node: Arc<Node>, disk: Arc<dyn Disk>) {
    let mut states = node.consensus.state();
    let mut leader = node.consensus.leader();
    while states.borrow_and_update().members.is_empty() {
        if leader.borrow_and_update().as_ref() == Some(node.me())
            && let Some(Outcome::Refused(why)) = node.propose(creation(&node)).await
        {
            tracing::debug!(why, "the cluster exists");
        }
        tokio::select! {
            _ = states.changed() => {}
            _ = leader.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
    let marker = node.config.seed_marker();
    let path = marker.clone();
    match disk.blocking().run(move || std::fs::remove_file(path)).await {
        Ok(()) => tracing::info!("the cluster is created"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(
            marker = %marker.display(), %error,
            "can't remove the one-time marker: remove it by hand, or this node could begin a second cluster"
        ),
    }
}

fn creation(node: &Node) -> Change {
    let config = &node.config;
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let member = |m: &config::Member| Member {
        zone: m.zone.clone(),
        address: m.address.to_string(),
        voter: m.voter,
        priority: m.priority,
    };
    Change::Create {
        cluster: config.cluster.clone(),
        cluster_id: config.cluster_id.clone(),
        engine: config.engine.kind.as_str().to_owned(),
        settings: Settings {
            lease_ms: ms(config.timing.lease),
            heartbeat_ms: ms(config.timing.heartbeat),
            suspect_ms: ms(config.timing.suspect),
            acks: config.sync.acks,
            durability: config.sync.durability,
            grace_ms: ms(config.sync.grace),
        },
        members: config.members.iter().map(|m| (m.name.clone(), member(m))).collect(),
        seed: node.me().clone(),
    }
}
