//! Every node looks at its database and its disk for what somebody would want to change, and the node that is asked puts it
//! together. Nothing of the cluster depends on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use trine_api::{Finding, Findings, Refused, Severity};
use trine_engine::Finding as Seen;
use trine_protocol::NodeName;
use trine_transport::CallRefused;

use crate::node::Node;

/// How long a node may look: a little longer than its engine allows itself.
const LOOK: Duration = Duration::from_secs(11);

/// How long another node may take to answer. Shorter than the API waits.
const ANSWER: Duration = Duration::from_secs(14);

/// A disk that hangs says nothing.
const DISK: Duration = Duration::from_secs(2);

/// Less room than this, in percent, and the next busy night may fill it.
const ROOM: u64 = 10;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What one node has found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Own {
    /// Its agent's version.
    version: String,
    found: Vec<Seen>,
    /// Why its database could not be looked at.
    problem: Option<String>,
}

/// Looks at this node.
pub(crate) async fn own(node: &Node) -> Own {
    let (examined, disk) = tokio::join!(timeout(LOOK, node.engine.examine()), timeout(DISK, room(node)));
    let (mut found, problem) = match examined {
        Ok(Ok(found)) => (found, None),
        Ok(Err(error)) => (Vec::new(), Some(error.chain())),
        Err(_) => (Vec::new(), Some("its database does not answer".to_owned())),
    };
    found.extend(disk.unwrap_or_default());
    Own { version: VERSION.to_owned(), found, problem }
}

/// Has every node look.
pub(crate) async fn all(node: &Arc<Node>) -> Result<Findings, Refused> {
    let asked = node.config.members.iter().map(|member| async {
        let name = &member.name;
        let told = if name == node.me() { Ok(own(node).await) } else { ask(node, name).await };
        (name.clone(), told)
    });
    let told = futures::future::join_all(asked).await;
    let primary = node.state().primary().cloned();
    let found = together(told, primary.as_ref(), node.config.volume.is_some());
    if found.examined.is_empty() {
        let whys: Vec<String> = found.findings.iter().flat_map(|f| f.places.clone()).collect();
        return Err(Refused::failed(format!("no node's database could be looked at: {}", whys.join("; "))));
    }
    Ok(found)
}

async fn ask(node: &Node, whom: &NodeName) -> Result<Own, String> {
    node.peers.call(whom, "engine/examine", &(), ANSWER).await.map_err(|error| match error.refusal() {
        Some(CallRefused::UnknownMethod(_)) => {
            let digest = node.digest.borrow();
            let version = digest.accounts.get(whom).and_then(|a| a.status.agent_version.clone());
            format!("its agent is older and can't look: {}", version.unwrap_or_else(|| "of an unknown version".into()))
        }
        _ => {
            tracing::info!(node = %whom, %error, "no answer to a question for findings");
            error.to_string()
        }
    })
}

/// What all nodes have found. Equal findings of several nodes are one.
fn together(told: Vec<(NodeName, Result<Own, String>)>, primary: Option<&NodeName>, is_volume: bool) -> Findings {
    let mut all: Vec<Finding> = Vec::new();
    let mut examined = Vec::new();
    let mut versions: Vec<(NodeName, String)> = Vec::new();
    for (name, told) in told {
        let (seen, problem) = match told {
            Ok(own) => {
                versions.push((name.clone(), own.version));
                (own.found, own.problem)
            }
            Err(why) => (Vec::new(), Some(why)),
        };
        for finding in seen {
            join(&mut all, name.clone(), finding);
        }
        match problem {
            Some(why) => all.push(unexamined(&name, why, primary == Some(&name))),
            None => examined.push(name),
        }
    }
    if primary.is_none() && !is_volume {
        all.push(warning(
            "there is no primary",
            Vec::new(),
            Vec::new(),
            "Tables and accounts were not looked at: the primary is asked for them.",
            "see `trine status`, and ask again.",
        ));
    }
    all.extend(different(&versions));
    all.sort_by_key(|f| f.severity);
    Findings { findings: all, examined }
}

fn join(all: &mut Vec<Finding>, name: NodeName, seen: Seen) {
    let Seen { severity, what, places, more, why, remedy } = seen;
    let severity = match severity {
        trine_engine::Severity::Warning => Severity::Warning,
        trine_engine::Severity::Note => Severity::Note,
    };
    let mut new = Finding { severity, what, nodes: Vec::new(), places, more, why, remedy };
    for there in all.iter_mut() {
        new.nodes.clone_from(&there.nodes);
        if *there == new {
            there.nodes.push(name);
            return;
        }
    }
    new.nodes = vec![name];
    all.push(new);
}

fn unexamined(name: &NodeName, why: String, leads: bool) -> Finding {
    let what = "COULD NOT LOOK";
    let missing = if leads {
        "It is the primary: tables and accounts were not looked at."
    } else {
        "What is wrong with it is not known."
    };
    warning(what, vec![name.clone()], vec![why], missing, "see `trine status` and its log/agent.log, and ask again.")
}

fn different(versions: &[(NodeName, String)]) -> Option<Finding> {
    let (_, first) = versions.first()?;
    if versions.iter().all(|(_, version)| version == first) {
        return None;
    }
    Some(warning(
        "nodes run different versions of trine",
        versions.iter().map(|(name, _)| name.clone()).collect(),
        versions.iter().map(|(name, version)| format!("{name}: {version}")).collect(),
        "That is for the time of an upgrade only.",
        "upgrade the others: standbys first.",
    ))
}

fn warning(what: &str, nodes: Vec<NodeName>, places: Vec<String>, why: &str, remedy: &str) -> Finding {
    let (what, why, remedy) = (what.to_owned(), why.to_owned(), remedy.to_owned());
    Finding { severity: Severity::Warning, what, nodes, places, more: 0, why, remedy }
}

/// A file system with little room left.
async fn room(node: &Node) -> Vec<Seen> {
    let mut folders = vec![node.config.dir.clone()];
    // A volume's data directory is its mount, which is of the folder above.
    if node.config.volume.is_none() {
        folders.push(node.config.data_dir());
    }
    trine_platform::Blocking::Threads.run(move || little_room(folders)).await
}

/// Blocks.
fn little_room(folders: Vec<PathBuf>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut devices = Vec::new();
    for folder in folders {
        let (Ok(room), Ok(stat)) = (rustix::fs::statvfs(&folder), rustix::fs::stat(&folder)) else { continue };
        if devices.contains(&stat.st_dev) {
            continue;
        }
        devices.push(stat.st_dev);
        // As the database, which is not root, sees it.
        let usable = room.f_blocks.saturating_sub(room.f_bfree) + room.f_bavail;
        if is_little(room.f_bavail, usable) {
            let percent = room.f_bavail * 100 / usable.max(1);
            seen.push(Seen {
                severity: trine_engine::Severity::Warning,
                what: "little room on a disk".to_owned(),
                places: vec![folder.display().to_string()],
                more: 0,
                why: format!(
                    "{percent} % of it is free. A database whose disk is full ends, and another node must lead."
                ),
                remedy: "make room, or give it a larger disk.".to_owned(),
            });
        }
    }
    seen
}

fn is_little(free: u64, of: u64) -> bool {
    free.saturating_mul(100) < of.saturating_mul(ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> NodeName {
        format!("n{n}").parse().unwrap()
    }

    fn seen(severity: trine_engine::Severity, place: &str) -> Seen {
        let text = || "x".to_owned();
        Seen { severity, what: text(), places: vec![place.into()], more: 0, why: text(), remedy: text() }
    }

    fn own(version: &str, found: Vec<Seen>) -> Result<Own, String> {
        Ok(Own { version: version.into(), found, problem: None })
    }

    #[test]
    fn equal_findings_are_one_and_warnings_come_first() {
        use trine_engine::Severity::{Note, Warning};
        let told = vec![
            (name(1), own("1", vec![seen(Note, "a"), seen(Warning, "b")])),
            (name(2), own("1", vec![seen(Warning, "b")])),
            (name(3), own("1", vec![seen(Warning, "c")])),
        ];
        let all = together(told, Some(&name(1)), false);
        let found: Vec<(&str, &[NodeName])> =
            all.findings.iter().map(|f| (f.places[0].as_str(), f.nodes.as_slice())).collect();
        assert_eq!(found, [("b", &[name(1), name(2)][..]), ("c", &[name(3)]), ("a", &[name(1)])]);
        assert_eq!(all.examined, [name(1), name(2), name(3)]);
    }

    #[test]
    fn a_node_that_was_not_looked_at_is_told_of() {
        let told = vec![(name(1), own("1", Vec::new())), (name(2), Err("no way".into()))];
        let all = together(told, Some(&name(2)), false);
        assert_eq!(all.examined, [name(1)]);
        let [found] = all.findings.as_slice() else { panic!("{:?}", all.findings) };
        assert_eq!((&found.nodes[..], &found.places[..]), (&[name(2)][..], &["no way".to_owned()][..]));
        assert!(found.why.contains("tables"), "{}", found.why);
        let nobody = together(vec![(name(1), own("1", Vec::new()))], None, false);
        assert_eq!(nobody.findings.len(), 1, "without a primary nobody has looked at tables");
        assert!(together(vec![(name(1), own("1", Vec::new()))], None, true).findings.is_empty());
    }

    #[test]
    fn versions_that_differ_are_told() {
        let told = vec![(name(1), own("1.0.0", Vec::new())), (name(2), own("1.1.0", Vec::new()))];
        let all = together(told, Some(&name(1)), false);
        assert_eq!(all.findings[0].places, ["n1: 1.0.0", "n2: 1.1.0"]);
    }

    #[test]
    fn a_tenth_is_enough() {
        assert!(is_little(9, 100) && !is_little(10, 100) && !is_little(0, 0));
    }
}
