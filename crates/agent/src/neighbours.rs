//! Streams between the engines of two nodes, over the agents' own port.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use trine_engine::{Ask, Neighbours};
use trine_platform::BoxStream;
use trine_protocol::NodeName;
use trine_transport::Peers;

/// The line that such a stream begins with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EnginePreface {
    pub(crate) engine: Ask,
}

/// The other nodes, as an engine sees them.
#[derive(Debug)]
pub(crate) struct PeerEngines(pub(crate) Arc<Peers>);

#[async_trait]
impl Neighbours for PeerEngines {
    async fn open(&self, node: &NodeName, ask: Ask) -> io::Result<BoxStream> {
        self.0.open_stream(node, &EnginePreface { engine: ask }).await.map_err(io::Error::other)
    }
}
