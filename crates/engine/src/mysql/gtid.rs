//! The place in the log, as the database numbers its transactions.
//!
//! MariaDB numbers the transactions of a domain in ascending order, and lets a session choose the next number. The first
//! transaction of epoch `e` gets `e << 40`, the rest follow by themselves. So every number says the epoch that it was
//! written in, numbers only ever grow along a log, and (epoch, number) is the protocol's position, on a standby too, where
//! each transaction keeps the number that it has.

use std::fmt;
use std::str::FromStr;

use trine_protocol::{Epoch, Position};

/// The one domain that the cluster writes in.
pub(super) const DOMAIN: u32 = 0;

/// Each epoch has room for 2^40 transactions: at 100,000 a second, four months without a failover. There is room for 2^24
/// epochs. An epoch that is full goes on into the next one's numbers, and so `promote` refuses that epoch.
const SHIFT: u32 = 40;

/// The highest epoch that has numbers.
pub(super) const HIGHEST: u64 = (1 << (64 - SHIFT)) - 1;

/// The number of an epoch's first transaction.
pub(super) const fn first_of(epoch: Epoch) -> u64 {
    epoch.0 << SHIFT
}

/// The epoch that a number belongs to.
pub(super) const fn epoch_of(number: u64) -> Epoch {
    Epoch(number >> SHIFT)
}

/// The protocol's position of a log that ends with this number.
pub(super) const fn position(number: u64) -> Position {
    Position { epoch: epoch_of(number), offset: number }
}

/// One transaction's identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gtid {
    pub(super) domain: u32,
    pub(super) server: u32,
    pub(super) number: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.number)
    }
}

impl FromStr for Gtid {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim().splitn(3, '-');
        let mut next = || parts.next().ok_or(());
        Ok(Self {
            domain: next()?.parse().map_err(drop)?,
            server: next()?.parse().map_err(drop)?,
            number: next()?.parse().map_err(drop)?,
        })
    }
}

/// The last transaction in one of the database's lists (`0-1-5,1-2-7`) that the cluster has written: the highest of its
/// domain. `None`: none yet.
///
/// # Errors
/// What is no list of identifiers.
pub(super) fn last_in(list: &str) -> Result<Option<Gtid>, String> {
    let mut last: Option<Gtid> = None;
    for text in list.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let gtid: Gtid = text.parse().map_err(|()| format!("{text:?} in {list:?} is no GTID"))?;
        if gtid.domain == DOMAIN && last.is_none_or(|l| l.number < gtid.number) {
            last = Some(gtid);
        }
    }
    Ok(last)
}

/// The further of two places.
pub(super) fn further(a: Option<Gtid>, b: Option<Gtid>) -> Option<Gtid> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.number >= b.number { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// A place as a number; 0 before the first transaction.
pub(super) fn number(place: Option<Gtid>) -> u64 {
    place.map_or(0, |g| g.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_its_epoch() {
        let first = first_of(Epoch(2));
        assert_eq!(first, 2_199_023_255_552);
        assert_eq!(epoch_of(first), Epoch(2));
        assert_eq!(epoch_of(first - 1), Epoch(1));
        assert_eq!(position(first + 7), Position { epoch: Epoch(2), offset: first + 7 });
        assert_eq!(epoch_of(first_of(Epoch(HIGHEST))), Epoch(HIGHEST));
    }

    #[test]
    fn lists_of_identifiers() {
        assert_eq!(last_in(""), Ok(None));
        let five = Gtid { domain: 0, server: 1, number: 5 };
        assert_eq!(last_in("0-1-5"), Ok(Some(five)));
        assert_eq!(last_in("0-1-5,\n0-2-4, 3-1-9"), Ok(Some(five)));
        assert!(last_in("0-1").is_err());
        assert!(last_in("8a94f357-aab4-11df-86ab-c80aa9429562:1-9").is_err());
        assert_eq!(five.to_string(), "0-1-5");
    }

    #[test]
    fn the_further_place() {
        let (five, six) = (last_in("0-1-5").unwrap(), last_in("0-2-6").unwrap());
        assert_eq!(further(five, six), six);
        assert_eq!(further(None, five), five);
        assert_eq!(number(further(None, None)), 0);
    }
}
