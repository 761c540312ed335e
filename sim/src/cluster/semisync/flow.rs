//! The log on its way from a primary through both agents to a standby, and acknowledgements on their way back.

use std::collections::VecDeque;

use rand::Rng;

use super::super::fault::Cheat;
use super::super::product::Product;
use super::super::world::{MS, World};
use super::commits::{Nudge, Stage};
use super::feed::{Feed, Link, Stream};

/// A connection over which nothing has come for so long is given up (`slave_net_timeout`, `replica_net_timeout`).
const TIMEOUT: u64 = 4000 * MS;

/// A receiver that was turned away tries again after so long, in milliseconds: its database waits for a second, unless the door
/// of its agent closed on it at once.
const AGAIN: std::ops::Range<u64> = 50..1000;

impl World {
    /// One step of the log that flows to `standby`.
    pub(in crate::cluster) fn flow_to(&mut self, standby: usize) {
        let machine = self.machine(standby);
        if !machine.on || machine.frozen {
            return;
        }
        let Some(mut feed) = machine.db.semi.feed.take() else { return };
        let again = |w: &mut Self| Link::Down(w.now + w.rng.random_range(AGAIN) * MS);
        feed.link = match feed.link {
            Link::Down(at) if at > self.now => Link::Down(at),
            Link::Down(_) => match self.let_in(standby, &feed) {
                Some(stream) => Link::Up(stream),
                None => again(self),
            },
            Link::Up(stream) => match self.pass_on(standby, feed.upstream, stream) {
                Some(stream) => Link::Up(stream),
                None => again(self),
            },
        };
        self.machine(standby).db.semi.feed = Some(feed);
    }

    /// The primary's gate: of which epoch it is, and whether this standby's acknowledgements count.
    fn let_in(&mut self, standby: usize, feed: &Feed) -> Option<Stream> {
        let up = feed.upstream;
        let anybody = self.cheat == Some(Cheat::AnybodyAcknowledges);
        if !self.reaches(up, standby) || self.machine(standby).db.habits.hung {
            return None;
        }
        let now = self.now;
        let asked = now + self.rng.random_range(1..5) * MS;
        let primary = &mut self.machine(up).db;
        if !primary.leads() || primary.epoch != feed.epoch || primary.habits.hung {
            return None;
        }
        if feed.acknowledges && !anybody && !primary.semi.counted.contains(&standby) {
            return None;
        }
        if feed.acknowledges {
            primary.semi.nudges.push(Nudge { epoch: feed.epoch, stage: Stage::Asked(asked) });
        }
        let (life, visible) = (primary.life, primary.visible());
        let own = self.machine(standby).db.log.clone();
        if !self.machine(up).db.log.starts_with(&own) {
            let (name, of) = (self.name(standby), self.name(up));
            self.broken(format!("the log of {name} is not a part of that of {of}, and its numbers say so"));
        }
        // Nothing is sent twice. But of what a standby says to have, MySQL is told only what it has released itself.
        let sent = if self.product == Product::MySql { own.len().min(visible) } else { own.len() };
        let (down, up, acknowledges) = (VecDeque::new(), VecDeque::new(), feed.acknowledges);
        Some(Stream { life, acknowledges, down, up, sent, received: 0, acknowledged: 0, heard: now })
    }

    /// Moves what is on its way. `None`: the connection is over.
    fn pass_on(&mut self, standby: usize, up: usize, mut link: Stream) -> Option<Stream> {
        let now = self.now;
        let anybody = self.cheat == Some(Cheat::AnybodyAcknowledges);
        if !self.machine(standby).agent_up || !self.machine(up).agent_up {
            return None;
        }
        let (down_ok, up_ok) = (self.way(up, standby), self.way(standby, up));
        let primary = &self.machine(up).db;
        let serves = primary.leads() && primary.life == link.life;
        let counts = !link.acknowledges || anybody || primary.semi.counted.contains(&standby);
        if down_ok && !(serves && counts) {
            return None;
        }
        if serves && down_ok && !primary.habits.hung {
            link.heard = now;
            // What is on its disk is sent.
            let upto = primary.flushed;
            if upto > link.sent {
                let entries = primary.log.get(link.sent..upto).unwrap_or_default().to_vec();
                let from = std::mem::replace(&mut link.sent, upto);
                let arrives = now + self.latency();
                link.down.push_back((arrives, from, entries));
            }
        }
        // What is on its way waits in an agent that stands still.
        if down_ok {
            self.receive(standby, &mut link)?;
        }
        let unsynced = self.cheat == Some(Cheat::ConfirmsUnsynced);
        let own = &self.machine(standby).db;
        let has = if unsynced { link.received } else { link.received.min(own.flushed) };
        if link.acknowledges && !own.habits.hung && has > link.acknowledged && up_ok {
            link.acknowledged = has;
            let arrives = now + self.latency();
            link.up.push_back((arrives, has));
        }
        while up_ok && link.up.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, upto)) = link.up.pop_front() else { break };
            let primary = &mut self.machine(up).db;
            if primary.life == link.life && counts {
                primary.semi.acked = primary.semi.acked.max(upto);
            }
        }
        (now.saturating_sub(link.heard) < TIMEOUT).then_some(link)
    }

    /// What has arrived is received: it stands in the log, applied or not.
    fn receive(&mut self, standby: usize, link: &mut Stream) -> Option<()> {
        let now = self.now;
        let own = &mut self.machine(standby).db;
        if own.habits.hung {
            return Some(());
        }
        let due = |link: &Stream| link.down.front().is_some_and(|(at, ..)| *at <= now);
        own.semi.waits_for_room = own.habits.full && due(link);
        while !own.habits.full && due(link) {
            let Some((_, from, entries)) = link.down.pop_front() else { break };
            // A part of it may be there already: it is skipped.
            let new = own.log.len().checked_sub(from)?;
            link.received = from + entries.len();
            own.log.extend(entries.into_iter().skip(new));
        }
        Some(())
    }
}
