//! Answers the other nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use trine_engine::History;
use trine_platform::BoxStream;
use trine_protocol::{Epoch, NodeName};
use trine_transport::{CallRefused, Service, answer, parse};

use crate::digest::Account;
use crate::lease::{Release, Renew};
use crate::neighbours::EnginePreface;
use crate::node::Node;
use crate::switchover::{caught_up, obstacle};

/// A primary's answer to a node that wants to follow it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct LogOf {
    /// Which epochs its log is made of.
    pub(crate) history: History,
    /// Others can rewind to it already.
    pub(crate) rewind_ready: bool,
}

/// How long the question for a log waits for a promotion. Shorter than the asking node waits for its answer.
const PROMOTION: Duration = Duration::from_millis(400);

/// The agent's side of the peer port.
#[derive(Debug)]
pub(crate) struct NodeService(pub(crate) Arc<Node>);

#[async_trait]
impl Service for NodeService {
    async fn call(&self, from: &NodeName, method: &str, body: Bytes) -> Result<Bytes, CallRefused> {
        let node = &self.0;
        if node.config.member(from).is_none() {
            return Err(CallRefused::Failed(format!("{from} is no member of this cluster")));
        }
        if method.starts_with("consensus/") {
            return node.consensus.handle_call(from, method, body).await;
        }
        match method {
            "lease/renew" => {
                let Renew { epoch, lease } = parse(&body)?;
                answer(&node.desk.renew(epoch, lease))
            }
            "lease/release" => {
                let Release { epoch } = parse(&body)?;
                node.desk.release(epoch);
                node.tell.notify_one();
                answer(&())
            }
            "controller/report" => {
                let account: Account = parse(&body)?;
                answer(&node.bureau.take(from.clone(), account))
            }
            "cluster/generation" => answer(&node.state().generation),
            "engine/prepare-switchover" => {
                let to: Option<NodeName> = parse(&body)?;
                if let Some(why) = obstacle(node).await {
                    return answer(&Err::<(), String>(why));
                }
                if let Err(error) = node.engine.prepare_stop().await {
                    tracing::info!(error = error.chain(), "could not prepare the stop; it takes a little longer");
                }
                answer(&match to {
                    Some(to) => caught_up(node, &to, Duration::from_secs(3)).await,
                    None => Ok(()),
                })
            }
            "drill/end-database" => answer(&crate::drill::end_own(node).await),
            "engine/examine" => answer(&crate::doctor::own(node).await),
            "engine/verify" => answer(&crate::verify::begin(node)),
            "engine/history" => {
                let epoch: Epoch = parse(&body)?;
                answer(&history(node, epoch).await)
            }
            other => Err(CallRefused::UnknownMethod(other.to_owned())),
        }
    }

    async fn stream(&self, from: NodeName, preface: serde_json::Value, stream: BoxStream) {
        if let Ok(EnginePreface { engine: ask }) = serde_json::from_value(preface.clone()) {
            if self.0.config.member(&from).is_some() {
                self.0.engine.serve(&from, ask, stream).await;
            }
            return;
        }
        match serde_json::from_value(preface) {
            Ok(preface) => crate::dial::serve(&self.0, preface, stream).await,
            Err(error) => tracing::warn!(%from, %error, "a stream began with a line that can't be read"),
        }
    }
}

/// The history of the log that this node writes as the primary of `epoch`; `None` when it is not (yet).
async fn history(node: &Node, epoch: Epoch) -> Option<LogOf> {
    // Who asks during the promotion gets the answer at its end, not at the next time of asking.
    let mut doing = node.doing.subscribe();
    let leads = doing.wait_for(|d| d.leading == Some(epoch) || d.failed.is_some() || d.yielded.is_some());
    let _ = tokio::time::timeout(PROMOTION, leads).await;
    if node.doing.borrow().leading != Some(epoch) {
        return None;
    }
    // A member's slot that has lost its log keeps nothing any more, and lets nobody in from PostgreSQL 18 on: who is about to
    // follow gets a new one.
    let members: BTreeSet<NodeName> = node.state().members.keys().cloned().collect();
    if let Err(error) = node.engine.set_members(&members).await {
        tracing::debug!(error = error.chain(), "can't renew the members' slots now; the next who asks tries again");
    }
    match node.engine.history().await {
        Ok(history) => Some(LogOf { history, rewind_ready: node.seen.borrow().rewind_ready }),
        Err(error) => {
            tracing::warn!(error = error.chain(), "can't tell the history of the log");
            None
        }
    }
}
