//! Sealing: the promise, the cut, the position.

use std::sync::Arc;

use trine_engine::{Process, Role};
use trine_protocol::{Copy, Epoch};

use super::{KeeperError, Turn, engine};
use crate::lease::{fence, wait_stopped};
use crate::node::{Node, copy_of};

pub(super) async fn seal(node: &Arc<Node>, epoch: Epoch) -> Result<Turn, KeeperError> {
    node.desk.promise(epoch).await?;
    if let Some(serving) = node.serving.epoch() {
        fence(node, serving, "a newer epoch is promised");
    }
    node.note(|d| {
        if d.sealed.is_none_or(|(e, _)| e != epoch) {
            d.sealed = Some((epoch, None));
        }
        d.following = None;
        d.leading = None;
        d.yielded = None;
        d.failed = None;
    });
    let seen = node.inspect().await;
    if copy_of(&seen) != Copy::Complete {
        // It votes, and has no data to offer.
        return Ok(Turn::Reached(Some("sealed")));
    }
    if node.doing.borrow().sealed.is_some_and(|(e, p)| e == epoch && p.is_some()) && seen.process == Process::Running {
        return Ok(Turn::Reached(Some("sealed")));
    }
    if seen.role == Some(Role::Primary) {
        // What has been a primary never becomes a standby in place: it ends, and starts as one.
        node.engine.kill();
        wait_stopped(node).await;
    }
    node.engine.start().await.map_err(engine("can't start the database as a standby"))?;
    let position = node.engine.seal().await.map_err(engine("can't seal the database"))?;
    tracing::info!(%epoch, ?position, "sealed");
    node.note(|d| {
        d.sealed = Some((epoch, Some(position)));
        d.needs = None;
    });
    node.inspect().await;
    Ok(Turn::Reached(Some("sealed")))
}
