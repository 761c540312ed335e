//! PostgreSQL's own programs, past the product: for what a cluster is compared with, or handed.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::namespace;

/// The directory of PostgreSQL's programs: of the newest version, where distributions put them, else in `PATH`.
///
/// # Errors
/// There is none.
pub fn bin_dir() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    found.sort();
    let path = std::env::var("PATH").unwrap_or_default();
    let in_path = || path.split(':').map(PathBuf::from).find(|d| d.join("postgres").is_file());
    found.pop().map(|(_, bin)| bin).or_else(in_path).context("PostgreSQL is not installed")
}

/// The ordinary user (and group) that PostgreSQL runs as: it refuses to be root.
///
/// # Errors
/// There is no user `postgres`.
pub fn owner() -> Result<(u32, u32)> {
    let id = |flag: &str| -> Result<u32> {
        Ok(namespace::run(Command::new("id").args([flag, "postgres"]))?.trim().parse()?)
    };
    Ok((id("-u")?, id("-g")?))
}

/// Makes a file or directory PostgreSQL's own.
///
/// # Errors
/// The system refuses.
pub fn give(path: &Path) -> Result<()> {
    let (user, group) = owner()?;
    chown(path, Some(user), Some(group)).with_context(|| format!("giving {} to PostgreSQL", path.display()))
}

/// One of PostgreSQL's programs, as its user.
///
/// # Errors
/// It is not installed.
pub fn program(name: &str) -> Result<Command> {
    let (user, group) = owner()?;
    let mut c = Command::new("setpriv");
    c.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
    c.arg(bin_dir()?.join(name)).current_dir("/");
    Ok(c)
}
