//! Where programs are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::account::Account;

/// Where system programs are that an ordinary user's PATH may leave out.
const ALSO: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The folders in which programs are looked for: those of `patterns` (a `*` is any name, the highest number first), then
/// PATH, then the system's own. Not those that the database's user can't reach, such as root's own.
pub(super) fn folders(patterns: &[String], account: &Account) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = patterns.iter().flat_map(|p| expand(p)).collect();
    all.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).filter(|p| p.is_absolute()));
    all.extend(ALSO.map(PathBuf::from));
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|p| seen.insert(p.clone()) && (!account.is_other() || account.can_reach(p).is_ok()));
    all
}

fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let entries = fs::read_dir(format!("{parent}/")).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            let folder = PathBuf::from(format!("{parent}/{name}{after}"));
            folder.is_dir().then(|| (digits.parse().unwrap_or(0), folder))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// The program of this name (or absolute path); `None` when there is none that can be run.
pub(super) fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|p| p.is_absolute() && runs(p));
    }
    folders.iter().map(|f| f.join(name)).find(|p| runs(p))
}

fn runs(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first_and_a_file_that_does_not_run_is_no_program() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["9", "15", "x"] {
            let bin = dir.path().join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            fs::write(bin.join("db"), "").unwrap();
            let mode = if version == "15" { 0o644 } else { 0o755 };
            fs::set_permissions(bin.join("db"), PermissionsExt::from_mode(mode)).unwrap();
        }
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let account = Account::find(None, Some("nobody"), "user").unwrap();
        let folders = folders(&[format!("{}/*/bin", dir.path().display()), "/nowhere/*/bin".into()], &account);
        assert!(folders[0].ends_with("15/bin") && folders[1].ends_with("9/bin"), "{folders:?}");
        assert_eq!(find("db", &folders), Some(dir.path().join("9/bin/db")));
        assert!(find("sh", &folders).is_some());
        assert_eq!(find("no-such-program", &folders), None);
        assert_eq!(find("bin/sh", &folders), None);
        assert!(find("/bin/sh", &[]).is_some());
    }
}
