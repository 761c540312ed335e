//! What a database must be able to do for the rules to hold: the trait [`Engine`]; PostgreSQL and MariaDB behind it, and any
//! other database as it is configured ([`volume`]); and the guard,
//! the tiny process that is the database's parent and ends it when its lease runs out.
//!
//! The agent calls an engine level-triggered and may drop any of its futures at any time: every operation can be begun
//! again after that, and after a SIGKILL of anything at any point.

mod account;
mod adoption;
mod barrier;
mod error;
mod files;
mod finding;
pub mod guard;
mod history;
mod inspection;
mod look;
pub mod mysql;
mod neighbours;
pub mod postgres;
mod scale;
mod swap;
mod threads;
mod tool;
mod verification;
pub mod volume;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use trine_platform::BoxStream;
pub use trine_protocol::SyncSetting;
use trine_protocol::{Epoch, Moment, NodeName, Position};

pub use error::EngineError;
pub use finding::{Finding, Severity};
pub use history::{Fork, History};
pub use inspection::{DataCopy, Inspection, Process, Role, StandbySeen};
pub use neighbours::{Ask, Neighbours};
pub use scale::Scale;
pub use verification::{Difference, Remedy, Verification};

/// A database under the agent's control.
///
/// Methods that return a `Result` can be called again after an error, a dropped future or a crash; each says what it
/// expects. None of them decides anything: which epoch, whom to follow and when to stop comes from the agent.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// Which kind: `postgres`, `mariadb`, `volume`.
    fn kind(&self) -> &'static str;

    /// What its positions count.
    fn scale(&self) -> Scale {
        Scale::Bytes
    }

    /// Gives it the way to the other nodes' engines, before anything else. One whose database goes to the others by itself
    /// does not need it.
    fn meet(&self, neighbours: Arc<dyn Neighbours>) {
        drop(neighbours);
    }

    /// Another node's engine has opened a stream to this one. Returns once the stream may be closed.
    async fn serve(&self, from: &NodeName, ask: Ask, stream: BoxStream) {
        tracing::warn!(%from, ?ask, kind = self.kind(), "this engine takes no streams");
        drop(stream);
    }

    /// Called once when the agent starts, before anything else: finds a guard that is still running and its database,
    /// kills what is left of a database without a guard, finishes or removes what a crash left of a clone.
    ///
    /// # Errors
    /// The folder can't be read or put in order.
    async fn attach(&self) -> Result<Process, EngineError>;

    /// What can be seen right now. Never takes longer than its own deadline (300 ms), whatever hangs.
    async fn inspect(&self) -> Inspection;

    /// Whose data the copy is, whether it runs or not; `None` without one, or when it is too damaged to say.
    ///
    /// # Errors
    /// The copy can't be read.
    async fn identity(&self) -> Result<Option<CopyId>, EngineError>;

    /// Makes the cluster's first copy. A copy that exists is complete; one that is there already is left as it is.
    ///
    /// # Errors
    /// Anything that keeps the copy from being made; nothing is left but a folder beside that the next try removes.
    async fn bootstrap(&self) -> Result<CopyId, EngineError>;

    /// Takes an existing data directory, cleanly shut down, as the cluster's first copy: it is moved into place when it
    /// is on the same file system, else copied.
    ///
    /// # Errors
    /// [`EngineError::AdoptRefused`] says what is in the way; the directory is as it was.
    async fn adopt(&self, from: &Path) -> Result<Adopted, EngineError>;

    /// Starts it: always as a standby that follows nobody, whatever it was before. Returns once it answers. When it runs
    /// already, waits until it answers and changes nothing.
    ///
    /// # Errors
    /// [`EngineError::StartFailed`] with the end of its log; [`EngineError::NoCopy`], [`EngineError::IncompleteCopy`].
    async fn start(&self) -> Result<(), EngineError>;

    /// Cuts replication, makes sure that it is cut and stays cut until the next [`follow`](Self::follow), and only then
    /// reads how far the data reaches. A few ms when nothing is attached.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`]; [`EngineError::WrongRole`] on a primary (stop or kill it, start it, then seal).
    async fn seal(&self) -> Result<Position, EngineError>;

    /// Makes a sealed standby the primary of `epoch`. Done already is done. Nothing is accepted from clients by this:
    /// commits wait until [`set_sync`](Self::set_sync) names a rule.
    ///
    /// The epoch must be above the copy's [`Inspection::timeline`]: the first epoch of a bootstrapped cluster is 2.
    ///
    /// # Errors
    /// It is not exactly the primary of `epoch` now: the agent must fence (kill) it.
    async fn promote(&self, epoch: Epoch, members: &BTreeSet<NodeName>) -> Result<(), EngineError>;

    /// On a primary: who the members are, so that their place in the log is kept for them, and nobody else's.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::WrongRole`], or what the database says.
    async fn set_members(&self, members: &BTreeSet<NodeName>) -> Result<(), EngineError>;

    /// On a primary: which epochs its log is made of. The agent gives it to the nodes that follow it.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::WrongRole`], or what the database says.
    async fn history(&self) -> Result<History, EngineError>;

    /// On a running standby: takes the log from `upstream`, whose history is `history`.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::WrongRole`], [`EngineError::OtherCluster`].
    async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError>;

    /// Takes back what this copy has and `upstream` has not, keeps it aside in `kept/`, and follows. Stops the database
    /// and starts it again; returns once it answers and streams or tries to.
    ///
    /// # Errors
    /// [`EngineError::NeedsRebuild`]: only a clone helps now. Others: nothing was changed, try again.
    async fn rejoin(
        &self,
        upstream: &Upstream,
        history: &History,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError>;

    /// Makes a new copy of `upstream`'s data beside the one that is here, and puts it in its place once it is complete.
    /// Stops the database only for that. The old copy stays until then, whatever fails.
    ///
    /// # Errors
    /// [`EngineError::DiskFull`], [`EngineError::OtherCluster`], or what kept the copy from being made.
    async fn clone_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError>;

    /// On any running database: makes `setting` the rule that commits wait for. When this returns, every part of the
    /// running database has taken it over.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], or that it could not be confirmed: either rule may hold.
    async fn set_sync(&self, setting: &SyncSetting) -> Result<(), EngineError>;

    /// On the primary of `epoch`: one commit passes through the sync rule, and writes `epoch` into the data.
    /// Waits as long as it takes. A second call joins the one that is under way.
    ///
    /// # Errors
    /// [`EngineError::BarrierCancelled`] when somebody cancelled the wait: nothing is proven then.
    async fn barrier(&self, epoch: Epoch) -> Result<(), EngineError>;

    /// On a primary: work of clients that another primary would not have, that has gone on for seconds and is not expected to end
    /// within a few more. In words for a person, who is asked to do something about it; a switchover is given up for it.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], [`EngineError::WrongRole`], or what the database says.
    async fn obstacle(&self) -> Result<Option<String>, EngineError> {
        // What still runs when the time is over is cut off.
        Ok(None)
    }

    /// Does beforehand what would make a clean stop long, while clients are still served. Nothing depends on it.
    ///
    /// # Errors
    /// What the database says.
    async fn prepare_stop(&self) -> Result<(), EngineError>;

    /// Ends it cleanly; a primary first sends its standbys everything. When it is not running that is fine.
    ///
    /// # Errors
    /// It still runs: kill it.
    async fn stop(&self) -> Result<(), EngineError>;

    /// Ends a primary whose place another one is about to take, as soon as a standby has everything that it has written.
    /// Clients wait meanwhile. [`stop`](Self::stop) as far as the database ends fast.
    ///
    /// # Errors
    /// It may still run: kill it.
    async fn hand_over(&self) -> Result<(), EngineError> {
        self.stop().await
    }

    /// Ends it at once. Never blocks. [`process`](Self::process) says when nothing of it is left.
    fn kill(&self);

    /// Arms the guard, or moves its deadline: unless it is moved again, the guard ends the database at `deadline`. Never
    /// blocks. A deadline only ever moves later; one that has passed can't be taken back.
    fn push(&self, deadline: Moment);

    /// Whether it runs, as the guard sees it; a dead database shows within milliseconds. [`Process::Stopped`] means that
    /// no process of it is left. (Never [`Process::Hung`]: that takes an inspection.)
    fn process(&self) -> watch::Receiver<Process>;

    /// Why the database ended that ran last, or did not start, as far as that is known.
    fn last_words(&self) -> Option<String> {
        None
    }

    /// On a primary: is it time to compare the copies' content with each other?
    async fn is_verification_due(&self) -> bool {
        false
    }

    /// On a primary that keeps the copies equal itself: compares all of their content, at most `pace` bytes a second, and
    /// repairs what differs where most copies agree. `seen` is told how far it is. Costs no availability.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`]: the database has its own means; [`EngineError::NotRunning`], [`EngineError::WrongRole`];
    /// it was stopped in the middle.
    async fn verify(&self, pace: Option<u64>, seen: &watch::Sender<Verification>) -> Result<(), EngineError> {
        let _ = (pace, seen);
        Err(EngineError::NotOffered { operation: "compare the copies of", kind: self.kind() })
    }

    /// What users have made or set, in this node's running database, that they would want to change: it would be lost, differ,
    /// or hold up a failover. A primary is asked for all, a standby for its own settings. Takes at most 10 s, and changes
    /// nothing.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`], or what the database says; nothing is known then.
    async fn examine(&self) -> Result<Vec<Finding>, EngineError> {
        // A database that is not known by more than its files can't be asked.
        Ok(Vec::new())
    }

    /// Opens a client's connection to the database on this node, for the endpoints.
    ///
    /// # Errors
    /// It takes none now.
    async fn connect(&self) -> std::io::Result<BoxStream>;

    /// Does a connection to another node's database come about? Whether it would be let in is not asked. Takes as long as
    /// the network does: the caller sets the deadline.
    ///
    /// # Errors
    /// What the operating system says.
    async fn reach(&self, other: &Upstream) -> std::io::Result<()>;
}

/// Which cluster's data it is: equal in all copies that were ever made of each other (PostgreSQL: the system identifier).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CopyId(pub u64);

impl From<CopyId> for String {
    fn from(id: CopyId) -> Self {
        id.0.to_string()
    }
}

impl TryFrom<String> for CopyId {
    type Error = std::num::ParseIntError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse().map(Self)
    }
}

impl fmt::Display for CopyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of a directory that was adopted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Adopted {
    /// Whose data it is.
    pub identity: CopyId,
    /// The number of its timeline: the cluster's first epoch must be higher.
    pub timeline: u64,
    /// What a person should know: settings that were not taken over, and why.
    pub notes: Vec<String>,
}

/// Where to take the log from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name, which its certificate must bear.
    pub node: NodeName,
    /// Where its database listens.
    pub address: SocketAddr,
}

/// What came of an attempt to follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Followed {
    /// It streams.
    Streaming,
    /// It is set up and will stream as soon as the upstream lets it; [`Inspection::receiver_error`] says what is in the
    /// way. Look again later.
    NotYet,
    /// This copy has what the upstream has not: rejoin.
    Diverged(String),
    /// The upstream has no longer what this copy needs next: clone.
    TooFarBehind(String),
}

/// How far a long operation is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What it does now, for people: `copying`, `rewinding`, …
    pub phase: String,
    /// Bytes done in this phase.
    pub done: u64,
    /// Of how many, when known.
    pub total: Option<u64>,
}
