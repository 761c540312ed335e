//! What goes over the wire: the JSON of `trine status --json`, of events, and of requests.
//!
//! Fields may be added, never renamed or removed: scripts read them. So nothing here denies unknown fields, and states
//! that a client does not know yet become [`NodeState::Unknown`].

use std::fmt;

use serde::{Deserialize, Serialize};
use trine_protocol::NodeName;

/// The whole cluster, as one node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's identity; it is in every node's certificate.
    #[serde(default)]
    pub cluster_id: String,
    /// The kind of database: `postgres`.
    pub engine: String,
    /// The newest epoch; 0 before the first primary.
    pub epoch: u64,
    /// The primary of that epoch; `None` while it is being elected.
    pub primary: Option<NodeName>,
    /// The one word for all of it.
    pub health: Health,
    /// Why automatic work is paused; `None` when it is not.
    pub paused: Option<String>,
    /// Whose acknowledgement a commit waits for.
    pub sync: SyncStatus,
    /// Where clients connect.
    pub endpoints: Endpoints,
    /// Every member, in the configuration's order.
    pub nodes: Vec<NodeStatus>,
    /// The writer endpoint is open now.
    #[serde(default)]
    pub writable: bool,
    /// The leader of consensus, as known here; `None` when this node sees none (so the answer may be old).
    #[serde(default)]
    pub leader: Option<NodeName>,
    /// Which node answered.
    #[serde(default)]
    pub answered_by: Option<NodeName>,
    /// What a person should look at, one sentence each.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// The latest requests and what became of them, oldest first.
    #[serde(default)]
    pub requests: Vec<RequestStatus>,
    /// The number of the latest event.
    #[serde(default)]
    pub last_event: u64,
    /// The version of the answering agent.
    #[serde(default)]
    pub agent_version: String,
}

impl Status {
    /// The member of this name.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&NodeStatus> {
        self.nodes.iter().find(|n| n.name == *name)
    }
}

/// How the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Writes pass, and every member is there and caught up.
    Healthy,
    /// Writes pass; something is missing, so the next failure may stop them.
    Degraded,
    /// No writes pass.
    Unavailable,
}

/// The sync rule in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// The standbys that may acknowledge.
    pub standbys: Vec<NodeName>,
    /// How many of them must, before a commit is acknowledged.
    pub acks: usize,
}

/// Where clients connect: `address:port` of every node; for the API, URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Leads to the primary, on every node.
    pub writer: Vec<String>,
    /// Leads to a healthy standby, on every node.
    pub reader: Vec<String>,
    /// The HTTP API of every node.
    pub api: Vec<String>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Its zone.
    pub zone: String,
    /// Its address, without a port.
    pub address: String,
    /// What its database is.
    pub role: Role,
    /// What it is doing.
    pub state: NodeState,
    /// The agent's process id on its machine.
    pub agent_pid: Option<u32>,
    /// The guard's process id.
    pub guard_pid: Option<u32>,
    /// The database's process id (PostgreSQL: the postmaster).
    pub database_pid: Option<u32>,
    /// Where the database listens for standbys.
    pub database_port: u16,
    /// The data directory on its machine.
    pub data_dir: String,
    /// The epoch that its data is of; `None` without data, or when nobody knows.
    pub data_epoch: Option<u64>,
    /// How far its data reaches, in the engine's notation: bytes of log (`0/3A00C0FF`), or an epoch and transactions (`3:57`).
    pub position: Option<String>,
    /// How far it is behind the primary, in bytes of log. 0 for the primary.
    pub lag_bytes: Option<u64>,
    /// How far it is behind the primary, in seconds of replay. 0 for the primary.
    pub lag_seconds: Option<f64>,
    /// It has a vote.
    #[serde(default = "yes")]
    pub voter: bool,
    /// Who is elected among equals: the highest. 0: never.
    #[serde(default)]
    pub priority: u32,
    /// It counts for the sync rule now.
    #[serde(default)]
    pub sync: bool,
    /// Its database takes writes now.
    #[serde(default)]
    pub writable: bool,
    /// A clone or rebuild under way.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// The latest comparison of the copies' content, on the primary that has led it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// Why it is not running, in one sentence.
    #[serde(default)]
    pub problem: Option<String>,
    /// The agent's version.
    #[serde(default)]
    pub agent_version: Option<String>,
}

fn yes() -> bool {
    true
}

/// A comparison of the copies' content with each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Its number, on the agent that leads it, from 1.
    pub number: u64,
    /// It is under way.
    pub running: bool,
    /// Bytes of content that were compared.
    pub done_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// The fewest copies that were compared of any part.
    pub copies: usize,
    /// What differs, or did, and what became of it: one sentence each.
    #[serde(default)]
    pub differences: Vec<String>,
    /// Of these, so many could not be repaired by this comparison.
    #[serde(default)]
    pub unrepaired: usize,
    /// Why it did not come to its end.
    #[serde(default)]
    pub problem: Option<String>,
}

/// What a node's database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows the primary.
    Standby,
    /// Neither: no database runs there, or nobody knows.
    None,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its database runs in its role.
    Running,
    /// Its database is starting, being promoted, or catching up.
    Starting,
    /// Its agent joins the consensus.
    Joining,
    /// It has no data yet and copies it from the primary.
    Cloning,
    /// Its data is of an older epoch: following, rewinding or rebuilding.
    Rejoining,
    /// A person asked for a fresh copy, and it is being made.
    Rebuilding,
    /// It promised a newer epoch and waits for its primary.
    Sealed,
    /// It was stopped from serving.
    Fenced,
    /// Its database is stopped.
    Stopped,
    /// It can't run; `problem` says why.
    Failed,
    /// Nobody hears from its agent.
    Unreachable,
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

/// How far a long copy has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: `cloning from n1`.
    pub what: String,
    /// Bytes copied.
    pub done_bytes: u64,
    /// Bytes in all, when that is known.
    pub total_bytes: Option<u64>,
}

/// A request that the cluster took, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestStatus {
    /// The number from [`Accepted::request`].
    pub number: u64,
    /// What was asked: `switchover to n2`.
    pub what: String,
    /// How far it is.
    pub state: RequestState,
    /// What is being waited for, or why it failed.
    #[serde(default)]
    pub message: String,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// Taken, not yet done.
    Pending,
    /// Done.
    Done,
    /// It could not be done.
    Failed,
}

/// A decision or a change, numbered by consensus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Its number: 1, 2, 3, … without gaps.
    pub number: u64,
    /// When, by the clock of the node that proposed it: RFC 3339.
    pub time: String,
    /// What kind: `failover`, `node_lost`, …
    pub kind: String,
    /// The epoch it happened in.
    pub epoch: u64,
    /// The node that it is about.
    pub node: Option<NodeName>,
    /// One sentence.
    pub text: String,
    /// What the decision was made on.
    #[serde(default)]
    pub evidence: serde_json::Value,
}

/// A page of events, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// The events.
    pub events: Vec<EventView>,
}

/// Ready to use for a client: user, password and every node's address.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uris {
    /// To the primary; its node comes first.
    pub writer: String,
    /// To the standbys.
    pub reader: String,
    /// The same by way of each node, the first of them [`writer`](Self::writer), when a URI can name one node only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writers: Vec<String>,
    /// And [`reader`](Self::reader).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
}

impl Uris {
    /// Of lists with one URI for all nodes, or one for each.
    #[must_use]
    pub fn of(writers: Vec<String>, readers: Vec<String>) -> Self {
        let first = |list: &[String]| list.first().cloned().unwrap_or_default();
        let several = |list: Vec<String>| if list.len() > 1 { list } else { Vec::new() };
        Self { writer: first(&writers), reader: first(&readers), writers: several(writers), readers: several(readers) }
    }

    /// MySQL's and MariaDB's, one for each address: most of their drivers take one.
    #[must_use]
    pub fn mysql(writer: &[String], reader: &[String], user: &str, password: &str, database: &str) -> Self {
        let (user, password, database) = (escape(user), escape(password), escape(database));
        let uris = |hosts: &[String]| -> Vec<String> {
            hosts.iter().map(|host| format!("mysql://{user}:{password}@{host}/{database}")).collect()
        };
        Self::of(uris(writer), uris(reader))
    }

    /// PostgreSQL's, as libpq takes them. The endpoints choose the server, so any of their sessions will do.
    #[must_use]
    pub fn postgres(writer: &[String], reader: &[String], user: &str, password: &str, database: &str) -> Self {
        let uri = |hosts: &[String]| {
            let (user, password, database) = (escape(user), escape(password), escape(database));
            format!("postgresql://{user}:{password}@{}/{database}?target_session_attrs=any", hosts.join(","))
        };
        Self::of(vec![uri(writer)], vec![uri(reader)])
    }
}

/// Keeps the password out of logs.
impl fmt::Debug for Uris {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uris(…)")
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for b in s.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// What a person asks the cluster to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Elect another primary now, without the old one's help.
    Failover {
        /// Whom; `None`: the furthest.
        #[serde(default)]
        to: Option<NodeName>,
    },
    /// Hand the primary's role on with its help; clients wait, none is refused.
    Switchover {
        /// Whom; `None`: the best standby.
        #[serde(default)]
        to: Option<NodeName>,
    },
    /// Do nothing automatic until resumed.
    Pause {
        /// Why, for whoever wonders.
        reason: String,
    },
    /// Go on.
    Resume,
    /// Make the node's data anew from the primary's, beside the old copy.
    Rebuild {
        /// Which node.
        node: NodeName,
    },
    /// Let go of a node's old identity, so that a machine with nothing on it can take its name.
    Replace {
        /// Which node.
        node: NodeName,
    },
    /// Compare the content of all copies with each other, and repair what differs.
    Verify,
    /// Kill the node's database, for a drill: refused unless the cluster is healthy and can do without it.
    EndDatabase {
        /// Which node.
        node: NodeName,
    },
    /// Elect a primary though it is not certain that nothing acknowledged is lost.
    AcceptDataLoss {
        /// Whom; `None`: the furthest.
        #[serde(default)]
        node: Option<NodeName>,
        /// `false`: change nothing, only estimate what would be lost.
        #[serde(default)]
        confirm: bool,
    },
}

/// The cluster took a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its number: [`Status::requests`] says what becomes of it. `None` when there is nothing to wait for.
    #[serde(default)]
    pub request: Option<u64>,
    /// One sentence.
    #[serde(default)]
    pub message: String,
    /// What [`Request::AcceptDataLoss`] would lose.
    #[serde(default)]
    pub estimate: Option<LossEstimate>,
}

/// What electing a node without proof could lose, as far as anybody can still know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossEstimate {
    /// Who would become primary.
    pub node: NodeName,
    /// How far its data reaches.
    pub position: String,
    /// The furthest position that was ever reported; `None` when the node that answers has heard nothing since its start.
    pub furthest_known: Option<String>,
    /// Bytes of log between the two, at least. 0: as far as anybody knows, nothing is missing.
    pub lost_bytes: Option<u64>,
    /// The same in transactions, of a database whose log is counted so.
    #[serde(default)]
    pub lost_transactions: Option<u64>,
    /// How long ago the primary last told of a position that `node` has reached: commits of the time since then can be lost.
    pub lost_seconds: Option<f64>,
    /// All that in one sentence.
    pub text: String,
}

/// The cluster did not take a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Why, for programs.
    pub code: RefusedCode,
    /// Why, for people: what was wrong and what to do.
    pub message: String,
}

impl Refused {
    /// It was tried, or could not be tried now.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: RefusedCode::Failed, message: message.into() }
    }

    /// Too few voters answer, so nothing was decided.
    pub fn no_majority(message: impl Into<String>) -> Self {
        Self { code: RefusedCode::NoMajority, message: message.into() }
    }

    /// It was asked for, and nobody told what became of it.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { code: RefusedCode::Unknown, message: message.into() }
    }

    /// It could lose data or make two primaries.
    pub fn not_safe(message: impl Into<String>) -> Self {
        Self { code: RefusedCode::Unsafe, message: message.into() }
    }

    /// The request itself is wrong.
    pub fn wrong_use(message: impl Into<String>) -> Self {
        Self { code: RefusedCode::WrongUse, message: message.into() }
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedCode {
    /// It failed: exit 1.
    Failed,
    /// The request is wrong: exit 2.
    WrongUse,
    /// Refused for safety: exit 3.
    Unsafe,
    /// The node that was asked reaches too few voters to decide anything safely; another one may: exit 3.
    NoMajority,
    /// It may have been taken, so it must not be asked for again unseen: exit 1.
    Unknown,
    /// The token is missing or wrong: exit 1.
    Unauthorized,
}

macro_rules! shown_as_in_json {
    ($($t:ty: $($variant:ident = $word:literal),+;)+) => {$(
        impl $t {
            /// The word that stands for it in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    )+};
}

shown_as_in_json! {
    Health: Healthy = "healthy", Degraded = "degraded", Unavailable = "unavailable";
    Role: Primary = "primary", Standby = "standby", None = "none";
    NodeState: Running = "running", Starting = "starting", Joining = "joining", Cloning = "cloning",
        Rejoining = "rejoining", Rebuilding = "rebuilding", Sealed = "sealed", Fenced = "fenced", Stopped = "stopped",
        Failed = "failed", Unreachable = "unreachable", Unknown = "unknown";
    RequestState: Pending = "pending", Done = "done", Failed = "failed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_json() {
        for state in [NodeState::Running, NodeState::Unreachable, NodeState::Cloning, NodeState::Unknown] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert_eq!(serde_json::to_value(Role::None).unwrap(), "none");
        assert_eq!(serde_json::from_str::<NodeState>("\"of-tomorrow\"").unwrap(), NodeState::Unknown);
    }

    #[test]
    fn requests_are_tagged_and_strict() {
        let r: Request = serde_json::from_str(r#"{"do":"switchover","to":"n2"}"#).unwrap();
        assert_eq!(r, Request::Switchover { to: Some("n2".parse().unwrap()) });
        assert_eq!(serde_json::from_str::<Request>(r#"{"do":"resume"}"#).unwrap(), Request::Resume);
        let r: Request = serde_json::from_str(r#"{"do":"end_database","node":"n2"}"#).unwrap();
        assert_eq!(r, Request::EndDatabase { node: "n2".parse().unwrap() });
        assert!(serde_json::from_str::<Request>(r#"{"do":"end_database"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"do":"failover","too":"n2"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"do":"failover","to":"N 2"}"#).is_err());
    }

    #[test]
    fn uris_are_what_libpq_takes() {
        let hosts = ["127.0.0.2:6432".to_owned(), "127.0.0.1:6432".to_owned()];
        let uris = Uris::postgres(&hosts, &hosts, "app", "a/b c", "app");
        assert_eq!(
            uris.writer,
            "postgresql://app:a%2Fb%20c@127.0.0.2:6432,127.0.0.1:6432/app?target_session_attrs=any"
        );
    }
}
