//! What a volume must be after its log's operations, as simply as it can be said, and the history of a log.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use trine_protocol::Epoch;
use trine_volume::{Growth, Ino, Kind, Mark, Op, Renaming, Stamp, Tree};

pub(crate) const AT: Stamp = Stamp { secs: 1, nanos: 0 };
pub(crate) const IDENTITY: u64 = 4711;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) tree: Tree,
    pub(crate) content: BTreeMap<Ino, Vec<u8>>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { tree: Tree::new(0, 0, AT), content: BTreeMap::new() }
    }

    pub(crate) fn apply(&mut self, op: &Op<'_>) {
        for gone in self.tree.apply(op).unwrap() {
            self.content.remove(&gone);
        }
        if let Op::Make { ino, kind: Kind::File, .. } = op {
            self.content.insert(*ino, Vec::new());
        }
        let number = |n: u64| usize::try_from(n).unwrap();
        let touched = match op {
            Op::Write { ino, offset, data, .. } => {
                let content = self.content.get_mut(ino).unwrap();
                let (from, upto) = (number(*offset), number(*offset) + data.len());
                if !data.is_empty() {
                    content.resize(content.len().max(upto), 0);
                    content[from..upto].copy_from_slice(data);
                }
                ino
            }
            Op::Clear { ino, offset, len, .. } => {
                let content = self.content.get_mut(ino).unwrap();
                let upto = number(offset + len).min(content.len());
                content[number(*offset).min(upto)..upto].fill(0);
                ino
            }
            Op::Resize { ino, size, .. } => {
                self.content.get_mut(ino).unwrap().truncate(number(*size));
                ino
            }
            Op::Reserve { ino, .. } => ino,
            _ => return,
        };
        let size = number(self.tree.size(*touched).unwrap());
        self.content.get_mut(touched).unwrap().resize(size, 0);
    }
}

/// All that a log has ever ended with, and until when that was one of the things it could end with.
#[derive(Clone, Debug)]
pub(crate) struct History {
    ends: HashMap<(u64, u64), (Model, usize)>,
    pub(crate) now: Model,
    pub(crate) end: Mark,
    /// After which call of the disk the log was acknowledged up to where.
    pub(crate) acked: Vec<(usize, u64)>,
}

impl History {
    pub(crate) fn new() -> Self {
        let end = Mark { lsn: 0, check: IDENTITY };
        let ends = HashMap::from([((0, IDENTITY), (Model::new(), usize::MAX))]);
        Self { ends, now: Model::new(), end, acked: Vec::new() }
    }

    /// That of a log that ends there.
    pub(crate) fn clone_at(&self, end: Mark, model: &Model) -> Self {
        let ends = HashMap::from([((end.lsn, end.check), (model.clone(), usize::MAX))]);
        Self { ends, now: model.clone(), end, acked: vec![(0, end.lsn)] }
    }

    pub(crate) fn wrote(&mut self, op: &Op<'_>, end: Mark) {
        self.now.apply(op);
        self.end = end;
        self.ends.insert((end.lsn, end.check), (self.now.clone(), usize::MAX));
    }

    pub(crate) fn acked(&mut self, calls: usize, lsn: u64) {
        self.acked.push((calls, lsn));
    }

    /// What follows `to` was taken back; since the call of this number it may not be there.
    pub(crate) fn took_back(&mut self, to: Mark, calls: usize) {
        for ((lsn, _), (_, until)) in &mut self.ends {
            if *lsn > to.lsn {
                *until = (*until).min(calls);
            }
        }
        self.now = self.at(to, 0).unwrap().clone();
        self.end = to;
    }

    /// What a volume is whose log ends there, if it may, when so many calls have been made.
    pub(crate) fn at(&self, end: Mark, calls: usize) -> Option<&Model> {
        self.ends.get(&(end.lsn, end.check)).filter(|(_, until)| calls < *until).map(|(model, _)| model)
    }

    /// Changes when something was taken back: from then on less is allowed.
    pub(crate) fn epoch_of_truth(&self, calls: usize) -> usize {
        self.ends.values().filter(|(_, until)| *until <= calls).count()
    }

    /// Whether nothing was ever taken back: then there is one log, and each of its ends is in every longer one.
    pub(crate) fn one_log(&self) -> bool {
        self.ends.values().all(|(_, until)| *until == usize::MAX)
    }

    /// Where entries of the log end that is kept from `first` on, and has its last there.
    pub(crate) fn between(&self, first: u64, last: u64, calls: usize) -> Vec<Mark> {
        let there = |until: usize| calls < until;
        let ends = self.ends.iter().filter(|((lsn, _), (_, until))| (first..=last).contains(lsn) && there(*until));
        ends.map(|((lsn, check), _)| Mark { lsn: *lsn, check: *check }).collect()
    }

    /// How long the log must be at least when so many calls have been made.
    pub(crate) fn least(&self, calls: usize) -> u64 {
        self.acked.iter().filter(|(at, _)| *at <= calls).map(|(_, lsn)| *lsn).max().unwrap_or(0)
    }
}

pub(crate) fn epoch(epoch: u64) -> Op<'static> {
    Op::Epoch { epoch: Epoch(epoch) }
}

pub(crate) fn make(ino: u64, name: &'static str, kind: Kind<'static>) -> Op<'static> {
    let name = Cow::Borrowed(name.as_bytes());
    Op::Make { parent: Ino::ROOT, name, ino: Ino(ino), kind, mode: 0o644, uid: 0, gid: 0, at: AT }
}

pub(crate) fn write(ino: u64, offset: u64, byte: u8, length: usize) -> Op<'static> {
    Op::Write { ino: Ino(ino), offset, data: vec![byte; length].into(), at: AT }
}

pub(crate) fn resize(ino: u64, size: u64) -> Op<'static> {
    Op::Resize { ino: Ino(ino), size, at: AT }
}

pub(crate) fn clear(ino: u64, offset: u64, len: u64, growth: Growth) -> Op<'static> {
    Op::Clear { ino: Ino(ino), offset, len, growth, at: AT }
}

pub(crate) fn reserve(ino: u64, offset: u64, len: u64) -> Op<'static> {
    Op::Reserve { ino: Ino(ino), offset, len, growth: Growth::Grows, at: AT }
}

pub(crate) fn unlink(name: &'static str, open: bool) -> Op<'static> {
    Op::Unlink { parent: Ino::ROOT, name: Cow::Borrowed(name.as_bytes()), open, at: AT }
}

pub(crate) fn link(ino: u64, name: &'static str) -> Op<'static> {
    Op::Link { ino: Ino(ino), parent: Ino::ROOT, name: Cow::Borrowed(name.as_bytes()), at: AT }
}

pub(crate) fn rename(name: &'static str, to: &'static str) -> Op<'static> {
    Op::Rename {
        parent: Ino::ROOT,
        name: Cow::Borrowed(name.as_bytes()),
        to: Ino::ROOT,
        new: Cow::Borrowed(to.as_bytes()),
        how: Renaming::Replace,
        open: false,
        at: AT,
    }
}
