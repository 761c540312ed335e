//! What can be seen of the engine, without waiting for anything.

use std::time::Duration;

use trine_protocol::NodeName;
use trine_volume::Follower;

use super::following::Flow;
use super::serving::Up;
use super::site::Inner;
use crate::{CopyId, DataCopy, Inspection, Process, Role, StandbySeen};

impl Inner {
    pub(super) fn look(&self) -> Inspection {
        let open = self.opened();
        let process = *self.process.borrow();
        let copy = match &open.volume {
            Some(volume) if volume.is_broken() => DataCopy::Incomplete(volume.closed().unwrap_or_default()),
            _ => open.copy.clone(),
        };
        let mut seen = Inspection::of(copy, process);
        if let Some((guard, database)) = self.instance.pids() {
            (seen.guard_pid, seen.database_pid) = (Some(guard), Some(database));
        }
        if let Some(since) = open.silent {
            seen.silent = self.clock.now().since(since);
            seen.process = Process::Hung;
        }
        if open.serving.as_ref().is_some_and(|s| *s.up().borrow() == Up::Starting) {
            seen.not_ready = self.instance.not_ready();
        }
        let Some(volume) = &open.volume else { return seen };
        let now = *volume.progress().borrow();
        let position = volume.position();
        seen.identity = Some(CopyId(volume.identity()));
        seen.timeline = Some(position.epoch.0);
        seen.position = Some(position);
        if volume.leading().is_some() {
            seen.role = Some(Role::Primary);
            seen.rewind_ready = true;
            // One that is far behind is no help to a primary, and an election that had to ask it might wait for it.
            let now = self.clock.now();
            let followers = volume.followers().into_iter().filter(|(_, follower)| !follower.is_slow(now));
            let standby = |(name, follower): (NodeName, Follower)| {
                let acked = follower.acked;
                let seen = StandbySeen {
                    streaming: true,
                    flushed: Some(acked.durable),
                    replayed: Some(acked.durable),
                    replay_lag: None,
                };
                (name, seen)
            };
            seen.standbys = followers.map(standby).collect();
            return seen;
        }
        seen.role = Some(Role::Standby);
        seen.received = Some(now.end);
        // A standby's log is all that counts; what is not in the files yet gets there when it leads.
        seen.replayed = Some(now.end);
        if let Some((node, flow)) = &open.follows {
            seen.following = Some(node.clone());
            match &*flow.borrow() {
                Flow::Streaming => {
                    seen.streaming = true;
                    seen.lag = Some(Duration::ZERO);
                }
                Flow::Connecting(why) => seen.receiver_error.clone_from(why),
                Flow::Parted | Flow::TooFar(_) => {}
            }
        }
        seen
    }
}
