//! Consensus by openraft.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::{BasicNode, Snapshot};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};
use trine_platform::Disk;
use trine_protocol::{ClusterState, Command, NodeName, Outcome};
use trine_transport::{CallError, CallRefused, Peers, answer, parse};

use crate::config::{ConsensusConfig, Founding};
use crate::consensus::Consensus;
use crate::errors::{ConsensusError, StoreError};
use crate::gate::{Gate, Heard};
use crate::keeper::Keeper;
use crate::log::Log;
use crate::machine::{Machine, View};
use crate::members::Members;
use crate::messages::{
    APPEND, Append, Ballot, HELLO, Hello, JOIN, Join, Joined, PROPOSE, Picture, Propose, Proposed, READ, REMOVE,
    ReadFrom, Remove, SNAPSHOT, VOTE,
};
use crate::network::Network;
use crate::observer::{Observer, Signals};
use crate::store::{FILE, Store};
use crate::types::{ConsensusStatus, Raft, Standing, Types, after, name_of};

/// Consensus by openraft.
pub struct RaftConsensus {
    me: NodeName,
    id: u64,
    raft: Raft,
    store: Arc<Store>,
    peers: Arc<Peers>,
    members: Arc<Members>,
    view: View,
    signals: Signals,
    heard: Heard,
    silence: Duration,
    tasks: [AbortHandle; 3],
}

/// What only the leader can do.
enum Ask {
    Propose(Command),
    Read,
    Remove(NodeName),
}

/// Its answer: the outcome of a command, and how many entries must be applied to see it.
type Answer = (Option<Outcome>, u64);

/// Why the leader's answer did not come.
enum Missing {
    /// It was not done, and may be asked again.
    NotDone(String),
    /// It may have been done.
    Unknown(String),
    /// To ask again is useless.
    For(ConsensusError),
}

/// Before the same leader is asked again.
const PAUSE: Duration = Duration::from_millis(25);

/// One try of a forwarded call: the connection may be the one that was cut.
const TRY: Duration = Duration::from_secs(1);

/// How long a proposal waits for this node's own state to follow.
const FOLLOW: Duration = Duration::from_millis(250);

impl RaftConsensus {
    /// Starts: from what is on disk, else as [`Founding`] says; joining goes on in the background.
    ///
    /// Once it has returned for a founder, the group is on disk, and it must not be told to found one again.
    ///
    /// # Errors
    /// [`ConsensusError::Store`] when the log can't be used: a damaged one is never replaced by an empty one.
    pub async fn start(
        config: ConsensusConfig,
        disk: Arc<dyn Disk>,
        peers: Arc<Peers>,
    ) -> Result<Arc<Self>, ConsensusError> {
        let settings = Arc::new(config.for_openraft()?);
        let (cluster, me) = (config.cluster_id.clone(), config.me.clone());
        let place = disk.place(FILE);
        let (store, mut loaded) = disk.blocking().run(move || Store::open(&*disk, &cluster, &me)).await?;
        let (store, id, was_voter) = (Arc::new(store), loaded.id, watch::Sender::new(loaded.was_voter));

        let log = Log::new(store.clone(), &mut loaded);
        let (machine, view) = Machine::new(store.clone(), loaded.snapshot).map_err(|e| StoreError::Damaged {
            file: place,
            reason: format!("its snapshot can't be read: {e}"),
            node: config.me.clone(),
        })?;
        let raft = Raft::new(id, settings, Network(peers.clone()), log, machine).await;
        let raft = raft.map_err(|e| ConsensusError::Start(e.to_string()))?;
        raft.runtime_config().elect(false);
        found(&raft, id, &config, &peers).await?;

        let members = Arc::new(Members::new(raft.clone()));
        let signals = Signals::new();
        let (heard, silence) = (Heard::new(), config.election / 2);
        let keeper = Keeper {
            raft: raft.clone(),
            peers: peers.clone(),
            id,
            me: config.me.clone(),
            voter: config.voter,
            was_voter: was_voter.subscribe(),
            signals: signals.clone(),
            heard: heard.clone(),
        };
        let observer = Observer {
            raft: raft.clone(),
            id,
            me: config.me.clone(),
            store: store.clone(),
            members: members.clone(),
            signals: signals.clone(),
            was_voter,
            heard: heard.clone(),
            patience: config.election,
        };
        let gate = Gate {
            raft: raft.clone(),
            peers: peers.clone(),
            id,
            me: config.me.clone(),
            heard: heard.clone(),
            signals: signals.clone(),
            silence,
        };
        let tasks = [tokio::spawn(observer.run()), tokio::spawn(keeper.run()), tokio::spawn(gate.run())];
        let tasks = tasks.map(|t| t.abort_handle());
        Ok(Arc::new(Self { me: config.me, id, raft, store, peers, members, view, signals, heard, silence, tasks }))
    }

    /// Asks the leader, whoever it is, until the deadline.
    async fn ask(&self, ask: &Ask, within: Duration) -> Result<Answer, ConsensusError> {
        let until = Instant::now() + within;
        let mut perhaps_done = None;
        loop {
            match &*self.signals.standing.borrow() {
                Standing::Failed(reason) => return Err(ConsensusError::Stopped(reason.clone())),
                Standing::Replaced => {
                    return Err(ConsensusError::Stopped("this node has been removed from the group".to_owned()));
                }
                Standing::Joining | Standing::Learner | Standing::Voter => {}
            }
            let leader = self.known_leader();
            let tried = match &leader {
                Some(name) if *name == self.me => timeout_at(until, self.ask_here(ask)).await,
                Some(name) => timeout_at(until, self.ask_there(ask, name)).await,
                None => Ok(Err(Missing::NotDone("no leader is known".to_owned()))),
            };
            match tried {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Missing::For(e))) => return Err(e),
                Ok(Err(Missing::Unknown(why))) => perhaps_done = Some(why),
                Ok(Err(Missing::NotDone(_))) => {}
                Err(_) => perhaps_done = Some("the leader's answer did not come".to_owned()),
            }
            let again = until.min(Instant::now() + PAUSE);
            let mut metrics = self.raft.metrics();
            tokio::select! {
                () = sleep_until(again) => {}
                _ = metrics.wait_for(|m| leader_of(m, self.id, &self.me) != leader) => {}
            }
            if Instant::now() >= until {
                return Err(match perhaps_done {
                    Some(last) => ConsensusError::Unknown { within, last },
                    None => ConsensusError::NoLeader { within },
                });
            }
        }
    }

    fn known_leader(&self) -> Option<NodeName> {
        leader_of(&self.raft.metrics().borrow(), self.id, &self.me)
    }

    async fn ask_here(&self, ask: &Ask) -> Result<Answer, Missing> {
        let not_leader = || Missing::NotDone("this node is not the leader any more".to_owned());
        match ask {
            Ask::Propose(command) => match self.raft.client_write(command.clone()).await {
                Ok(done) => Ok((done.data, done.log_id.index + 1)),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(not_leader()),
                Err(e) => Err(Missing::Unknown(e.to_string())),
            },
            Ask::Read => match self.raft.get_read_log_id().await {
                Ok((id, _)) => Ok((None, after(id.as_ref()))),
                Err(_) => Err(not_leader()),
            },
            Ask::Remove(name) => match self.in_background(removed, name.clone()).await {
                Ok(()) => Ok((None, 0)),
                Err(CallRefused::Failed(why)) => Err(Missing::For(ConsensusError::Members(why))),
                Err(e) => Err(Missing::NotDone(e.to_string())),
            },
        }
    }

    async fn ask_there(&self, ask: &Ask, leader: &NodeName) -> Result<Answer, Missing> {
        let call = async {
            match ask {
                Ask::Propose(command) => {
                    let message = Propose { command: command.clone() };
                    let done: Proposed = self.peers.call(leader, PROPOSE, &message, TRY).await?;
                    Ok((Some(done.outcome), done.applied))
                }
                Ask::Read => {
                    let from: ReadFrom = self.peers.call(leader, READ, &(), TRY).await?;
                    Ok((None, from.applied))
                }
                Ask::Remove(name) => {
                    // Several commits, one after the other.
                    let message = Remove { name: name.clone() };
                    self.peers.call::<_, ()>(leader, REMOVE, &message, TRY * 5).await?;
                    Ok((None, 0))
                }
            }
        };
        let mut metrics = self.raft.metrics();
        let called: Result<Answer, CallError> = tokio::select! {
            called = call => called,
            // A dead leader's answer is not waited for once there is another.
            _ = metrics.wait_for(|m| leader_of(m, self.id, &self.me).is_some_and(|l| l != *leader)) => {
                return Err(Missing::Unknown(format!("node {leader} is not the leader any more")));
            }
        };
        called.map_err(|e| match (e.refusal(), ask) {
            (Some(CallRefused::Failed(why)), Ask::Remove(_)) => Missing::For(ConsensusError::Members(why.clone())),
            (Some(CallRefused::Failed(_)), _) => Missing::Unknown(e.to_string()),
            (Some(_), _) => Missing::NotDone(e.to_string()),
            (None, _) if e.never_sent() => Missing::NotDone(e.to_string()),
            (None, _) => Missing::Unknown(e.to_string()),
        })
    }

    /// A change of the voters goes on when its caller has gone: half a change is worse than a late one.
    async fn in_background<A, T, F>(&self, f: impl FnOnce(Arc<Members>, A) -> F, a: A) -> Result<T, CallRefused>
    where
        F: Future<Output = Result<T, CallRefused>> + Send + 'static,
        T: Send + 'static,
    {
        let task = tokio::spawn(f(self.members.clone(), a));
        task.await.unwrap_or_else(|e| Err(CallRefused::Failed(e.to_string())))
    }

    /// Waits until so many entries are applied here.
    async fn follow(&self, applied: u64, until: Instant) -> bool {
        let mut progress = self.view.progress.clone();
        matches!(timeout_at(until, progress.wait_for(|p| *p >= applied)).await, Ok(Ok(_)))
    }

    fn check_addressee(&self, to: u64) -> Result<(), CallRefused> {
        if to == self.id {
            return Ok(());
        }
        Err(CallRefused::NotAllowed(format!("this is voter {}, not voter {to}", self.id)))
    }

    /// What the leader does for others; refused where it is another node.
    async fn lead(&self, ask: &Ask) -> Result<Answer, CallRefused> {
        self.ask_here(ask).await.map_err(|missing| match missing {
            Missing::NotDone(why) => CallRefused::Unavailable(why),
            Missing::Unknown(why) => CallRefused::Failed(why),
            Missing::For(e) => match e {
                ConsensusError::Members(why) => CallRefused::Failed(why),
                e => CallRefused::Failed(e.to_string()),
            },
        })
    }
}

/// Makes a group of one, if that is what is to be done.
async fn found(raft: &Raft, id: u64, config: &ConsensusConfig, peers: &Peers) -> Result<(), ConsensusError> {
    let failed = |e: &dyn fmt::Display| ConsensusError::Start(e.to_string());
    if config.founding == Founding::Join || raft.is_initialized().await.map_err(|e| failed(&e))? {
        return Ok(());
    }
    let me = &config.me;
    // A founder whose state was wiped must join the group that it founded.
    for name in peers.names().iter().filter(|n| *n != me && config.founding == Founding::Found) {
        let hello = peers.call::<_, Hello>(name, HELLO, &(), Duration::from_millis(500)).await;
        if matches!(hello, Ok(Hello { member: true, .. })) {
            warn!(peer = %name, "there is a group already: this node joins it instead of founding one");
            return Ok(());
        }
    }
    info!(id, "founding the group");
    let founder = BTreeMap::from([(id, BasicNode::new(me))]);
    raft.initialize(founder).await.map_err(|e| failed(&e))
}

fn leader_of(metrics: &crate::types::Metrics, id: u64, me: &NodeName) -> Option<NodeName> {
    match metrics.current_leader {
        Some(leader) if leader == id => Some(me.clone()),
        Some(leader) => name_of(&metrics.membership_config, leader),
        None => None,
    }
}

async fn joined(members: Arc<Members>, join: Join) -> Result<Joined, CallRefused> {
    members.join(&join).await
}

async fn removed(members: Arc<Members>, name: NodeName) -> Result<(), CallRefused> {
    members.remove(&name).await
}

fn fatal<T: Serialize, E: fmt::Display>(done: Result<T, E>) -> Result<Bytes, CallRefused> {
    match done {
        Ok(value) => answer(&value),
        Err(e) => Err(CallRefused::Failed(e.to_string())),
    }
}

#[async_trait]
impl Consensus for RaftConsensus {
    async fn propose(&self, command: Command, within: Duration) -> Result<Outcome, ConsensusError> {
        let until = Instant::now() + within;
        let (outcome, applied) = self.ask(&Ask::Propose(command), within).await?;
        self.follow(applied, until.min(Instant::now() + FOLLOW)).await;
        outcome.ok_or_else(|| ConsensusError::Unknown { within, last: "the command had no outcome".to_owned() })
    }

    async fn read(&self, within: Duration) -> Result<Arc<ClusterState>, ConsensusError> {
        let until = Instant::now() + within;
        let (_, applied) = self.ask(&Ask::Read, within).await?;
        if self.follow(applied, until).await {
            return Ok(self.view.state.borrow().clone());
        }
        Err(ConsensusError::Unknown { within, last: "this node has not caught up".to_owned() })
    }

    async fn remove_voter(&self, name: &NodeName, within: Duration) -> Result<(), ConsensusError> {
        self.ask(&Ask::Remove(name.clone()), within).await.map(|_| ())
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.view.state.clone()
    }

    fn leader(&self) -> watch::Receiver<Option<NodeName>> {
        self.signals.leader.subscribe()
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.signals.standing.subscribe()
    }

    fn is_leader(&self) -> bool {
        self.signals.leader.borrow().as_ref() == Some(&self.me)
    }

    fn status(&self) -> ConsensusStatus {
        let metrics = self.raft.metrics();
        let m = metrics.borrow();
        let group = m.membership_config.membership();
        let names =
            |ids: &mut dyn Iterator<Item = u64>| ids.filter_map(|id| name_of(&m.membership_config, id)).collect();
        ConsensusStatus {
            id: self.id,
            standing: self.signals.standing.borrow().clone(),
            term: m.current_term,
            leader: self.signals.leader.borrow().clone(),
            logged: m.last_log_index.map_or(0, |i| i + 1),
            applied: after(m.last_applied.as_ref()),
            voters: names(&mut group.voter_ids()),
            learners: names(&mut group.learner_ids()),
            changing: group.get_joint_config().len() > 1,
        }
    }

    async fn handle_call(&self, from: &NodeName, method: &str, body: Bytes) -> Result<Bytes, CallRefused> {
        match method {
            APPEND => {
                let Append { to, request } = parse(&body)?;
                self.check_addressee(to)?;
                let done = self.raft.append_entries(request).await;
                if !matches!(done, Ok(AppendEntriesResponse::HigherVote(_)) | Err(_)) {
                    self.heard.now();
                }
                fatal(done)
            }
            VOTE => {
                let Ballot { to, request } = parse(&body)?;
                self.check_addressee(to)?;
                fatal(self.raft.vote(request).await)
            }
            SNAPSHOT => {
                let Picture { to, vote, meta, state } = parse(&body)?;
                self.check_addressee(to)?;
                // One that can't be read would stop this node's consensus for good.
                let _: ClusterState = parse(state.as_bytes())?;
                let snapshot = Box::new(std::io::Cursor::new(state.into_bytes()));
                fatal(self.raft.install_full_snapshot(vote, Snapshot::<Types> { meta, snapshot }).await)
            }
            PROPOSE => {
                let Propose { command } = parse(&body)?;
                let (outcome, applied) = self.lead(&Ask::Propose(command)).await?;
                let outcome = outcome.ok_or_else(|| CallRefused::Failed("the command had no outcome".to_owned()))?;
                answer(&Proposed { outcome, applied })
            }
            READ => {
                let (_, applied) = self.lead(&Ask::Read).await?;
                answer(&ReadFrom { applied })
            }
            JOIN => {
                let join: Join = parse(&body)?;
                if join.name != *from {
                    return Err(CallRefused::NotAllowed(format!("the certificate is of {from}, not of {}", join.name)));
                }
                answer(&self.in_background(joined, join).await?)
            }
            REMOVE => {
                let Remove { name } = parse(&body)?;
                self.lead(&Ask::Remove(name)).await?;
                answer(&())
            }
            HELLO => {
                // From memory alone: a hung disk must not keep the others from an election.
                let member = self.raft.metrics().borrow().membership_config.voter_ids().next().is_some();
                let no_leader = !self.is_leader() && self.heard.last().elapsed() >= self.silence;
                answer(&Hello { id: self.id, no_leader, member })
            }
            other => Err(CallRefused::UnknownMethod(other.to_owned())),
        }
    }

    async fn shutdown(&self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Err(error) = timeout(Duration::from_secs(5), self.raft.shutdown()).await {
            warn!(%error, "consensus did not stop in time");
        }
        self.signals.leader.send_replace(None);
        self.signals.standing.send_replace(Standing::Failed("it was shut down".to_owned()));
        self.store.close();
    }
}

impl Drop for RaftConsensus {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for RaftConsensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftConsensus").field("me", &self.me).field("id", &self.id).finish_non_exhaustive()
    }
}
