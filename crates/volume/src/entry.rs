//! How an operation stands in the log.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Op;

/// Bytes before an entry's body: its length (4) and its check (8).
pub(crate) const HEADER: usize = 12;

/// The largest body, in bytes. The largest operation is a write, and the mount takes 1 MiB of one at most.
pub(crate) const LARGEST: usize = 4 << 20;

/// A place between two entries: how many bytes of the log come before it, and the check of the last of them.
///
/// An entry's check is a hash of its content *and of the check before it*. So two logs with the same check at a place are
/// the same up to there, and what is left on the disk of an older log never looks like the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Bytes of log before it.
    pub lsn: u64,
    /// The check of the entry that ends here; at the log's beginning, the volume's identity.
    pub check: u64,
}

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Bytes of log before it.
    pub(crate) from: u64,
    /// The mark after it.
    pub(crate) end: Mark,
}

/// What an entry's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Of the body, in bytes.
    pub(crate) length: usize,
    pub(crate) check: u64,
}

impl Header {
    /// Reads one; `None`: the bytes are none.
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (check, _) = rest.split_first_chunk::<8>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        // No entry is empty: zeros are the end of the log.
        let sound = (1..=LARGEST).contains(&length);
        sound.then(|| Self { length, check: u64::from_le_bytes(*check) })
    }

    /// Does the header belong to this body, after an entry with the check `before`?
    pub(crate) fn fits(&self, before: u64, body: &[u8]) -> bool {
        self.length == body.len() && self.check == check(before, body)
    }
}

fn check(before: u64, body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, before)
}

/// Writes the entry into `buffer`, which is emptied first, and gives the mark after it. `None`: it is too large.
pub(crate) fn encode(op: &Op<'_>, after: Mark, buffer: &mut Vec<u8>) -> Option<Mark> {
    buffer.clear();
    buffer.resize(HEADER, 0);
    *buffer = postcard::to_extend(op, std::mem::take(buffer)).ok()?;
    let body = buffer.get(HEADER..)?;
    if body.len() > LARGEST {
        return None;
    }
    let (length, check) = (u32::try_from(body.len()).ok()?, check(after.check, body));
    let header = length.to_le_bytes().into_iter().chain(check.to_le_bytes());
    for (to, from) in buffer.iter_mut().zip(header) {
        *to = from;
    }
    Some(Mark { lsn: after.lsn + buffer.len() as u64, check })
}

/// The entries at the beginning of `bytes`, which follow `at`, as far as they are whole and sound.
pub(crate) struct Entries<'a> {
    bytes: &'a [u8],
    at: Mark,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: Mark) -> Self {
        Self { bytes, at }
    }

    /// How many bytes the next entry has; `None`: not even its header is whole, or it is none.
    pub(crate) fn next_length(&self) -> Option<usize> {
        let header = Header::parse(self.bytes.first_chunk::<HEADER>()?)?;
        Some(HEADER + header.length)
    }
}

impl<'a> Iterator for Entries<'a> {
    /// The body, and the mark after it.
    type Item = (&'a [u8], Mark);

    fn next(&mut self) -> Option<Self::Item> {
        let header = Header::parse(self.bytes.first_chunk::<HEADER>()?)?;
        let body = self.bytes.get(HEADER..HEADER + header.length)?;
        if !header.fits(self.at.check, body) {
            return None;
        }
        self.bytes = self.bytes.get(HEADER + header.length..)?;
        self.at = Mark { lsn: self.at.lsn + (HEADER + header.length) as u64, check: header.check };
        Some((body, self.at))
    }
}

/// The operation in an entry's body.
///
/// # Errors
/// It is none of this version of the log.
pub(crate) fn decode(body: &[u8]) -> Result<Op<'_>, postcard::Error> {
    postcard::from_bytes(body)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::{Ino, Stamp};

    const START: Mark = Mark { lsn: 0, check: 77 };

    fn write(data: &[u8]) -> Op<'_> {
        Op::Write { ino: Ino(9), offset: 4096, data: Cow::Borrowed(data), at: Stamp { secs: 1, nanos: 2 } }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (mut log, mut buffer) = (Vec::new(), Vec::new());
        let ops = [write(b"one"), Op::Barrier, write(&[7; 100_000])];
        let mut at = START;
        for op in &ops {
            at = encode(op, at, &mut buffer).unwrap();
            log.extend_from_slice(&buffer);
        }
        let read: Vec<(Op<'_>, Mark)> = Entries::new(&log, START).map(|(b, m)| (decode(b).unwrap(), m)).collect();
        assert_eq!(read.iter().map(|(op, _)| op.clone()).collect::<Vec<_>>(), ops);
        assert_eq!(read.last().unwrap().1, at);
        assert_eq!(at.lsn, log.len() as u64);
        // It is borrowed, not copied.
        assert!(matches!(&read[0].0, Op::Write { data: Cow::Borrowed(_), .. }));
    }

    #[test]
    fn what_follows_another_log_is_no_entry() {
        let mut buffer = Vec::new();
        encode(&Op::Barrier, START, &mut buffer).unwrap();
        assert_eq!(Entries::new(&buffer, Mark { check: 78, ..START }).count(), 0);
        assert_eq!(Entries::new(&buffer, START).count(), 1);
        for bit in 0..buffer.len() * 8 {
            let mut torn = buffer.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entries::new(&torn, START).count(), 0, "bit {bit}");
        }
        for length in 0..buffer.len() {
            assert_eq!(Entries::new(&buffer[..length], START).count(), 0);
        }
    }

    #[test]
    fn a_body_can_be_anything() {
        for length in 0..40 {
            for byte in 0..=255 {
                let _ = decode(&vec![byte; length]);
            }
        }
    }
}
