//! Streaming of the log from a primary to a standby, packet by packet.

use std::collections::VecDeque;

use rand::Rng;

use super::database::Entry;
use super::fault::Cheat;
use super::world::World;

/// A connection over which nothing has come for so long is given up (PostgreSQL's `wal_receiver_timeout`, as the engine
/// sets it), in nanoseconds.
const TIMEOUT: u64 = 3_000_000_000;

/// A receiver that was turned away tries again after so long, in milliseconds.
const AGAIN: std::ops::Range<u64> = 20..120;

/// A standby's receiver.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    /// Whose log.
    pub(super) upstream: usize,
    /// In which epoch.
    pub(super) epoch: u64,
    pub(super) link: Link,
    /// Why it was turned away.
    pub(super) error: Option<String>,
}

/// Its connection.
#[derive(Clone, Debug)]
pub(super) enum Link {
    /// None; the next try is then.
    Down(u64),
    Up(Streaming),
}

/// An open connection.
#[derive(Clone, Debug)]
pub(super) struct Streaming {
    /// The life of the primary that it belongs to.
    life: u64,
    /// What is on its way down: when it arrives, from which place.
    down: VecDeque<(u64, usize, Vec<Entry>)>,
    /// What is on its way up: when it arrives, and how much is on disk.
    up: VecDeque<(u64, usize)>,
    sent: usize,
    told: Option<usize>,
    heard: u64,
}

impl Receiver {
    pub(super) fn new(upstream: usize, epoch: u64, now: u64) -> Self {
        Self { upstream, epoch, link: Link::Down(now), error: None }
    }

    pub(super) fn streams(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }
}

impl World {
    /// One step of the stream that flows to `standby`.
    pub(super) fn stream(&mut self, standby: usize) {
        let machine = self.machine(standby);
        if !machine.on || machine.frozen {
            return;
        }
        let Some(mut receiver) = machine.db.receiver.take() else { return };
        let up = receiver.upstream;
        receiver.link = match receiver.link {
            Link::Down(at) if at > self.now => Link::Down(at),
            Link::Down(_) => match self.open_stream(standby, &receiver) {
                Ok(streaming) => {
                    receiver.error = None;
                    Link::Up(streaming)
                }
                Err(why) => {
                    receiver.error = why;
                    Link::Down(self.now + self.rng.random_range(AGAIN) * 1_000_000)
                }
            },
            Link::Up(streaming) => match self.flow(standby, up, streaming) {
                Some(streaming) => Link::Up(streaming),
                None => {
                    self.machine(up).db.confirmed.remove(&standby);
                    Link::Down(self.now + self.rng.random_range(AGAIN) * 1_000_000)
                }
            },
        };
        self.machine(standby).db.receiver = Some(receiver);
    }

    fn open_stream(&mut self, standby: usize, receiver: &Receiver) -> Result<Streaming, Option<String>> {
        let up = receiver.upstream;
        if !self.linked(up, standby) || !self.linked(standby, up) {
            return Err(None);
        }
        let primary = &self.machine(up).db;
        if !primary.leads() || primary.epoch != receiver.epoch || primary.habits.hung {
            return Err(None);
        }
        let (life, history) = (primary.life, self.history_of(up));
        let own = &self.machine(standby).db;
        if let Some(why) = own.parts_from(&history) {
            return Err(Some(why));
        }
        let own = self.machine(standby).db.log.clone();
        if !self.machine(up).db.log.starts_with(&own) {
            let text = format!(
                "the log of {} is not a part of that of {}, and its numbers say so",
                self.name(standby),
                self.name(up)
            );
            self.broken(text);
        }
        let now = self.now;
        self.machine(up).db.confirmed.insert(standby, 0);
        Ok(Streaming { life, down: VecDeque::new(), up: VecDeque::new(), sent: own.len(), told: None, heard: now })
    }

    /// Moves what is on its way. `None`: the connection is over.
    fn flow(&mut self, standby: usize, up: usize, mut link: Streaming) -> Option<Streaming> {
        let now = self.now;
        let (down_ok, up_ok) = (self.linked(up, standby), self.linked(standby, up));
        let primary = &self.machine(up).db;
        let serves = primary.leads() && primary.life == link.life;
        if !serves && down_ok {
            return None;
        }
        // The primary's side: what is on its disk is sent, and nobody hears that it could not be.
        if serves && down_ok && !primary.habits.hung {
            link.heard = now;
            let upto = primary.flushed;
            if upto > link.sent {
                let entries = primary.log.get(link.sent..upto).unwrap_or_default().to_vec();
                let from = std::mem::replace(&mut link.sent, upto);
                let arrives = now + self.latency();
                link.down.push_back((arrives, from, entries));
            }
        }
        let unsynced = self.cheat == Some(Cheat::ConfirmsUnsynced);
        let own = &mut self.machine(standby).db;
        if own.habits.full {
            return None;
        }
        if !own.habits.hung {
            while link.down.front().is_some_and(|(at, ..)| *at <= now) {
                let Some((_, from, entries)) = link.down.pop_front() else { break };
                if from != own.log.len() {
                    return None;
                }
                own.log.extend(entries);
            }
            let flushed = if unsynced { own.log.len() } else { own.flushed };
            if link.told.is_none_or(|told| flushed > told) {
                link.told = Some(flushed);
                if up_ok {
                    let arrives = now + self.latency();
                    link.up.push_back((arrives, flushed));
                } else {
                    // It is sent again when the cut heals.
                    link.told = None;
                }
            }
        }
        while link.up.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, flushed)) = link.up.pop_front() else { break };
            let primary = &mut self.machine(up).db;
            if primary.life == link.life {
                primary.confirmed.insert(standby, flushed);
            }
        }
        (now.saturating_sub(link.heard) < TIMEOUT).then_some(link)
    }
}
