//! The place in MySQL's log, as it names its transactions.
//!
//! MySQL names a transaction after the server that wrote it, with a number of that server's own: names of several primaries
//! have no order. But a copy is always a beginning of one log, so how many names it has says how far it reaches; and the first
//! transaction of each epoch is given a name that says the epoch: `7472696e-6500-…:<epoch>`. The place is (the last epoch that
//! is named, how many transactions there are), as one number.

use std::collections::BTreeMap;

use trine_protocol::Epoch;

use crate::mysql::place::{Place, first_of};

/// In which the epochs' names are, in place of a server's UUID: "trine" and zeros.
pub(crate) const EPOCHS: &str = "7472696e-6500-4000-8000-000000000000";

/// The transactions of each source: which numbers, from and to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct GtidSet(BTreeMap<String, Vec<(u64, u64)>>);

impl GtidSet {
    /// Reads one of the database's lists: `uuid:1-5:7,\nuuid:tag:1-3`.
    ///
    /// # Errors
    /// What is no such list.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("{part:?} in {text:?} is no set of GTIDs");
        let mut set = Self::default();
        for source in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            let mut parts = source.split(':').map(str::trim);
            let uuid = parts.next().filter(|u| u.len() == 36).ok_or_else(|| wrong(source))?.to_ascii_lowercase();
            let mut name = uuid.clone();
            for part in parts {
                let is_tag = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if part.chars().all(is_tag) && part.starts_with(|c: char| !c.is_ascii_digit()) {
                    name = format!("{uuid}:{part}");
                    continue;
                }
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (first, last) = (first.trim().parse().ok(), last.trim().parse().ok());
                let (Some(first), Some(last)) = (first, last) else { return Err(wrong(part)) };
                if first == 0 || last < first {
                    return Err(wrong(part));
                }
                set.add(&name, (first, last));
            }
        }
        Ok(set)
    }

    fn add(&mut self, name: &str, (first, last): (u64, u64)) {
        let ranges = self.0.entry(name.to_owned()).or_default();
        ranges.push((first, last));
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for &(first, last) in ranges.iter() {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        *ranges = merged;
    }

    /// What is in one of them or both.
    pub(crate) fn or(mut self, other: &Self) -> Self {
        for (name, ranges) in &other.0 {
            for range in ranges {
                self.add(name, *range);
            }
        }
        self
    }

    /// What is in both of them.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (name, ranges) in &self.0 {
            for (first, last) in ranges {
                for (from, to) in other.0.get(name).into_iter().flatten() {
                    let (first, last) = (*first.max(from), *last.min(to));
                    if first <= last {
                        both.add(name, (first, last));
                    }
                }
            }
        }
        both
    }

    /// As the database's protocol has it: how many sources, and of each its UUID, how many ranges, and each range's first number
    /// and the one after its last. `None`: names with tags are written another way.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = (self.0.len() as u64).to_le_bytes().to_vec();
        for (name, ranges) in &self.0 {
            let digits: Vec<u8> = name.bytes().filter(|b| *b != b'-').collect();
            let hex = std::str::from_utf8(&digits).ok().filter(|d| d.len() == 32)?;
            bytes.extend(u128::from_str_radix(hex, 16).ok()?.to_be_bytes());
            bytes.extend((ranges.len() as u64).to_le_bytes());
            for (first, last) in ranges {
                bytes.extend(first.to_le_bytes());
                bytes.extend(last.checked_add(1)?.to_le_bytes());
            }
        }
        Some(bytes)
    }

    /// The other way. `None`: it is cut off, too long, or written another way.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut set = Self::default();
        for _ in 0..u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?) {
            let hex = format!("{:032x}", u128::from_be_bytes(*bytes.split_off(..16)?.first_chunk()?));
            let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
            let name = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-");
            for _ in 0..u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?) {
                let first = u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
                let after = u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
                if first == 0 || after <= first {
                    return None;
                }
                set.add(&name, (first, after - 1));
            }
        }
        bytes.is_empty().then_some(set)
    }

    /// How many transactions.
    fn count(&self) -> u64 {
        self.0.values().flatten().map(|(first, last)| last - first + 1).fold(0, u64::saturating_add)
    }

    /// How many of one source.
    pub(crate) fn count_of(&self, name: &str) -> u64 {
        self.0.get(name).into_iter().flatten().map(|(first, last)| last - first + 1).fold(0, u64::saturating_add)
    }

    /// How far a log reaches that has these transactions.
    pub(crate) fn place(&self) -> Place {
        let epoch = self.0.get(EPOCHS).and_then(|r| r.last()).map_or(0, |(_, last)| *last);
        Place { number: first_of(Epoch(epoch)).saturating_add(self.count()), text: self.to_string() }
    }
}

impl std::fmt::Display for GtidSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut comma = "";
        for (name, ranges) in &self.0 {
            write!(f, "{comma}{name}")?;
            for (first, last) in ranges {
                if first == last { write!(f, ":{first}")? } else { write!(f, ":{first}-{last}")? }
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaa-0000-0000-0000-000000000001";
    const B: &str = "bbbbbbbb-0000-0000-0000-000000000002";

    fn set(text: &str) -> GtidSet {
        GtidSet::parse(text).unwrap()
    }

    #[test]
    fn lists_of_identifiers() {
        assert_eq!(set(""), GtidSet::default());
        let both = set(&format!("{A}:1-5:7:9-10,\n{}:1", B.to_uppercase()));
        assert_eq!(both.to_string(), format!("{A}:1-5:7:9-10,{B}:1"));
        assert_eq!((both.count(), both.count_of(A), both.count_of("nobody")), (9, 8, 0));
        assert_eq!(set(&format!("{A}:3:1-2")).to_string(), format!("{A}:1-3"));
        assert_eq!(set(&format!("{A}:1:tag:1-3")).count(), 4);
        for wrong in ["0-1-5", &format!("{A}:x-1"), &format!("{A}:5-1"), &format!("{A}:0"), &format!("{A}:-")] {
            assert!(GtidSet::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sets_are_united() {
        let united = set(&format!("{A}:1-5")).or(&set(&format!("{A}:4-9,{B}:1")));
        assert_eq!(united.to_string(), format!("{A}:1-9,{B}:1"));
    }

    #[test]
    fn what_two_sets_have_in_common() {
        let (one, other) = (set(&format!("{A}:1-5:8-9,{B}:1")), set(&format!("{A}:4-8")));
        assert_eq!(one.and(&other).to_string(), format!("{A}:4-5:8"));
        assert_eq!(other.and(&one), one.and(&other));
    }

    #[test]
    fn the_protocols_form() {
        let both = set(&format!("{A}:1-5:8,{B}:1"));
        let bytes = both.encode().unwrap();
        assert_eq!(bytes.len(), 8 + (16 + 8 + 2 * 16) + (16 + 8 + 16));
        assert_eq!(bytes[8..12], [0xaa; 4]);
        assert_eq!(GtidSet::decode(&bytes), Some(both));
        for cut in 0..bytes.len() {
            assert_eq!(GtidSet::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(set(&format!("{A}:tag:1")).encode(), None);
    }

    /// Along a log the place grows with each transaction, and with each epoch.
    #[test]
    fn a_place_is_the_last_epoch_and_the_count() {
        assert_eq!(set("").place().number, 0);
        assert_eq!(set(&format!("{A}:1-4")).place().number, 4);
        let third = set(&format!("{A}:1-4,{EPOCHS}:3"));
        assert_eq!(third.place().number, first_of(Epoch(3)) + 5);
        let more = third.clone().or(&set(&format!("{B}:1-6")));
        assert_eq!(more.place().number, first_of(Epoch(3)) + 11);
        assert_eq!(more.or(&set(&format!("{EPOCHS}:7"))).place().number, first_of(Epoch(7)) + 12);
    }
}
