//! Who has a vote: what the leader does about it.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use trine_protocol::NodeName;
use trine_transport::CallRefused;

use crate::messages::{Join, Joined};
use crate::types::{Raft, after};

/// One step of a change, at most: a commit by a majority, which has them on disk.
const STEP: Duration = Duration::from_secs(2);

/// How long the leader watches a new member catch up before it lets it ask again.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Changes the voters, one change at a time. Its methods do nothing but say so where the leader is another node.
pub(crate) struct Members {
    raft: Raft,
    one_at_a_time: Mutex<()>,
}

/// Why a step was not done.
enum Not {
    Leader,
    /// Another change is not through yet.
    Yet,
    Possible(String),
}

impl From<Not> for CallRefused {
    fn from(not: Not) -> Self {
        match not {
            Not::Leader => Self::Unavailable("this node is not the leader".to_owned()),
            Not::Yet => Self::Unavailable("another change of the voters is under way".to_owned()),
            Not::Possible(why) => Self::Failed(why),
        }
    }
}

impl Members {
    pub(crate) fn new(raft: Raft) -> Self {
        Self { raft, one_at_a_time: Mutex::new(()) }
    }

    /// Takes a node in: as a learner, and once it has caught up, if it is to vote, in one change as a voter in the place of
    /// every older id of its name. To repeat it is harmless, at any step.
    pub(crate) async fn join(&self, join: &Join) -> Result<Joined, CallRefused> {
        let _one = self.one_at_a_time.lock().await;
        match self.take_in(join).await {
            Ok(joined) => Ok(joined),
            Err(Not::Yet) => Ok(Joined::NotYet),
            Err(not) => Err(not.into()),
        }
    }

    async fn take_in(&self, join: &Join) -> Result<Joined, Not> {
        self.confirm_leader().await?;
        match self.now(|m| m.membership().get_node(&join.id).map(|n| n.addr.clone())) {
            Some(name) if name != join.name.as_str() => {
                return Err(Not::Possible(format!("the id {} belongs to node {name}", join.id)));
            }
            Some(_) => {}
            // It voted under this id once: it was removed since, or a newer one has its name.
            None if join.was_voter => return Ok(Joined::Replaced),
            None => {
                info!(node = %join.name, id = join.id, "a node joins the group");
                let node = BasicNode::new(&join.name);
                step(self.raft.add_learner(join.id, node, false)).await?;
            }
        }
        if !join.voter {
            return Ok(Joined::Done);
        }
        self.finish_joint().await?;
        let (voters, older) = self.now(|m| (last_voters(m), of_name(m, &join.name, join.id)));
        if !voters.contains(&join.id) {
            self.caught_up(join.id).await?;
        }
        let goal: BTreeSet<u64> = voters.difference(&older).copied().chain([join.id]).collect();
        if goal != voters {
            info!(node = %join.name, id = join.id, replaced = ?older, "a node gets its vote");
            step(self.raft.change_membership(ChangeMembers::ReplaceAllVoters(goal), false)).await?;
        }
        self.forget(self.now(|m| of_name(m, &join.name, join.id))).await?;
        Ok(Joined::Done)
    }

    /// Takes a node's vote, and its membership.
    pub(crate) async fn remove(&self, name: &NodeName) -> Result<(), CallRefused> {
        let _one = self.one_at_a_time.lock().await;
        self.take_out(name).await.map_err(CallRefused::from)
    }

    async fn take_out(&self, name: &NodeName) -> Result<(), Not> {
        self.confirm_leader().await?;
        self.finish_joint().await?;
        let (voters, gone) = self.now(|m| (last_voters(m), of_name(m, name, 0)));
        let goal: BTreeSet<u64> = voters.difference(&gone).copied().collect();
        if goal.is_empty() {
            return Err(Not::Possible(format!("{name} is the only voter")));
        }
        if goal != voters {
            warn!(node = %name, "a node loses its vote");
            step(self.raft.change_membership(ChangeMembers::ReplaceAllVoters(goal), false)).await?;
        }
        self.forget(self.now(|m| of_name(m, name, 0))).await
    }

    /// Ends a change that an earlier leader left half done, as soon as that can be.
    pub(crate) async fn settle(&self) {
        loop {
            let ended = {
                let _one = self.one_at_a_time.lock().await;
                self.finish_joint().await
            };
            match ended {
                Ok(()) | Err(Not::Leader) => return,
                Err(Not::Yet | Not::Possible(_)) if self.raft.metrics().borrow().running_state.is_ok() => {
                    sleep(STEP).await;
                }
                Err(_) => return,
            }
        }
    }

    async fn finish_joint(&self) -> Result<(), Not> {
        let joint = self.now(|m| (m.membership().get_joint_config().len() > 1).then(|| last_voters(m)));
        match joint {
            Some(goal) => step(self.raft.change_membership(ChangeMembers::ReplaceAllVoters(goal), false)).await,
            None => Ok(()),
        }
    }

    /// Learners go without ceremony; voters are not touched.
    async fn forget(&self, ids: BTreeSet<u64>) -> Result<(), Not> {
        if ids.is_empty() {
            return Ok(());
        }
        step(self.raft.change_membership(ChangeMembers::RemoveNodes(ids), false)).await
    }

    /// What this node says of the membership must not be an old leader's memory.
    async fn confirm_leader(&self) -> Result<(), Not> {
        match timeout(STEP, self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Not::Leader),
        }
    }

    async fn caught_up(&self, id: u64) -> Result<(), Not> {
        let mut metrics = self.raft.metrics();
        let goal = metrics.borrow().last_log_index.map_or(0, |i| i + 1);
        let there = metrics.wait_for(|m| {
            let matched = m.replication.as_ref().and_then(|r| r.get(&id)).map(|l| after(l.as_ref()));
            matched.is_none_or(|there| there >= goal) && (m.replication.is_none() || matched.is_some())
        });
        match timeout(CATCH_UP, there).await {
            Ok(Ok(m)) if m.replication.is_some() => Ok(()),
            Ok(_) => Err(Not::Leader),
            Err(_) => Err(Not::Yet),
        }
    }

    fn now<T>(&self, f: impl FnOnce(&crate::types::StoredMembership) -> T) -> T {
        f(&self.raft.metrics().borrow().membership_config)
    }
}

/// The voters at the end of a change that may be under way.
fn last_voters(m: &crate::types::StoredMembership) -> BTreeSet<u64> {
    m.membership().get_joint_config().last().cloned().unwrap_or_default()
}

/// The members of that name, but for one id (0 is nobody's).
fn of_name(m: &crate::types::StoredMembership, name: &NodeName, except: u64) -> BTreeSet<u64> {
    m.nodes().filter(|(id, node)| node.addr == name.as_str() && **id != except).map(|(id, _)| *id).collect()
}

type StepError = RaftError<u64, ClientWriteError<u64, BasicNode>>;

async fn step<T>(f: impl Future<Output = Result<T, StepError>>) -> Result<(), Not> {
    match timeout(STEP, f).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(Not::Leader),
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e)))) => match e {
            ChangeMembershipError::InProgress(_) => Err(Not::Yet),
            other => Err(Not::Possible(other.to_string())),
        },
        Ok(Err(RaftError::Fatal(e))) => Err(Not::Possible(e.to_string())),
        Err(_) => Err(Not::Yet),
    }
}
