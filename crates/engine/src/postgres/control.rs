//! What `pg_controldata` says about a copy that is not running.

use std::collections::HashMap;
use std::path::Path;

use super::binaries::Binaries;
use crate::account::Account;
use crate::tool::environment;
use crate::{CopyId, EngineError};

/// The parts of `pg_control` that decisions stand on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) identity: CopyId,
    /// `shut down`, `in production`, …
    pub(super) state: String,
    pub(super) checkpoint: u64,
    pub(super) timeline: u64,
    /// How far a standby must replay to be consistent, and on which timeline; 0 when it was a primary.
    pub(super) consistent_at: u64,
    pub(super) consistent_timeline: u64,
    /// The size of a WAL file.
    pub(super) segment: u64,
    /// What a standby must not have less of than the primary whose data it has.
    pub(super) floor: Vec<(String, u32)>,
}

/// In pg_controldata's words, and as settings.
const FLOOR: &[(&str, &str)] = &[
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

impl Control {
    /// Reads a copy's. It runs a program: some ms.
    pub(super) async fn read(binaries: &Binaries, account: &Account, data: &Path) -> Result<Self, EngineError> {
        let mut command = tokio::process::Command::new(binaries.program("pg_controldata"));
        command.arg("-D").arg(data).env_clear().envs(environment()).current_dir("/").kill_on_drop(true);
        if let Some((uid, gid)) = account.change_to() {
            command.uid(uid).gid(gid);
        }
        let output = command.output().await.map_err(EngineError::io("run", binaries.program("pg_controldata")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("CRC checksum does not match") {
            let why = format!("{} is damaged: its checksum is wrong", data.join("global/pg_control").display());
            return Err(EngineError::StartFailed { why, log: String::new() });
        }
        Self::parse(&text).ok_or_else(|| EngineError::Tool {
            tool: "pg_controldata",
            output: format!("{}{}", String::from_utf8_lossy(&output.stderr), text.trim()),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: HashMap<&str, &str> =
            text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect();
        let number = |key: &str| lines.get(key)?.parse::<u64>().ok();
        let lsn = |key: &str| parse_lsn(lines.get(key)?);
        Some(Self {
            identity: CopyId(number("Database system identifier")?),
            state: (*lines.get("Database cluster state")?).to_owned(),
            checkpoint: lsn("Latest checkpoint location")?,
            timeline: number("Latest checkpoint's TimeLineID")?,
            consistent_at: lsn("Minimum recovery ending location")?,
            consistent_timeline: number("Min recovery ending loc's timeline")?,
            segment: number("Bytes per WAL segment")?,
            floor: FLOOR
                .iter()
                .filter_map(|(key, setting)| Some(((*setting).to_owned(), lines.get(key)?.parse().ok()?)))
                .collect(),
        })
    }

    /// Was it ended cleanly, as a primary or as a standby?
    pub(super) fn is_shut_down(&self) -> bool {
        ["shut down", "shut down in recovery"].contains(&self.state.as_str())
    }
}

/// `16/B374D848` as a number.
pub(super) fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let (high, low) = (u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?);
    (high <= u64::from(u32::MAX) && low <= u64::from(u32::MAX)).then_some(high << 32 | low)
}

/// A place in the log as PostgreSQL writes it.
pub(super) fn lsn(offset: u64) -> String {
    format!("{:X}/{:X}", offset >> 32, offset & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_log() {
        assert_eq!(parse_lsn("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(lsn(0x16_B374_D848), "16/B374D848");
        for bad in ["", "16", "16/", "x/1", "1/100000000", "-1/0"] {
            assert_eq!(parse_lsn(bad), None, "{bad}");
        }
    }
}
