//! Timelines: PostgreSQL's numbers for what the log descends from. Here each is the epoch of the primary that began it.
//!
//! PostgreSQL gives a new timeline the number after the newest history file that it finds by counting up; so an *empty*
//! history file for each number between makes it take exactly the epoch's. An empty file descends from nothing, so
//! nobody ever follows it; but it must not be the newest one when the database starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use trine_protocol::Epoch;

use super::control::{Control, parse_lsn};
use crate::account::Account;
use crate::{EngineError, Fork};

/// A timeline's descent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// Its number.
    pub(super) timeline: u64,
    /// The ones before, oldest first.
    pub(super) forks: Vec<Fork>,
}

impl Line {
    /// The timeline that the log was on at a place: the last one that had begun before.
    pub(super) fn at(&self, offset: u64) -> u64 {
        self.forks.iter().find(|f| offset <= f.end).map_or(self.timeline, |f| f.epoch.0)
    }

    /// Can a copy that is at `offset` of `timeline` go on along this line?
    fn holds(&self, timeline: u64, offset: u64) -> bool {
        timeline == self.timeline || self.forks.iter().any(|f| f.epoch.0 == timeline && offset <= f.end)
    }
}

/// A history file's name.
pub(super) fn file_name(timeline: u64) -> String {
    format!("{timeline:08X}.history")
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".history")?;
    (digits.len() == 8).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// The lines of a history file: a timeline, where it was left, why.
pub(super) fn parse(text: &str) -> Option<Vec<Fork>> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|l| {
            let mut words = l.split_ascii_whitespace();
            let epoch = Epoch(words.next()?.parse().ok()?);
            Some(Fork { epoch, end: parse_lsn(words.next()?)? })
        })
        .collect()
}

/// Reads one timeline's descent. `None`: there is no such file, or it is empty and stands for nothing.
pub(super) fn read(wal: &Path, timeline: u64) -> io::Result<Option<Line>> {
    if timeline == 1 {
        return Ok(Some(Line { timeline, forks: Vec::new() }));
    }
    match fs::read_to_string(wal.join(file_name(timeline))) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => {
            parse(&text).map(|forks| Some(Line { timeline, forks })).ok_or_else(|| io::Error::other("no history file"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The numbers of all history files, highest first.
pub(super) fn list(wal: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(wal)? {
        numbers.extend(entry?.file_name().to_str().and_then(number));
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

/// Makes the newest history file one that this copy can go on along: before every start, or PostgreSQL refuses to.
/// Empty ones go; one that parts from this copy's log before its end is moved to `aside`. Returns the line that stays.
pub(super) fn tidy(wal: &Path, control: &Control, aside: &Path) -> Result<Line, EngineError> {
    let failed = || EngineError::io("read the timelines in", wal);
    for timeline in list(wal).map_err(failed())? {
        let path = wal.join(file_name(timeline));
        let line = read(wal, timeline).map_err(EngineError::io("read", &path))?;
        match line {
            Some(line) if fits(&line, control) => return Ok(line),
            None => super::paths::remove_file(&path)?,
            Some(_) => {
                tracing::warn!(timeline, "put aside a timeline that parts from this copy's log before its end");
                fs::create_dir_all(aside).map_err(EngineError::io("make the folder", aside))?;
                let to = aside.join(file_name(timeline));
                fs::copy(&path, &to).map_err(EngineError::io("write", &to))?;
                super::paths::remove_file(&path)?;
            }
        }
    }
    Ok(Line { timeline: control.timeline.max(control.consistent_timeline), forks: Vec::new() })
}

fn fits(line: &Line, control: &Control) -> bool {
    line.holds(control.timeline, control.checkpoint)
        && (control.consistent_at == 0 || line.holds(control.consistent_timeline, control.consistent_at))
}

/// Makes empty history files where there are none, for the timelines `from..=to`.
pub(super) fn fill(wal: &Path, account: &Account, from: u64, to: u64) -> Result<(), EngineError> {
    for timeline in from..=to {
        let path: PathBuf = wal.join(file_name(timeline));
        match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(&path, PermissionsExt::from_mode(0o600))
                    .map_err(EngineError::io("set the mode of", &path))?;
                account.give(&path)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(EngineError::io("make", path)(e)),
        }
    }
    Ok(())
}

/// The highest epoch that can be a timeline.
pub(super) const HIGHEST: u64 = u32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file() {
        let text = "1\t0/3000148\tno recovery target specified\n\n5\t16/B374D848\tx\n";
        let forks = parse(text).unwrap();
        let line = Line { timeline: 7, forks };
        assert_eq!(line.forks.len(), 2);
        assert_eq!((line.at(0), line.at(0x300_0148), line.at(0x300_0149)), (1, 1, 5));
        assert_eq!(line.at(u64::MAX), 7);
        assert!(line.holds(1, 0x300_0148) && !line.holds(1, 0x300_0149) && !line.holds(2, 0));
        assert!(parse("1 nonsense").is_none());
        assert_eq!(number("0000000A.history"), Some(10));
        assert_eq!(number("A.history"), None);
    }
}
