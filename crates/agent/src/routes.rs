//! Where this node's endpoints lead.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use trine_endpoint::{Route, Target};
use trine_protocol::Epoch;

use crate::node::Node;

/// What the controller told is believed for so long when it is silent.
const BELIEVED: Duration = Duration::from_secs(30);

/// The routes of both endpoints.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) writer: watch::Sender<Route>,
    pub(crate) reader: watch::Sender<Route>,
    /// New transactions wait.
    pub(crate) drain: watch::Sender<bool>,
}

impl Default for Routes {
    fn default() -> Self {
        let hold = |what| watch::channel(Route::hold(Epoch::ZERO, what)).0;
        Self {
            writer: hold("the cluster has no primary yet"),
            reader: hold("the cluster has no standby yet"),
            drain: watch::channel(false).0,
        }
    }
}

/// Keeps the routes for ever.
pub(crate) async fn keep_routes(node: Arc<Node>) {
    let mut state = node.consensus.state();
    let mut serving = node.serving.changes();
    let mut doing = node.doing.subscribe();
    let mut digest = node.digest.subscribe();
    let mut promises = node.desk.promises();
    loop {
        set(&node.routes.writer, writer(&node));
        set(&node.routes.reader, reader(&node));
        let drain = node.routes.writer.borrow().drain;
        node.routes.drain.send_if_modified(|d| std::mem::replace(d, drain) != drain);
        tokio::select! {
            _ = state.changed() => {}
            _ = serving.changed() => {}
            _ = doing.changed() => {}
            _ = digest.changed() => {}
            _ = promises.changed() => {}
        }
    }
}

fn set(route: &watch::Sender<Route>, new: Route) {
    route.send_if_modified(|old| {
        let news = *old != new;
        *old = new;
        news
    });
}

fn writer(node: &Node) -> Route {
    let state = node.state();
    let epoch = state.epoch.max(node.desk.promised());
    if epoch > state.epoch {
        return Route::hold(epoch, format!("epoch {epoch} has no primary yet"));
    }
    let Some(held) = state.held() else {
        return Route::hold(epoch, format!("epoch {epoch} has no primary yet"));
    };
    if !state.is_open() {
        return Route::hold(epoch, format!("{} is not open in epoch {epoch} yet", held.primary));
    }
    if held.primary != *node.me() {
        return Route::remote(epoch, held.primary.clone()).draining(held.leaving.is_some());
    }
    let leads = node.doing.borrow().leading == Some(epoch) && node.serving.epoch() == Some(epoch);
    if !leads {
        return Route::hold(epoch, "this node has stopped leading");
    }
    Route::local(epoch).draining(held.leaving.is_some())
}

fn reader(node: &Node) -> Route {
    let state = node.state();
    let digest = node.digest.borrow().clone();
    let believed = digest.at.is_some_and(|at| node.clock.now().since(at) < BELIEVED);
    let mut targets = Vec::new();
    for name in state.members.keys() {
        let readable = if name == node.me() {
            crate::reporter::account(node).readable
        } else {
            believed && digest.accounts.get(name).is_some_and(|a| a.readable)
        };
        if readable && state.primary() != Some(name) {
            targets.push(target(node, name));
        }
    }
    if targets.is_empty()
        && node.config.endpoint.reader_uses_primary
        && state.is_open()
        && let Some(primary) = state.primary()
    {
        targets.push(target(node, primary));
    }
    if targets.is_empty() {
        let why = match &node.config.volume {
            None => "no standby is fit to read from",
            Some(_) if node.config.endpoint.reader_uses_primary => "no primary is open to read from",
            Some(_) => "the standbys of a volume run no database, and endpoint.reader_uses_primary is false",
        };
        return Route::hold(state.epoch, why);
    }
    Route::to(state.epoch, targets)
}

fn target(node: &Node, name: &trine_protocol::NodeName) -> Target {
    if name == node.me() { Target::Local } else { Target::Remote(name.clone()) }
}
