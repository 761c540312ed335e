//! How a log's end is numbered, and which epochs it is made of: as `crates/engine/src/mysql/place.rs` and `seal.rs` do it.

use trine_engine::{CopyId, Fork, History};
use trine_protocol::{Epoch, Position};

use super::super::database::{Entry, Kind};
use super::super::product::Product;

const SHIFT: u32 = 40;

/// The epoch that a number belongs to.
pub(super) const fn epoch_of(number: u64) -> u64 {
    number >> SHIFT
}

/// The protocol's position of a log that ends with this number.
pub(super) const fn position(number: u64) -> Position {
    Position { epoch: Epoch(epoch_of(number)), offset: number }
}

/// The lowest number of an epoch.
pub(super) const fn first_of(epoch: u64) -> u64 {
    epoch << SHIFT
}

/// Where the newest epoch of a log begins: its first barrier.
fn newest(log: &[Entry]) -> Option<(u64, usize)> {
    let barriers = log.iter().enumerate().rev().filter_map(|(at, e)| match e.kind {
        Kind::Barrier(epoch) => Some((epoch, at)),
        _ => None,
    });
    let mut newest = None;
    for (epoch, at) in barriers {
        if newest.is_some_and(|(of, _)| of != epoch) {
            break;
        }
        newest = Some((epoch, at));
    }
    newest
}

/// The newest epoch that has written to a log; 0: none has.
pub(in crate::cluster) fn epoch_of_log(log: &[Entry]) -> u64 {
    newest(log).map_or(0, |(epoch, _)| epoch)
}

/// The number of a log's end. MariaDB counts from the epoch's first transaction on, MySQL all that there are.
pub(super) fn number(product: Product, log: &[Entry]) -> u64 {
    match newest(log) {
        None => log.len() as u64,
        Some((epoch, at)) if product == Product::MariaDb => first_of(epoch) + (log.len() - 1 - at) as u64,
        Some((epoch, _)) => first_of(epoch) + log.len() as u64,
    }
}

/// What the data says of the epochs before `before`: each barrier says where the log was when it was written.
pub(super) fn descent(product: Product, log: &[Entry], identity: Option<u64>, before: u64) -> History {
    let (mut forks, mut last) = (Vec::new(), 0);
    for (at, entry) in log.iter().enumerate() {
        if let Kind::Barrier(epoch) = entry.kind
            && epoch > last
            && epoch < before
        {
            let end = number(product, log.get(..at).unwrap_or_default());
            forks.push(Fork { epoch: Epoch(epoch_of(end)), end });
            last = epoch;
        }
    }
    let end = number(product, log);
    let identity = CopyId(identity.unwrap_or(0));
    History { identity, forks, epoch: Epoch(epoch_of(end)), end, rewind_ready: true }
}

/// The descent of a primary's log: its own epoch's barrier is written late, or not committed yet. `base`: how long the log was
/// when it was promoted; `log`: what it counts as its own now.
pub(super) fn of_primary(product: Product, log: &[Entry], base: usize, identity: Option<u64>, epoch: u64) -> History {
    let mut history = descent(product, log, identity, epoch);
    let from = number(product, log.get(..base).unwrap_or_default());
    history.forks.push(Fork { epoch: Epoch(epoch_of(from)), end: from });
    history.epoch = Epoch(epoch);
    history
}

/// Why a log is no part of one with that history; `None`: it is, as far as numbers say.
pub(super) fn parts_from(own: &History, upstream: &History) -> Option<String> {
    match own.common(upstream) {
        Some(fork) if own.end <= fork.end => None,
        Some(fork) => {
            let (end, epoch) = (own.end, own.epoch);
            Some(format!("it goes on to {end:x} of epoch {epoch}, the other parted from it at {:x}", fork.end))
        }
        None => Some(format!("nothing of its log (epoch {}) is in the other", own.epoch)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(kinds: &[Kind]) -> Vec<Entry> {
        (1..).zip(kinds).map(|(id, kind)| Entry { id, kind: *kind }).collect()
    }

    #[test]
    fn numbers_only_grow_and_say_the_epoch() {
        let log = log(&[Kind::Barrier(2), Kind::Append(1), Kind::Barrier(2), Kind::Barrier(5), Kind::Append(2)]);
        for product in [Product::MariaDb, Product::MySql] {
            let all: Vec<u64> = (0..=log.len()).map(|n| number(product, &log[..n])).collect();
            assert!(all.windows(2).all(|w| w[0] < w[1]), "{all:x?}");
            assert_eq!(all.iter().map(|n| epoch_of(*n)).collect::<Vec<_>>(), [0, 2, 2, 2, 5, 5]);
        }
        assert_eq!(number(Product::MariaDb, &log), first_of(5) + 1);
        assert_eq!(number(Product::MySql, &log), first_of(5) + 5);
    }

    #[test]
    fn where_a_log_has_left_its_epochs() {
        let log = log(&[Kind::Barrier(2), Kind::Append(1), Kind::Barrier(5), Kind::Append(2)]);
        let history = of_primary(Product::MySql, &log, 4, Some(7), 6);
        let forks: Vec<(u64, u64)> = history.forks.iter().map(|f| (f.epoch.0, f.end)).collect();
        assert_eq!(forks, [(0, 0), (2, first_of(2) + 2), (5, first_of(5) + 4)]);
        let of = |n: usize| descent(Product::MySql, &log[..n], Some(7), u64::MAX);
        assert_eq!(parts_from(&of(3), &history), None);
        assert_eq!(parts_from(&of(0), &history), None);
        let longer = [log.clone(), vec![Entry { id: 9, kind: Kind::Append(3) }]].concat();
        assert!(parts_from(&descent(Product::MySql, &longer, Some(7), u64::MAX), &history).is_some());
    }
}
