//! A standby's receiver, as its agent keeps it.

use std::collections::VecDeque;

use rand::Rng;

use super::super::database::Entry;
use super::super::fault::Cheat;
use super::super::world::{MS, World};
use super::place;
use super::state::Heard;

/// How often a standby's agent looks how far its database is, and tells it.
const TELL: u64 = 25 * MS;

/// Where a standby's log comes from.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct Feed {
    pub(super) upstream: usize,
    pub(super) epoch: u64,
    /// Its receiver was set to acknowledge, and to have on disk what it does.
    pub(super) acknowledges: bool,
    /// It acknowledges nothing before it has received up to this number.
    caught_up: u64,
    pub(super) link: Link,
    /// When its agent looks next.
    look: u64,
}

/// The receiver's connection.
#[derive(Clone, Debug)]
pub(super) enum Link {
    /// None; the next try is then.
    Down(u64),
    Up(Stream),
}

/// An open connection.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// The life of the primary that it belongs to.
    pub(super) life: u64,
    /// It was let in as one that acknowledges.
    pub(super) acknowledges: bool,
    /// What is on its way down: when it arrives, from which place.
    pub(super) down: VecDeque<(u64, usize, Vec<Entry>)>,
    /// Acknowledgements on their way up: when each arrives, and up to where.
    pub(super) up: VecDeque<(u64, usize)>,
    pub(super) sent: usize,
    /// Up to where something came by this connection: nothing else is acknowledged by it.
    pub(super) received: usize,
    pub(super) acknowledged: usize,
    pub(super) heard: u64,
}

impl Feed {
    pub(super) fn new(upstream: usize, epoch: u64, acknowledges: bool, caught_up: u64, now: u64) -> Self {
        Self { upstream, epoch, acknowledges, caught_up, link: Link::Down(now), look: now }
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        match &self.link {
            Link::Up(stream) => Some(stream),
            Link::Down(_) => None,
        }
    }

    pub(super) fn streams(&self) -> bool {
        self.stream().is_some()
    }
}

impl World {
    /// The agent of `standby` hears whether it counts, has its receiver acknowledge or not, and tells how far it is.
    pub(in crate::cluster) fn keep_feed(&mut self, standby: usize) {
        let (now, product) = (self.now, self.product);
        let anybody = self.cheat == Some(Cheat::AnybodyAcknowledges);
        let machine = self.machine(standby);
        if !machine.on || machine.frozen || !machine.agent_up || machine.agent_frozen {
            return;
        }
        let hung = machine.db.habits.hung;
        let Some(feed) = machine.db.semi.feed.as_mut().filter(|f| now >= f.look) else { return };
        feed.look = now + TELL;
        let (up, epoch, acknowledges, caught_up) = (feed.upstream, feed.epoch, feed.acknowledges, feed.caught_up);
        let reached = self.way(up, standby) && self.way(standby, up);
        let primary = &self.machine(up).db;
        if !reached || !primary.leads() || primary.epoch != epoch {
            return;
        }
        let counts = primary.semi.counted.contains(&standby) || anybody;
        if hung {
            // Its database does not say how far it is; what it said last is told again.
            if let Some(heard) = self.machine(up).db.semi.heard.get_mut(&standby) {
                heard.at = now;
            }
            return;
        }
        let db = &self.machine(standby).db;
        let wanted = counts && (place::number(product, &db.log) >= caught_up || anybody);
        if wanted != acknowledges {
            let slowest = db.slow_flush;
            let takes = self.rng.random_range(1..=slowest + 2) * MS;
            let db = &mut self.machine(standby).db;
            if wanted {
                // An acknowledgement holds for what was received before, too.
                db.flushed = db.log.len();
            }
            if let Some(feed) = &mut db.semi.feed {
                feed.acknowledges = wanted;
                feed.link = Link::Down(now + takes);
            }
        }
        let db = &self.machine(standby).db;
        let (received, applied, streaming) = (db.log.len(), db.replayed, db.semi.streams());
        let heard = Heard { received, applied, streaming, at: now };
        self.machine(up).db.semi.heard.insert(standby, heard);
    }
}
