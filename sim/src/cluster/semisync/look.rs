//! What an inspection sees of such a database, and which databases it ends.

use std::time::Duration;

use trine_engine::{CopyId, Inspection, Process, Role};

use super::super::product::Product;
use super::super::world::{MS, World};
use super::place;

/// So long after a standby has received what waits, its acknowledgement will not come any more.
const UNANSWERED: u64 = 3000 * MS;

/// A look at the database of `i`.
pub(super) fn looked(w: &mut World, i: usize) -> Inspection {
    if w.machine(i).db.runs() && w.machine(i).db.semi.waits_for_room {
        w.tell(format!("the disk of {} is full: its database, which would wait, is ended", w.name(i)));
        w.machine(i).db.kill();
    }
    let (now, product) = (w.now, w.product);
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
    seen.role = Some(db.role);
    if db.role == Role::Primary {
        let (epoch, last) = (db.epoch, w.own_place(i));
        seen.timeline = Some(epoch);
        seen.position = Some(place::position(last));
        seen.rewind_ready = true;
        seen.standbys = w.standbys_of(i);
        if ends_what_nobody_will_acknowledge(w, i, last) {
            w.tell(format!("commits of {} wait though a standby has them: its database is ended", w.name(i)));
            w.machine(i).db.kill();
            seen.process = Process::Stopped;
        }
        return seen;
    }
    let applied = place::number(product, db.log.get(..db.replayed).unwrap_or_default());
    let received = place::number(product, &db.log);
    seen.timeline = Some(place::epoch_of(received).max(1));
    seen.position = Some(place::position(received));
    (seen.received, seen.replayed) = (Some(received), Some(applied));
    seen.streaming = db.semi.streams();
    // In seconds: one that is not far behind is said to be at the end.
    seen.lag = seen.streaming.then_some(Duration::ZERO);
    let upstream = db.semi.upstream();
    seen.following = upstream.and_then(|(up, _)| w.machines.get(up)).map(|m| m.name.clone());
    seen
}

/// Commits wait, and a standby that counts has received them for so long that it will not acknowledge them.
fn ends_what_nobody_will_acknowledge(w: &mut World, i: usize, last: u64) -> bool {
    // MySQL does not count what waits yet.
    let waiting = if w.product == Product::MySql { last.saturating_add(1) } else { last };
    let waits = w.is_received(i, waiting) && w.commits_wait(i);
    let now = w.now;
    let unanswered = &mut w.machine(i).db.semi.unanswered;
    match *unanswered {
        Some((number, since)) if waits && number == last => now.saturating_sub(since) >= UNANSWERED,
        _ => {
            *unanswered = waits.then_some((last, now));
            false
        }
    }
}
