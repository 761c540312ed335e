//! As much of the binary log's format as it takes to find the last whole transaction in a file: the headers of its events,
//! and their identifiers. The database itself can't be asked: it throws received logs away when it starts.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::gtid::{DOMAIN, Gtid};

/// What every file begins with.
const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// An event's header: time, kind, server, length, place of the next, flags.
const HEADER: usize = 19;

/// The kinds of events that matter (MariaDB, `log_event.h`).
mod kind {
    pub(super) const QUERY: u8 = 2;
    pub(super) const XID: u8 = 16;
    /// Ends what `XA PREPARE` has logged, which is acknowledged as a commit is.
    pub(super) const XA_PREPARE: u8 = 38;
    /// From which file on there may be something that is not committed.
    pub(super) const CHECKPOINT: u8 = 161;
    pub(super) const GTID: u8 = 162;
    /// What a file has besides transactions: rotate, format, heartbeat, checkpoint, list of identifiers, encryption.
    pub(super) const OF_NO_TRANSACTION: [u8; 6] = [4, 15, 27, CHECKPOINT, 163, 164];
}

/// A transaction that is one event long: a DDL (`FL_STANDALONE`), or the end of one that was prepared (`FL_COMPLETED_XA`).
const STANDALONE: u8 = 1 | 128;
/// How much of an event is looked at: enough for an identifier, and for the word that ends a transaction.
const LOOKED_AT: usize = 64 << 10;

/// The last transaction of the cluster's domain, not after `limit`, that is whole in this file. `None`: none is. An event that is
/// cut off, or is none at all, ends the search, as it ends the database's own recovery.
///
/// # Errors
/// The file can't be read.
pub(super) fn last_whole(file: &Path, limit: u64) -> io::Result<Option<Gtid>> {
    let mut found = Found { limit, ..Found::default() };
    each_event(file, |event, body| found.take(event, body))?;
    Ok(found.last)
}

/// The first of the files that the database would look through for what it has not committed, as this file names it.
///
/// # Errors
/// The file can't be read.
pub(super) fn checkpoint(file: &Path) -> io::Result<Option<String>> {
    let mut named = None;
    each_event(file, |event, body| {
        if event.kind == kind::CHECKPOINT
            && let Some(length) = body.first_chunk().map(|b| u32::from_le_bytes(*b) as usize)
            && let Some(name) = body.get(4..4 + length)
        {
            named = Some(String::from_utf8_lossy(name).into_owned());
        }
    })?;
    Ok(named)
}

/// A file of a received log may begin within a transaction: the connection broke there, and what came before is in the file before.
/// Read by themselves its first events would be taken for a transaction of no name. Moves them, durably, to the end of the file
/// before, where that ends within a transaction, and else away: that one is gone, as all that began in it is applied; or has them
/// already, if this was broken off. Whether there were any.
///
/// # Errors
/// A file can't be read, or written.
pub(super) fn move_rest(file: &Path, before: Option<&Path>) -> io::Result<bool> {
    let (mut at, mut kept, mut rest, mut begin) = (MAGIC.len(), Vec::new(), Vec::new(), None);
    each_event(file, |event, _| {
        let end = at + HEADER + event.length;
        match event.kind {
            _ if begin.is_some() => {}
            kind::GTID => begin = Some(at),
            kind if kind::OF_NO_TRANSACTION.contains(&kind) => kept.push(at..end),
            _ => rest.push(at..end),
        }
        at = end;
    })?;
    if rest.is_empty() {
        return Ok(false);
    }
    let bytes = fs::read(file)?;
    // What ends the file and is no whole event stays where it is.
    kept.push(begin.unwrap_or(at)..bytes.len());
    let all = |parts: Vec<std::ops::Range<usize>>| -> Vec<u8> {
        parts.into_iter().flat_map(|part| bytes.get(part).unwrap_or_default()).copied().collect()
    };
    if let Some(before) = before {
        add_rest(before, &all(rest))?;
    }
    replace(file, &[&MAGIC[..], &all(kept)].concat())?;
    Ok(true)
}

/// Adds the rest of a transaction to the file that has its beginning. What is no whole event there goes.
fn add_rest(file: &Path, rest: &[u8]) -> io::Result<()> {
    let (mut end, mut found) = (MAGIC.len(), Found::default());
    each_event(file, |event, body| {
        end += HEADER + event.length;
        found.take(event, body);
    })?;
    if found.open.is_none() {
        return Ok(());
    }
    let mut bytes = fs::read(file)?;
    bytes.truncate(end);
    bytes.extend_from_slice(rest);
    replace(file, &bytes)
}

fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = file.with_extension("new");
    fs::write(&fresh, bytes)?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, file)
}

/// Looks at the events of a file, up to the first that is not whole.
fn each_event(file: &Path, mut look: impl FnMut(&Event, &[u8])) -> io::Result<()> {
    let mut input = BufReader::with_capacity(1 << 16, File::open(file)?);
    let mut magic = [0; 4];
    if !fill(&mut input, &mut magic)? || magic != MAGIC {
        return Ok(());
    }
    let mut body = Vec::new();
    loop {
        let mut header = [0; HEADER];
        if !fill(&mut input, &mut header)? {
            return Ok(());
        }
        let Some(event) = Event::parse(&header) else { return Ok(()) };
        body.resize(event.length.min(LOOKED_AT), 0);
        if !fill(&mut input, &mut body)? {
            return Ok(());
        }
        let rest = (event.length - body.len()) as u64;
        if io::copy(&mut input.by_ref().take(rest), &mut io::sink())? < rest {
            return Ok(());
        }
        look(&event, &body);
    }
}

/// Fills the buffer; false: the file ends before.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

struct Event {
    kind: u8,
    server: u32,
    /// Of what follows the header.
    length: usize,
}

impl Event {
    fn parse(header: &[u8; HEADER]) -> Option<Self> {
        let number = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let whole = usize::try_from(number(9)?).ok()?;
        Some(Self { kind: *header.get(4)?, server: number(5)?, length: whole.checked_sub(HEADER)? })
    }
}

#[derive(Default)]
struct Found {
    limit: u64,
    last: Option<Gtid>,
    /// The transaction that has begun, and whether its next event is its only one.
    open: Option<(Gtid, bool)>,
}

impl Found {
    fn take(&mut self, event: &Event, body: &[u8]) {
        match (event.kind, self.open) {
            (kind::GTID, _) => self.open = gtid(event.server, body),
            (kind::XID | kind::XA_PREPARE, Some((gtid, _))) | (_, Some((gtid, true))) => self.whole(gtid),
            (kind::QUERY, Some((gtid, false))) if ends(body) => self.whole(gtid),
            _ => {}
        }
    }

    fn whole(&mut self, gtid: Gtid) {
        self.open = None;
        if gtid.domain == DOMAIN && gtid.number <= self.limit && self.last.is_none_or(|l| l.number < gtid.number) {
            self.last = Some(gtid);
        }
    }
}

/// An identifier event: number, domain, flags.
fn gtid(server: u32, body: &[u8]) -> Option<(Gtid, bool)> {
    let number = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
    let domain = u32::from_le_bytes(body.get(8..12)?.try_into().ok()?);
    Some((Gtid { domain, server, number }, body.get(12)? & STANDALONE != 0))
}

/// Is it the statement that ends a transaction of tables without transactions? The text is last, before a checksum.
fn ends(body: &[u8]) -> bool {
    let ends_with = |body: &[u8]| [b"\0COMMIT".as_slice(), b"\0ROLLBACK"].iter().any(|word| body.ends_with(word));
    ends_with(body) || body.len().checked_sub(4).and_then(|n| body.get(..n)).is_some_and(ends_with)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut e = vec![0; 4];
        e.push(kind);
        e.extend(7_u32.to_le_bytes());
        e.extend(u32::try_from(HEADER + body.len()).unwrap().to_le_bytes());
        e.extend([0; 6]);
        e.extend(body);
        e
    }

    fn gtid_event(number: u64, flags: u8) -> Vec<u8> {
        event(kind::GTID, &[&number.to_le_bytes()[..], &0_u32.to_le_bytes(), &[flags], &[0; 6]].concat())
    }

    fn last(bytes: &[u8]) -> Option<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        last_whole(file.path(), u64::MAX).unwrap().map(|g| g.number)
    }

    #[test]
    fn what_is_cut_off_does_not_count() {
        let rows = event(30, &[1; 100]);
        let parts = [
            MAGIC.to_vec(),
            gtid_event(5, 0),
            rows.clone(),
            event(kind::XID, &[0; 8]),
            gtid_event(6, STANDALONE),
            event(kind::QUERY, b"xxxx\0drop table t"),
            gtid_event(7, 0),
            event(kind::QUERY, b"xxxx\0insert into myisam"),
            event(kind::QUERY, b"xxxx\0COMMIT1234"),
            gtid_event(8, 0),
            rows,
        ];
        let log = parts.concat();
        let end_of = |n: usize| parts[..n].concat().len();
        for cut in 0..=log.len() {
            let expected = match cut {
                c if c < end_of(4) => None,
                c if c < end_of(6) => Some(5),
                c if c < end_of(9) => Some(6),
                _ => Some(7),
            };
            assert_eq!(last(&log[..cut]), expected, "cut at {cut}");
        }
    }

    /// Prepared transactions, and what becomes of them, are acknowledged, too.
    #[test]
    fn what_was_prepared_counts() {
        let prepared = [MAGIC.to_vec(), gtid_event(5, 64), event(30, &[1; 9]), event(kind::XA_PREPARE, &[0; 9])];
        assert_eq!(last(&prepared[..3].concat()), None);
        assert_eq!(last(&prepared.concat()), Some(5));
        let done = [gtid_event(6, 128), event(kind::QUERY, b"xxxx\0XA COMMIT X'61',X'',1")];
        assert_eq!(last(&[prepared.concat(), done.concat()].concat()), Some(6));
    }

    #[test]
    fn up_to_a_limit_and_from_a_checkpoint() {
        let named = |name: &str| {
            let length = u32::try_from(name.len()).unwrap().to_le_bytes();
            event(kind::CHECKPOINT, &[&length[..], name.as_bytes(), &[1, 2, 3, 4]].concat())
        };
        let commit = event(kind::XID, &[0; 8]);
        let parts = [
            MAGIC.to_vec(),
            named("binlog.000006"),
            gtid_event(5, 0),
            commit.clone(),
            named("binlog.000007"),
            gtid_event(6, 0),
            commit,
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), parts.concat()).unwrap();
        let last = |limit| last_whole(file.path(), limit).unwrap().map(|g| g.number);
        assert_eq!((last(u64::MAX), last(6), last(5), last(4)), (Some(6), Some(6), Some(5), None));
        assert_eq!(checkpoint(file.path()).unwrap().as_deref(), Some("binlog.000007"));
        std::fs::write(file.path(), parts[..1].concat()).unwrap();
        assert_eq!(checkpoint(file.path()).unwrap(), None);
    }

    /// A transaction whose rest is in the next file is whole again.
    #[test]
    fn the_rest_of_a_transaction_goes_to_its_beginning() {
        let (format, rotate) = (event(15, &[0; 90]), event(4, b"binlog.000001"));
        let (rows, commit) = (event(30, &[1; 50]), event(kind::XID, &[0; 8]));
        let begun = [MAGIC.to_vec(), format.clone(), gtid_event(5, 0), rows.clone()].concat();
        let after = [gtid_event(6, 0), rows.clone(), commit.clone()].concat();
        let rest = [rows.clone(), commit.clone()].concat();
        let second = [MAGIC.to_vec(), format.clone(), rest.clone(), rotate.clone(), after.clone()].concat();
        let (one, two) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(one.path(), [&begun[..], &rows[..7]].concat()).unwrap();
        assert!(!move_rest(one.path(), None).unwrap());
        // Also when it was broken off before the second file was written.
        for _ in 0..2 {
            std::fs::write(two.path(), &second).unwrap();
            assert!(move_rest(two.path(), Some(one.path())).unwrap());
            assert_eq!(std::fs::read(one.path()).unwrap(), [&begun[..], &rest].concat());
            let left = [&MAGIC[..], &format, &rotate, &after].concat();
            assert_eq!(std::fs::read(two.path()).unwrap(), left);
        }
        assert!(!move_rest(two.path(), Some(one.path())).unwrap());
        assert_eq!(last_whole(one.path(), u64::MAX).unwrap().map(|g| g.number), Some(5));
    }

    #[test]
    fn rubbish_is_no_log() {
        assert_eq!(last(b""), None);
        assert_eq!(last(b"not a log at all, but long enough for a header"), None);
        assert_eq!(last(&[&MAGIC[..], &[0; 300]].concat()), None);
    }
}
