//! Why an agent could not start.

use std::io;
use std::net::SocketAddr;

use trine_engine::EngineError;
use trine_platform::DiskError;

use crate::config::ConfigError;

/// The agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A configuration or secrets file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates.
    #[error("can't use the certificates of this node")]
    Identity(#[source] trine_transport::IdentityError),
    /// The certificate is another node's.
    #[error("the certificate {path} is of {found}, and trine.toml says that this node is {expected}")]
    OtherNode {
        /// The certificate.
        path: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// A state file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A state file that can be read and makes no sense.
    #[error(
        "the state file {name} is corrupt: {why}. This node can't know what it promised: move its state folder away, \
         keep the data, and let it join anew with `trine node replace`"
    )]
    Corrupt {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A port.
    #[error("can't listen on {address} (ports.{port}): is another program using it?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Which of the ports.
        port: &'static str,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// Consensus.
    #[error("consensus can't start")]
    Consensus(#[source] trine_consensus::ConsensusError),
    /// The database.
    #[error("the database can't be taken over")]
    Engine(#[from] EngineError),
    /// Threads for the clients' bytes.
    #[error("can't start the threads that carry the clients' bytes")]
    Threads(#[source] io::Error),
    /// TLS of the API.
    #[error("can't set up the API: {0}")]
    Api(String),
    /// One of its tasks ended, which none may.
    #[error("the agent's task {0} has ended: this is a defect, please report it with the log")]
    TaskEnded(String),
    /// It is no voter any more, and won't become one as it is.
    #[error("{}", match .0 {
        trine_consensus::Standing::Failed(why) => format!("consensus has stopped: {why}"),
        _ => "this node's vote was taken (trine node replace): to let it join anew, move its state folder away and \
              start it again; its data may stay".to_owned(),
    })]
    Expelled(trine_consensus::Standing),
    /// It has to start anew, from within: [`crate::run`] does so.
    #[error("the agent has to start anew")]
    Restart(crate::generation::Restart),
}
