//! Is the disk alive? A primary whose disk hangs commits nothing, and another node should lead.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use trine_platform::Disk;

use crate::lease::fence;
use crate::node::Node;

/// How often a small file is written, durably.
const EVERY: Duration = Duration::from_secs(1);

/// A write that takes so long is a hung disk. A busy one takes tenths of a second.
const HUNG: Duration = Duration::from_secs(5);

/// Writes for ever. The write has a thread of its own and is only looked at here: it may never return.
pub(crate) async fn keep_probing(node: Arc<Node>, disk: Arc<dyn Disk>) {
    loop {
        sleep(EVERY).await;
        let (disk, blocking) = (disk.clone(), disk.blocking());
        let began = Instant::now();
        let mut write = pin!(blocking.run(move || disk.write("probe", b"alive\n")));
        let done = loop {
            tokio::select! {
                done = &mut write => break done,
                () = sleep(HUNG) => {
                    let leading = node.doing.borrow().leading;
                    if let Some(epoch) = leading {
                        fence(&node, epoch, &format!("its disk has not finished a small write for {:.1} s", began.elapsed().as_secs_f64()));
                    } else {
                        tracing::warn!(since = ?began.elapsed(), "the disk hangs: a small write does not finish");
                    }
                }
            }
        };
        match done {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(error = crate::keeper::error_chain(&error), "the disk does not take a small write")
            }
        }
    }
}
