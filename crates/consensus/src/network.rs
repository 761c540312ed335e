//! openraft's calls to the other voters, over the peers' connections.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    Fatal, InstallSnapshotError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, SnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use trine_protocol::NodeName;
use trine_transport::{CallError, Peers};

use crate::messages::{APPEND, Append, Ballot, Picture, SNAPSHOT, VOTE};
use crate::types::{Types, Vote};

/// After a failed call to a voter the next one waits so long: it may have come back, and a refused connection costs little.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes a [`Voter`] for each.
#[derive(Clone, Debug)]
pub(crate) struct Network(pub(crate) Arc<Peers>);

/// Another voter.
pub(crate) struct Voter {
    peers: Arc<Peers>,
    id: u64,
    name: Result<NodeName, trine_protocol::BadNodeName>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Voter;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Voter {
        Voter { peers: self.0.clone(), id: target, name: node.addr.parse() }
    }
}

type Failed<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Voter {
    /// Every failure is "unreachable" to openraft, so that it pauses before it tries again; the others it would repeat at once.
    async fn call<Q, A>(&self, method: &str, request: &Q, ttl: Duration) -> Result<A, Unreachable>
    where
        Q: Serialize,
        A: DeserializeOwned,
    {
        let name = self.name.as_ref().map_err(Unreachable::new)?;
        // A little less than openraft allows, so that it is the call that times out: a call that is dropped tells nothing
        // about the connection.
        let deadline = ttl.mul_f32(0.9);
        self.peers.call(name, method, request, deadline).await.map_err(|e: CallError| Unreachable::new(&e))
    }
}

impl RaftNetwork<Types> for Voter {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        let message = Append { to: self.id, request };
        Ok(self.call(APPEND, &message, option.hard_ttl()).await?)
    }

    /// Snapshots go whole, by [`RaftNetwork::full_snapshot`]; openraft never calls this then.
    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        Err(RPCError::RemoteError(RemoteError::new(self.id, RaftError::Fatal(Fatal::Stopped))))
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failed> {
        let message = Ballot { to: self.id, request };
        Ok(self.call(VOTE, &message, option.hard_ttl()).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let state = String::from_utf8(snapshot.snapshot.into_inner()).map_err(|e| Unreachable::new(&e))?;
        let message = Picture { to: self.id, vote, meta: snapshot.meta, state };
        tokio::select! {
            answer = self.call(SNAPSHOT, &message, option.hard_ttl()) => Ok(answer?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}
