//! What an inspection sees of a simulated database.

use std::time::Duration;

use trine_engine::{CopyId, Inspection, Process, Role, StandbySeen};
use trine_protocol::NodeName;

use super::stream::Receiver;
use super::world::World;

/// A look at the database of `i`.
pub(super) fn looked(w: &mut World, i: usize) -> Inspection {
    let now = w.now;
    let names: Vec<NodeName> = w.machines.iter().map(|m| m.name.clone()).collect();
    let db = &mut w.machine(i).db;
    let mut seen = Inspection::of(db.copy.clone(), *db.process.borrow());
    seen.identity = db.id.map(CopyId);
    if !db.runs() {
        return seen;
    }
    if db.habits.hung {
        seen.process = Process::Hung;
        seen.silent = Duration::from_nanos(now.saturating_sub(db.answered));
        return seen;
    }
    db.answered = now;
    let name = |i: usize| names.get(i).cloned();
    seen.role = Some(db.role);
    seen.timeline = Some(db.timeline());
    seen.position = Some(db.position(db.flushed));
    match db.role {
        Role::Primary => {
            seen.rewind_ready = true;
            let standby = |(i, flushed): (&usize, &usize)| {
                let flushed = Some(*flushed as u64);
                Some((name(*i)?, StandbySeen { streaming: true, flushed, replayed: flushed, replay_lag: None }))
            };
            seen.standbys = db.confirmed.iter().filter_map(standby).collect();
        }
        Role::Standby => {
            seen.received = Some(db.flushed as u64);
            seen.replayed = Some(db.replayed as u64);
            seen.following = db.receiver.as_ref().and_then(|r| name(r.upstream));
            seen.streaming = db.receiver.as_ref().is_some_and(Receiver::streams);
            seen.receiver_error = db.receiver.as_ref().and_then(|r| r.error.clone());
            seen.lag = seen.streaming.then_some(Duration::ZERO);
        }
    }
    seen
}
