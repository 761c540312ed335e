//! Three voters over real TLS on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use common::{Group, LONG, command, has, leader_of, name, until, until_voters};
use trine_consensus::{Consensus, ConsensusError, FILES, Founding, Standing, StoreError};
use trine_protocol::NodeName;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_forms_and_every_node_can_propose() {
    let group = Group::new(3).await;
    let nodes = group.start_all().await;
    let leader = leader_of(&nodes).await;
    for (i, node) in nodes.iter().enumerate() {
        node.propose(i).await;
        // The proposer sees it at once.
        assert!(has(&node.consensus.state().borrow(), i + 1));
        assert_eq!(node.consensus.is_leader(), i == leader);
    }
    for node in &nodes {
        node.until_has(3).await;
        assert!(has(&node.consensus.read(LONG).await.unwrap(), 3));
        node.until_standing(Standing::Voter).await;
    }
    let status = nodes[0].consensus.status();
    assert_eq!(status.voters.len(), 3);
    assert_eq!(status.logged, status.applied);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_nothing_is_forgotten() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    for i in 0..5 {
        nodes[i % 3].propose(i).await;
    }
    let leader = leader_of(&nodes).await;
    let lost = nodes.remove(leader);
    let lost_name = lost.name.clone();
    lost.stop().await;
    // Begun while nobody leads: it is carried over.
    nodes[0].propose(5).await;
    nodes[1].propose(6).await;
    assert!(has(&nodes[1].consensus.read(LONG).await.unwrap(), 7));
    let next = leader_of(&nodes).await;
    assert_ne!(nodes[next].name, lost_name);
    // It comes back as a follower, with its own id, and catches up.
    let back = group.start(lost_name.as_str(), Founding::Join).await;
    back.until_has(7).await;
    back.until_standing(Standing::Voter).await;
    nodes.push(back);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_start_again_from_their_disks() {
    let group = Group::new(3).await;
    let nodes = group.start_all().await;
    for i in 0..20 {
        nodes[i % 3].propose(i).await;
    }
    let ids: Vec<u64> = nodes.iter().map(|n| n.consensus.status().id).collect();
    for node in nodes {
        node.stop().await;
    }
    let mut nodes = Vec::new();
    for n in ["n3", "n1", "n2"] {
        nodes.push(group.start(n, Founding::Join).await);
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    for node in &nodes {
        node.until_has(20).await;
    }
    nodes[2].propose(20).await;
    assert_eq!(nodes.iter().map(|n| n.consensus.status().id).collect::<Vec<_>>(), ids);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_comes_back_as_another_voter() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    for i in 0..5 {
        nodes[0].propose(i).await;
    }
    for victim in ["n3", "n1"] {
        let at = nodes.iter().position(|n| n.name == name(victim)).unwrap();
        let lost = nodes.remove(at);
        let old = lost.consensus.status().id;
        lost.stop().await;
        group.wipe(victim);
        // Even when it is told to found a group: there is one.
        let back = group.start(victim, Founding::Found).await;
        back.until_standing(Standing::Voter).await;
        back.until_has(5).await;
        assert_ne!(back.consensus.status().id, old);
        nodes.push(back);
        let all: Vec<NodeName> = ["n1", "n2", "n3"].map(name).into();
        for node in &nodes {
            until_voters(node, &all).await;
        }
    }
    nodes[0].propose(5).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_catches_up_by_snapshot_and_disturbs_nobody() {
    let mut group = Group::new(3).await;
    group.snapshot_every = 20;
    let mut nodes = group.start_all().await;
    let leader = leader_of(&nodes).await;
    let away = (leader + 1) % 3;
    nodes[away].close_door().await;
    let term = nodes[leader].consensus.status().term;
    for i in 0..120 {
        nodes[leader].propose(i).await;
    }
    // It hears nobody, for longer than it takes to want an election; the others have a leader, so it calls none.
    let mut its_leader = nodes[away].consensus.leader();
    tokio::time::timeout(LONG, its_leader.wait_for(Option::is_none)).await.unwrap().unwrap();
    nodes[leader].propose(120).await;
    nodes[away].open_door().await;
    nodes[away].until_has(121).await;
    nodes[away].until_standing(Standing::Voter).await;
    assert_eq!(nodes[leader].consensus.status().term, term);
    assert_eq!(nodes[away].consensus.status().term, term);
    // And from its own disk again.
    let gone = nodes.remove(away);
    let name = gone.name.clone();
    gone.stop().await;
    let back = group.start(name.as_str(), Founding::Join).await;
    back.until_has(121).await;
    nodes.push(back);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_notices_and_its_command_is_not_lost_silently() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    let leader = leader_of(&nodes).await;
    nodes[leader].propose(0).await;
    let addresses = [0, 1, 2].map(|i| nodes[i].peers.names());
    assert_eq!(addresses[0].len(), 3);
    nodes[leader].close_door().await;
    nodes[leader].peers.set_addresses(std::collections::BTreeMap::new());
    let e = nodes[leader].consensus.propose(command(1), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(e, ConsensusError::Unknown { .. }), "{e}");
    let mut its_leader = nodes[leader].consensus.leader();
    tokio::time::timeout(LONG, its_leader.wait_for(Option::is_none)).await.unwrap().unwrap();
    assert!(!nodes[leader].consensus.is_leader());
    nodes[(leader + 1) % 3].propose(2).await;
    assert!(nodes[leader].consensus.read(Duration::from_millis(300)).await.is_err());
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_voter_says_so_and_never_votes_again() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    let leader = leader_of(&nodes).await;
    let removed = (leader + 1) % 3;
    let gone = nodes[removed].name.clone();
    // One is away while it is removed: it has to find out for itself.
    nodes[removed].close_door().await;
    let other = (leader + 2) % 3;
    nodes[other].consensus.remove_voter(&gone, LONG).await.unwrap();
    nodes[other].consensus.remove_voter(&gone, LONG).await.unwrap();
    let rest: Vec<NodeName> = nodes.iter().map(|n| n.name.clone()).filter(|n| *n != gone).collect();
    until_voters(&nodes[other], &rest).await;
    nodes[removed].open_door().await;
    nodes[removed].until_standing(Standing::Replaced).await;
    let e = nodes[removed].consensus.propose(command(0), LONG).await.unwrap_err();
    assert!(matches!(e, ConsensusError::Stopped(_)), "{e}");
    nodes[leader].propose(0).await;
    // A leader can take its own vote; the last one can't go.
    let last = nodes[other].name.clone();
    nodes[leader].consensus.remove_voter(&nodes[leader].name.clone(), LONG).await.unwrap();
    until_voters(&nodes[other], [&last]).await;
    let e = nodes[other].consensus.remove_voter(&last, LONG).await.unwrap_err();
    assert!(matches!(e, ConsensusError::Members(_)), "{e}");
    nodes[other].propose(1).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_disk_does_not_come_back_beside_the_new_one() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    let lost = nodes.remove(2);
    lost.stop().await;
    let folder = group.dirs[&name("n3")].path();
    let old = FILES.map(|f| std::fs::read(folder.join(f)).unwrap());
    group.wipe("n3");
    let new = group.start("n3", Founding::Join).await;
    new.until_standing(Standing::Voter).await;
    new.stop().await;
    for (file, content) in FILES.iter().zip(old) {
        std::fs::write(folder.join(file), content).unwrap();
    }
    let stale = group.start("n3", Founding::Join).await;
    stale.until_standing(Standing::Replaced).await;
    nodes.push(stale);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_stops_the_start_with_what_to_do() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    nodes.remove(2).stop().await;
    let path = group.dirs[&name("n3")].path().join(FILES[0]);
    std::fs::write(&path, b"not what it was").unwrap();
    let e = group.try_start("n3", Founding::Join).await.err().unwrap();
    assert!(matches!(e, ConsensusError::Store(StoreError::Damaged { .. })), "{e}");
    assert!(e.to_string().contains("consensus.redb") && e.to_string().contains("node replace n3"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), b"not what it was");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_promised() {
    let group = Group::new(3).await;
    let mut nodes = group.start_all().await;
    nodes[0].propose(0).await;
    let last = nodes.remove(0);
    for node in nodes {
        node.stop().await;
    }
    until(|| last.consensus.status().leader.is_none()).await;
    let e = last.consensus.propose(command(1), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(e, ConsensusError::NoLeader { .. } | ConsensusError::Unknown { .. }), "{e}");
    last.stop().await;
    // A person gives the others up: a new group, of one.
    group.wipe("n1");
    let alone = group.start("n1", Founding::FoundAnyway).await;
    alone.until_standing(Standing::Voter).await;
    alone.propose(0).await;
    alone.stop().await;
    // It goes on with its log from then on, whatever it is told.
    let alone = group.start("n1", Founding::FoundAnyway).await;
    alone.propose(1).await;
    assert!(has(&alone.consensus.state().borrow(), 2));
    alone.stop().await;
}
