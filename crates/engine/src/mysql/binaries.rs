//! Finding MariaDB's programs.

use std::path::{Path, PathBuf};

use crate::EngineError;

/// The oldest version that has what is needed (a tail that nobody acknowledged can be cut off: MDEV-33465).
const OLDEST: (u32, u32, u32) = (10, 11, 9);

/// Where the programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    server: PathBuf,
    /// The others are beside it, in `bin` where it is in `sbin`, or in the path.
    others: Vec<PathBuf>,
}

impl Binaries {
    /// Looks for the programs in `bin_dir`, or else where distributions put them.
    pub(super) fn find(bin_dir: Option<&Path>) -> Result<Self, EngineError> {
        let folders = match bin_dir {
            Some(dir) => vec![dir.to_owned()],
            None => places(),
        };
        let wanted = "MariaDB 10.11.9 or later";
        let Some(server) = folders.iter().map(|f| f.join("mariadbd")).find(|p| p.is_file()) else {
            let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            return Err(EngineError::NoBinaries(format!(
                "mariadbd was not found in {}: install {wanted} (the package mariadb-server), or name its folder in \
                 engine.bin_dir",
                looked.join(", ")
            )));
        };
        let found = version_of(&server)?;
        if found < OLDEST {
            let (a, b, c) = found;
            return Err(EngineError::NoBinaries(format!(
                "{} is MariaDB {a}.{b}.{c}: {wanted} is needed",
                server.display()
            )));
        }
        let binaries = Self { server, others: folders };
        for (program, package) in [
            ("mariadb-install-db", "mariadb-server"),
            ("mariadb-binlog", "mariadb-server"),
            ("mariadb", "mariadb-client"),
            ("mariadb-backup", "mariadb-backup"),
            ("mbstream", "mariadb-backup"),
        ] {
            if binaries.program(program).is_none() {
                return Err(EngineError::NoBinaries(format!(
                    "{program} was not found beside {}: install the package {package}",
                    binaries.server.display()
                )));
            }
        }
        Ok(binaries)
    }

    pub(super) fn server(&self) -> PathBuf {
        self.server.clone()
    }

    /// A tool; one that was there when the agent started.
    pub(super) fn tool(&self, name: &str) -> PathBuf {
        self.program(name).unwrap_or_else(|| PathBuf::from(name))
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        self.others.iter().map(|f| f.join(name)).find(|p| p.is_file())
    }
}

fn places() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/local/mysql/bin"];
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|f| f.is_absolute()).collect();
    for folder in usual.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn version_of(server: &Path) -> Result<(u32, u32, u32), EngineError> {
    let output = std::process::Command::new(server).args(["--no-defaults", "--version"]).env_clear().output();
    let output = output.map_err(EngineError::io("run", server))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    version_in(&text).ok_or_else(|| {
        EngineError::NoBinaries(format!(
            "can't read MariaDB's version in {:?}, said by {}",
            text.trim(),
            server.display()
        ))
    })
}

/// `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)`
fn version_in(text: &str) -> Option<(u32, u32, u32)> {
    let version = text.split_once("Ver ")?.1.split_ascii_whitespace().next()?;
    if !version.contains("MariaDB") {
        return None;
    }
    let mut numbers = version.split(['.', '-']).map(|n| n.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let said = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)\n";
        assert_eq!(version_in(said), Some((10, 11, 19)));
        assert_eq!(version_in("mysqld  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)"), None);
        assert_eq!(version_in(""), None);
    }
}
