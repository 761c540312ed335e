//! The place in MariaDB's log, as it numbers its transactions.
//!
//! MariaDB numbers the transactions of a domain in ascending order, and lets a session choose the next number. The first
//! transaction of epoch `e` gets `e << 40`, the rest follow by themselves: the number is the place. An epoch that is full goes
//! on into the next one's numbers, and so `promote` refuses that epoch.

use std::fmt;
use std::str::FromStr;

use crate::mysql::place::Place;

/// The one domain that the cluster writes in.
pub(super) const DOMAIN: u32 = 0;

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

impl From<Gtid> for Place {
    fn from(gtid: Gtid) -> Self {
        Self { number: gtid.number, text: gtid.to_string() }
    }
}

/// The identifiers in one of the database's lists (`0-1-5,1-2-7`) that the cluster has written.
///
/// # Errors
/// What is no list of identifiers.
pub(super) fn all_in(list: &str) -> Result<Vec<Gtid>, String> {
    let texts = list.split(',').map(str::trim).filter(|t| !t.is_empty());
    let all = texts.map(|text| text.parse::<Gtid>().map_err(|()| format!("{text:?} in {list:?} is no GTID")));
    Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|g| g.domain == DOMAIN).collect())
}

/// The last of them.
///
/// # Errors
/// What is no list of identifiers.
pub(crate) fn last_in(list: &str) -> Result<Place, String> {
    Ok(all_in(list)?.into_iter().max_by_key(|g| g.number).map(Place::from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_identifiers() {
        assert_eq!(last_in(""), Ok(Place::default()));
        let five = Place { number: 5, text: "0-1-5".into() };
        assert_eq!(last_in("0-1-5"), Ok(five.clone()));
        assert_eq!(last_in("0-1-5,\n0-2-4, 3-1-9"), Ok(five));
        assert!(last_in("0-1").is_err());
        assert!(last_in("8a94f357-aab4-11df-86ab-c80aa9429562:1-9").is_err());
    }
}
