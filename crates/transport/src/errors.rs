//! Why a call failed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trine_protocol::NodeName;

use crate::certificate::CertificateError;

/// A service's "no", which travels to the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CallRefused {
    /// This node knows no such method: an older or newer version.
    #[error("unknown method {0:?}")]
    UnknownMethod(String),
    /// The request can't be read, or asks for what can't be.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The caller may not ask this.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// Not now: try again, or elsewhere.
    #[error("not now: {0}")]
    Unavailable(String),
    /// It tried, and failed.
    #[error("failed: {0}")]
    Failed(String),
}

/// No connection to a peer could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The operating system refused: nobody listens, no route, …
    #[error("no connection: {0}")]
    Tcp(#[from] io::Error),
    /// The handshake failed: no or a wrong certificate on either side.
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    /// The certificate is in order for TLS, but not of the node that was asked for.
    #[error("the peer's certificate is refused: {0}")]
    Peer(CertificateError),
    /// The peer speaks another protocol.
    #[error("the peer does not speak {0}")]
    Protocol(&'static str),
    /// HTTP/2 could not begin.
    #[error("HTTP/2 could not begin: {0}")]
    Http(hyper::Error),
    /// No answer in time.
    #[error("no connection within {0:?}")]
    Deadline(Duration),
    /// The preface could not be sent.
    #[error("the stream broke before its preface was sent: {0}")]
    Preface(io::Error),
    /// The runtime is going down.
    #[error("this node is stopping")]
    Stopping,
}

/// A call failed.
///
/// [`CallError::never_sent`] tells whether the peer can have seen it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No address is known.
    #[error("no address is known for node {0}")]
    UnknownPeer(NodeName),
    /// The request can't be written as JSON, or the method's name can't stand in a path.
    #[error("the call {method} can't be written: {reason}")]
    BadCall {
        /// Which.
        method: String,
        /// Why.
        reason: String,
    },
    /// No connection; the call was not sent.
    #[error("node {node} ({address}) can't be reached")]
    Unreachable {
        /// Which.
        node: NodeName,
        /// Where it was tried.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Arc<ConnectError>,
    },
    /// Sent, and no answer in time.
    #[error("node {node} did not answer {method} within {after:?}")]
    TimedOut {
        /// Which.
        node: NodeName,
        /// What.
        method: String,
        /// The call's deadline.
        after: Duration,
    },
    /// Sent, and the connection broke before the answer.
    #[error("the connection to node {node} broke during {method}")]
    Broken {
        /// Which.
        node: NodeName,
        /// What.
        method: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node said no.
    #[error("node {node} refused {method}: {refusal}")]
    Refused {
        /// Which.
        node: NodeName,
        /// What.
        method: String,
        /// Why.
        refusal: CallRefused,
    },
    /// The answer is not what was asked for.
    #[error("the answer of node {node} to {method} can't be read")]
    BadAnswer {
        /// Which.
        node: NodeName,
        /// What.
        method: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CallError {
    /// The peer has certainly not seen the call, so to repeat it is harmless whatever it does.
    #[must_use]
    pub fn never_sent(&self) -> bool {
        matches!(self, Self::UnknownPeer(_) | Self::BadCall { .. } | Self::Unreachable { .. })
    }

    /// Why the node said no, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&CallRefused> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}
