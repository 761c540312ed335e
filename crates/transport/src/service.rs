//! What answers the calls of other nodes.

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use trine_platform::BoxStream;
use trine_protocol::NodeName;

use crate::CallRefused;

/// Answers the other nodes. `from` is proven by the caller's certificate; whether that node is (still) a member is for
/// the service to judge.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// One call; the body is JSON, as is the answer's ([`parse`], [`answer`]).
    ///
    /// Each call runs in a task of its own. Its future is dropped when the caller gives up or the connection breaks: work
    /// that must be finished then belongs in a task that the service spawns.
    ///
    /// # Errors
    /// Why not; the caller gets it as it is.
    async fn call(&self, from: &NodeName, method: &str, body: Bytes) -> Result<Bytes, CallRefused>;

    /// A raw stream that begins after its preface. The stream ends when this returns.
    async fn stream(&self, from: NodeName, preface: serde_json::Value, stream: BoxStream);
}

/// Reads a call's body.
///
/// # Errors
/// [`CallRefused::BadRequest`].
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallRefused> {
    serde_json::from_slice(body).map_err(|e| CallRefused::BadRequest(e.to_string()))
}

/// Writes an answer's body.
///
/// # Errors
/// [`CallRefused::Failed`] when it can't be written as JSON.
pub fn answer<T: Serialize>(value: &T) -> Result<Bytes, CallRefused> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| CallRefused::Failed(e.to_string()))
}
