//! The primary's side: whose acknowledgements count, and who is there to give any.

use std::collections::{BTreeMap, BTreeSet};

use trine_engine::StandbySeen;
use trine_protocol::{NodeName, SyncSetting};

use super::super::fault::Cheat;
use super::super::product::Product;
use super::super::world::{MS, World};
use super::place;

/// A standby that has said nothing for so long is not there.
const HEARD: u64 = 1000 * MS;

impl World {
    /// Do the agents of two nodes reach each other, this way? The log goes through them.
    pub(super) fn way(&self, from: usize, to: usize) -> bool {
        let moves = |i: usize| self.machines.get(i).is_some_and(|m| m.agent_up && !m.agent_frozen);
        self.linked(from, to) && moves(from) && moves(to)
    }

    /// Can one of two agents open a stream to the other?
    pub(super) fn reaches(&self, a: usize, b: usize) -> bool {
        let free = |from, to| self.way(from, to) && !self.apart.contains(&(from, to));
        free(a, b) && free(b, a)
    }

    /// The standbys that are connected to the database of `i`, and whether each acknowledges.
    fn inside(&self, i: usize) -> impl Iterator<Item = (usize, bool)> + '_ {
        let life = self.machines.get(i).map_or(0, |m| m.db.life);
        let of = move |(k, m): (usize, &super::super::world::Machine)| {
            let link = m.db.semi.feed.as_ref().filter(|f| f.upstream == i)?.stream()?;
            (link.life == life).then_some((k, link.acknowledges))
        };
        self.machines.iter().enumerate().filter_map(of)
    }

    /// How many standbys are connected to the database of `i`.
    pub(in crate::cluster) fn takers(&self, i: usize) -> usize {
        self.inside(i).count()
    }

    /// Is there a standby, connected to the database, whose acknowledgements count?
    pub(super) fn is_acknowledged(&self, i: usize) -> bool {
        self.inside(i).any(|(_, acknowledges)| acknowledges)
    }

    /// The same, of others than this one.
    pub(super) fn is_acknowledged_without(&self, i: usize, standby: usize) -> bool {
        self.inside(i).any(|(k, acknowledges)| acknowledges && k != standby)
    }

    /// Is one connected as such whose acknowledgements do not count (any more)?
    pub(super) fn has_former(&self, i: usize) -> bool {
        let counted = self.machines.get(i).map(|m| m.db.semi.counted.clone()).unwrap_or_default();
        let anybody = self.cheat == Some(Cheat::AnybodyAcknowledges);
        self.inside(i).any(|(k, acknowledges)| acknowledges && !anybody && !counted.contains(&k))
    }

    /// Has a standby whose acknowledgements count received up to the number `end`?
    pub(super) fn is_received(&self, i: usize, end: u64) -> bool {
        let Some(machine) = self.machines.get(i) else { return false };
        let db = &machine.db;
        let has = |k: usize| {
            let fresh = db.semi.heard.get(&k).filter(|h| h.streaming && self.now.saturating_sub(h.at) < HEARD);
            // What it has received is a part of this log.
            fresh.is_some_and(|h| place::number(self.product, db.log.get(..h.received).unwrap_or(&db.log)) >= end)
        };
        self.inside(i).any(|(k, acknowledges)| acknowledges && has(k))
    }

    /// Whether a commit waits.
    pub(super) fn commits_wait(&self, i: usize) -> bool {
        let Some(machine) = self.machines.get(i) else { return false };
        let db = &machine.db;
        db.settings.last() != Some(&SyncSetting::Alone) && db.flushed > db.released.max(db.shown)
    }

    /// How much of its log a primary counts: MySQL not what still waits.
    pub(super) fn own_place(&self, i: usize) -> u64 {
        let Some(machine) = self.machines.get(i) else { return 0 };
        place::number(self.product, machine.db.log.get(..self.own_length(i)).unwrap_or_default())
    }

    pub(super) fn own_length(&self, i: usize) -> usize {
        let Some(machine) = self.machines.get(i) else { return 0 };
        let db = &machine.db;
        match self.product {
            Product::MySql => db.visible(),
            _ => db.log.len(),
        }
    }

    /// The standbys that take the log, as they have said.
    pub(super) fn standbys_of(&self, i: usize) -> BTreeMap<NodeName, StandbySeen> {
        let Some(machine) = self.machines.get(i) else { return BTreeMap::new() };
        let db = &machine.db;
        let number = |n: usize| Some(place::number(self.product, db.log.get(..n).unwrap_or(&db.log)));
        let inside: BTreeSet<usize> = self.inside(i).map(|(k, _)| k).collect();
        let seen = db.semi.heard.iter().filter_map(|(k, heard)| {
            let there = heard.streaming && self.now.saturating_sub(heard.at) < HEARD && inside.contains(k);
            let name = self.machines.get(*k).filter(|_| there)?.name.clone();
            let (flushed, replayed) = (number(heard.received), number(heard.applied));
            Some((name, StandbySeen { streaming: true, flushed, replayed, replay_lag: None }))
        });
        seen.collect()
    }

    /// Whose acknowledgements count by a setting.
    pub(super) fn counted_by(&self, setting: &SyncSetting) -> BTreeSet<usize> {
        match setting {
            SyncSetting::Any { standbys, .. } => standbys.iter().filter_map(|n| self.index(n)).collect(),
            SyncSetting::Wait | SyncSetting::Alone => BTreeSet::new(),
        }
    }
}
