//! Finding PostgreSQL's programs, and running them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The oldest major version that has what is needed.
pub(super) const OLDEST: u32 = 13;

/// One major version's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// The programs for `major`, or the newest when there is no data yet that says which.
    pub(super) fn find(bin_dir: Option<&Path>, major: Option<u32>) -> Result<Self, EngineError> {
        let mut found: Vec<Self> = match bin_dir {
            Some(dir) => vec![Self::at(dir)?],
            None => candidates().iter().filter_map(|dir| Self::at(dir).ok()).collect(),
        };
        found.sort_by_key(|b| std::cmp::Reverse(b.major));
        let all = found.iter().map(|b| format!("{} in {}", b.major, b.dir.display())).collect::<Vec<_>>().join(", ");
        let seen = if all.is_empty() { "none".to_owned() } else { all };
        match major {
            Some(wanted) => found.into_iter().find(|b| b.major == wanted).ok_or_else(|| {
                EngineError::NoBinaries(format!(
                    "the data is of PostgreSQL {wanted}, and its programs were not found (found: {seen}): install \
                     PostgreSQL {wanted}, or name its folder in engine.bin_dir"
                ))
            }),
            None => found.into_iter().find(|b| b.major >= OLDEST).ok_or_else(|| {
                EngineError::NoBinaries(format!(
                    "PostgreSQL {OLDEST} or later was not found in /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin and PATH \
                     (found: {seen}): install it, or name its folder in engine.bin_dir"
                ))
            }),
        }
    }

    fn at(dir: &Path) -> Result<Self, EngineError> {
        let missing = |what: String| EngineError::NoBinaries(format!("{}: {what}", dir.display()));
        for program in ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"] {
            if !dir.join(program).is_file() {
                return Err(missing(format!("there is no {program} here")));
            }
        }
        let output = std::process::Command::new(dir.join("postgres")).arg("--version").env_clear().output();
        let output = output.map_err(EngineError::io("run", dir.join("postgres")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)", "postgres (PostgreSQL) 18beta1"
        let version = text.split_ascii_whitespace().nth(2).unwrap_or_default();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let major = digits.parse().map_err(|_| missing(format!("can't read the version in {:?}", text.trim())))?;
        Ok(Self { dir: dir.to_owned(), major })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for (parent, prefix, below) in [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")] {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let fitting = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        dirs.extend(fitting.map(|e| e.path().join(below)).filter(|d| d.join("postgres").is_file()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    dirs.extend(std::env::split_paths(&path).filter(|d| d.join("postgres").is_file()));
    dirs
}

/// The major version of the data in a directory; `None` when there is none.
pub(super) fn data_major(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}
