//! A simulated database: a log, what of it is on disk, whose log it takes, and PostgreSQL's bad habits. What MariaDB and
//! MySQL have besides is in `semi`.

use std::collections::BTreeMap;

use tokio::sync::watch;
use trine_engine::{DataCopy, Fork, History, Process, Role};
use trine_protocol::{Epoch, Position, SyncSetting};

use super::semisync::SemiSync;
use super::stream::Receiver;

/// A copy that no epoch has been led with has this timeline.
pub(super) const FIRST: u64 = 1;

/// A record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// No two records have the same.
    pub(super) id: u64,
    pub(super) kind: Kind,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The log goes on in this epoch.
    Switch(u64),
    /// The open barrier of this epoch.
    Barrier(u64),
    /// A value at the end of the list.
    Append(u64),
    /// A register's new value.
    Write { key: u64, value: u64 },
    /// A row of the agent's own, there or gone again, so that there is a commit.
    Nudge,
}

/// One node's database.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) copy: DataCopy,
    /// Whose data.
    pub(super) id: Option<u64>,
    pub(super) log: Vec<Entry>,
    /// So many records would survive a power loss.
    pub(super) flushed: usize,
    /// So many a standby shows to readers.
    pub(super) replayed: usize,
    pub(super) process: watch::Sender<Process>,
    /// Grows with each start: what began in another life is void.
    pub(super) life: u64,
    pub(super) role: Role,
    /// As a primary: its epoch, and how long its log was when it was promoted.
    pub(super) epoch: u64,
    pub(super) base: usize,
    /// The sync settings that some of its sessions may run by; the last is the newest.
    pub(super) settings: Vec<SyncSetting>,
    /// As a primary: who takes its log, and how much of it each has on disk.
    pub(super) confirmed: BTreeMap<usize, usize>,
    /// So many records are committed, as far as clients are told.
    pub(super) released: usize,
    /// So many are shown, because somebody has cancelled the wait: PostgreSQL can't take a commit back.
    pub(super) shown: usize,
    pub(super) receiver: Option<Receiver>,
    /// When the guard ends it, by the machine's clock.
    pub(super) guard: Option<u64>,
    pub(super) next_flush: u64,
    /// What a sync takes at most, in milliseconds.
    pub(super) slow_flush: u64,
    pub(super) next_replay: u64,
    pub(super) answered: u64,
    /// It takes no requests any more.
    pub(super) stopping: bool,
    pub(super) habits: Habits,
    pub(super) semi: SemiSync,
}

/// What is wrong with it at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habits {
    /// Nothing moves: its disk, or all of its processes.
    pub(super) hung: bool,
    pub(super) slow_replay: bool,
    pub(super) full: bool,
    /// So many starts fail.
    pub(super) refuses: u32,
}

impl Database {
    pub(super) fn new() -> Self {
        Self {
            copy: DataCopy::Missing,
            id: None,
            log: Vec::new(),
            flushed: 0,
            replayed: 0,
            process: watch::channel(Process::Stopped).0,
            life: 0,
            role: Role::Standby,
            epoch: 0,
            base: 0,
            settings: vec![SyncSetting::Wait],
            confirmed: BTreeMap::new(),
            released: 0,
            shown: 0,
            receiver: None,
            guard: None,
            next_flush: 0,
            slow_flush: 3,
            next_replay: 0,
            answered: 0,
            stopping: false,
            habits: Habits::default(),
            semi: SemiSync::default(),
        }
    }

    pub(super) fn runs(&self) -> bool {
        *self.process.borrow() == Process::Running
    }

    pub(super) fn leads(&self) -> bool {
        self.runs() && self.role == Role::Primary
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.life += 1;
        let committed = (self.role == Role::Primary).then(|| self.visible());
        self.semi.end(committed);
        self.receiver = None;
        self.confirmed.clear();
        self.guard = None;
        self.role = Role::Standby;
        self.shown = 0;
        self.released = 0;
        self.stopping = false;
        self.process.send_if_modified(|p| std::mem::replace(p, Process::Stopped) != Process::Stopped);
    }

    /// Starts it as a standby that follows nobody. What was written is there, synced or not.
    pub(super) fn start(&mut self) {
        self.life += 1;
        self.role = Role::Standby;
        self.replayed = 0;
        self.settings = vec![SyncSetting::Wait];
        self.process.send_replace(Process::Running);
    }

    /// The power goes off: of what was not synced, so many records are there.
    pub(super) fn lose_power(&mut self, kept: usize) {
        self.kill();
        self.log.truncate(self.flushed.saturating_add(kept));
        self.flushed = self.log.len();
        self.replayed = self.replayed.min(self.log.len());
    }

    /// Its data is gone.
    pub(super) fn wipe(&mut self) {
        self.kill();
        self.log.clear();
        (self.flushed, self.replayed, self.id) = (0, 0, None);
        self.copy = DataCopy::Missing;
        self.semi.forget();
    }

    /// Takes over another's log.
    pub(super) fn replace(&mut self, log: Vec<Entry>) {
        self.flushed = log.len();
        self.replayed = 0;
        self.log = log;
        self.copy = DataCopy::Complete;
        self.semi.forget();
    }

    /// The epoch that the log is written in.
    pub(super) fn timeline(&self) -> u64 {
        timeline(&self.log)
    }

    /// The newest epoch whose barrier is in the data, and how long the log is.
    pub(super) fn position(&self, upto: usize) -> Position {
        let barrier = |e: &Entry| match e.kind {
            Kind::Barrier(epoch) => Some(epoch),
            _ => None,
        };
        let epoch = self.log.iter().take(upto).filter_map(barrier).max().unwrap_or(0);
        Position { epoch: Epoch(epoch), offset: upto as u64 }
    }

    /// The epochs that the log is made of.
    pub(super) fn history(&self) -> Vec<Fork> {
        let mut forks = vec![(FIRST, 0)];
        for (at, entry) in self.log.iter().enumerate() {
            if let Kind::Switch(epoch) = entry.kind {
                forks.push((epoch, at));
            }
        }
        let ends = forks.iter().skip(1).map(|(_, at)| *at as u64);
        forks.iter().zip(ends).map(|((epoch, _), end)| Fork { epoch: Epoch(*epoch), end }).collect()
    }

    /// Why this log is not a part of one with that history; `None`: as far as numbers say it is.
    pub(super) fn parts_from(&self, upstream: &History) -> Option<String> {
        let (own, length) = (Epoch(self.timeline()), self.log.len() as u64);
        match upstream.end_of(own) {
            None => Some(format!("epoch {own} is not in this server's history")),
            Some(_) if own == upstream.epoch && length > upstream.end => {
                Some(format!("{length} is ahead of the WAL flush position {}", upstream.end))
            }
            Some(end) if length > end => {
                Some(format!("it has {length} records, and the other left epoch {own} at {end}"))
            }
            Some(_) => None,
        }
    }

    /// Has every session's rule been met for the first `length` records?
    pub(super) fn is_met(
        &self,
        setting: &SyncSetting,
        length: usize,
        index: impl Fn(&trine_protocol::NodeName) -> Option<usize>,
    ) -> bool {
        match setting {
            SyncSetting::Wait => false,
            SyncSetting::Alone => self.flushed >= length,
            SyncSetting::Any { acks, standbys } => {
                let has = |n: &&trine_protocol::NodeName| {
                    index(n).and_then(|i| self.confirmed.get(&i)).is_some_and(|flushed| *flushed >= length)
                };
                self.flushed >= length && standbys.iter().filter(has).count() >= *acks
            }
        }
    }

    /// The log flows in.
    pub(super) fn streams(&self) -> bool {
        self.receiver.as_ref().is_some_and(Receiver::streams) || self.semi.streams()
    }

    /// How many records a reader sees.
    pub(super) fn visible(&self) -> usize {
        match self.role {
            Role::Standby => self.replayed,
            Role::Primary => self.base.max(self.released).max(self.shown).min(self.log.len()),
        }
    }

    /// A reader sees what the standbys may not have.
    pub(super) fn shows_too_much(&self) -> bool {
        self.role == Role::Primary && self.shown > self.released.max(self.base)
    }

    /// How long the list is, and its last value.
    pub(super) fn list(&self) -> (usize, Option<u64>) {
        let appends = self.log.iter().take(self.visible()).filter_map(|e| match e.kind {
            Kind::Append(value) => Some(value),
            _ => None,
        });
        appends.fold((0, None), |(n, _), value| (n + 1, Some(value)))
    }

    /// A register's value.
    pub(super) fn register(&self, wanted: u64) -> Option<u64> {
        let seen = self.log.iter().take(self.visible()).rev();
        seen.filter_map(|e| match e.kind {
            Kind::Write { key, value } if key == wanted => Some(value),
            _ => None,
        })
        .next()
    }
}

pub(super) fn timeline(log: &[Entry]) -> u64 {
    let switch = |e: &Entry| match e.kind {
        Kind::Switch(epoch) => Some(epoch),
        _ => None,
    };
    log.iter().rev().find_map(switch).unwrap_or(FIRST)
}
