//! Connections to databases: the local one over its unix socket, another node's by way of that node's agent.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trine_endpoint::{Backend, Dialer, Kind, Permit, Served, Target, Wire};
use trine_platform::BoxStream;
use trine_protocol::Epoch;

use crate::node::Node;

/// The line that a forwarded session begins with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Preface {
    pub(crate) endpoint: Side,
    pub(crate) epoch: Epoch,
}

/// Which endpoint a session came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Writer,
    Reader,
}

/// The serving node takes the session.
const TAKEN: u8 = b'+';
/// It does not.
const REFUSED: u8 = b'-';

/// Dials for one of this node's endpoints.
#[derive(Debug)]
pub(crate) struct NodeDialer {
    pub(crate) node: Arc<Node>,
    pub(crate) kind: Kind,
}

#[async_trait]
impl Dialer for NodeDialer {
    async fn dial(&self, target: &Target, epoch: Epoch) -> io::Result<Backend> {
        let side = match self.kind {
            Kind::Writer => Side::Writer,
            Kind::Reader => Side::Reader,
        };
        let node = match target {
            Target::Local => {
                let permit = permit(&self.node, side, epoch)?;
                let stream = self.node.engine.connect().await?;
                return Ok(match permit {
                    Some(permit) => Backend::permitted(stream, permit),
                    None => Backend::free(stream),
                });
            }
            Target::Remote(node) => node,
        };
        let preface = Preface { endpoint: side, epoch };
        let mut stream = self.node.peers.open_stream(node, &preface).await.map_err(io::Error::other)?;
        match stream.read_u8().await? {
            TAKEN => Ok(Backend::free(stream)),
            _ => Err(io::Error::other(format!("{node} does not serve this endpoint in epoch {epoch}"))),
        }
    }
}

/// What the bytes of a session mean.
pub(crate) fn wire(node: &Node) -> Wire {
    match node.engine.kind() {
        "postgres" => Wire::Postgres,
        "mariadb" | "mysql" => Wire::MySql,
        _ => Wire::Raw,
    }
}

/// Serves a session that another node's endpoint forwards here.
pub(crate) async fn serve(node: &Arc<Node>, preface: Preface, mut stream: BoxStream) {
    let opened = match permit(node, preface.endpoint, preface.epoch) {
        Ok(permit) => node.engine.connect().await.map(|s| (permit, s)),
        Err(why) => Err(why),
    };
    let (permit, backend) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(?preface, %error, "a forwarded session is refused");
            let _ = stream.write_u8(REFUSED).await;
            let _ = stream.shutdown().await;
            return;
        }
    };
    if stream.write_u8(TAKEN).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    let cancel = tokio_util::sync::CancellationToken::new();
    let ended = cancel.clone().drop_guard();
    let watcher = end_with_epoch(node.clone(), preface, cancel.clone(), permit.is_some());
    let mut served = Served::new(wire(node), permit.clone(), cancel);
    if preface_is_writer(permit.as_ref()) {
        served.drain = Some(node.routes.drain.subscribe());
        if let Some(writer) = node.writer.get() {
            served.busy = writer.busy();
        }
    }
    tokio::select! {
        () = served.relay(stream, backend) => {}
        () = watcher => {}
    }
    drop(ended);
}

fn preface_is_writer(permit: Option<&Arc<dyn Permit>>) -> bool {
    permit.is_some()
}

/// Cancels the session when this node stops serving the epoch. Then never returns: the relay ends by itself.
async fn end_with_epoch(
    node: Arc<Node>,
    preface: Preface,
    cancel: tokio_util::sync::CancellationToken,
    permitted: bool,
) {
    if permitted {
        let mut serving = node.serving.changes();
        let _ = serving.wait_for(|e| *e != preface.epoch).await;
        cancel.cancel();
    }
    std::future::pending::<()>().await;
}

/// May this node serve that endpoint in that epoch, and with which permit?
fn permit(node: &Arc<Node>, side: Side, epoch: Epoch) -> io::Result<Option<Arc<dyn Permit>>> {
    let state = node.state();
    let leads = state.is_open()
        && state.epoch == epoch
        && node.doing.borrow().leading == Some(epoch)
        && node.serving.epoch() == Some(epoch)
        && node.serving.valid();
    if leads {
        return Ok(Some(node.serving.clone()));
    }
    if side == Side::Reader && crate::reporter::readable(node) {
        return Ok(None);
    }
    Err(io::Error::other(format!("this node is not the open primary of epoch {epoch}, nor fit to read from")))
}
