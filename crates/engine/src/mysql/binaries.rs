//! Finding the database's programs.

use std::path::{Path, PathBuf};

use crate::EngineError;

/// What is looked for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The server.
    pub(super) server: &'static str,
    /// The oldest version that has what is needed.
    pub(super) oldest: (u32, u32, u32),
    /// The same for people.
    pub(super) product: &'static str,
    /// The package that has it.
    pub(super) package: &'static str,
    /// Whether what it says of its version is that of this product.
    pub(super) is_it: fn(&str) -> bool,
    /// The other programs that are needed, and their packages.
    pub(super) others: &'static [(&'static str, &'static str)],
}

/// Where the programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    server: PathBuf,
    /// The others are beside it, in `bin` where it is in `sbin`, or in the path.
    others: Vec<PathBuf>,
}

impl Binaries {
    /// Looks for the programs in `bin_dir`, or else where distributions put them.
    pub(super) fn find(wanted: &Wanted, bin_dir: Option<&Path>) -> Result<Self, EngineError> {
        let folders = match bin_dir {
            Some(dir) => vec![dir.to_owned()],
            None => places(),
        };
        let Wanted { server: name, product, package, .. } = wanted;
        let Some(server) = folders.iter().map(|f| f.join(name)).find(|p| p.is_file()) else {
            let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
            return Err(EngineError::NoBinaries(format!(
                "{name} was not found in {}: install {product} (the package {package}), or name its folder in \
                 engine.bin_dir",
                looked.join(", ")
            )));
        };
        let found = version_of(wanted, &server)?;
        if found < wanted.oldest {
            let (a, b, c) = found;
            let server = server.display();
            return Err(EngineError::NoBinaries(format!("{server} is {a}.{b}.{c}: {product} is needed")));
        }
        let binaries = Self { server, others: folders };
        for (program, package) in wanted.others {
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

fn version_of(wanted: &Wanted, server: &Path) -> Result<(u32, u32, u32), EngineError> {
    let output = std::process::Command::new(server).args(["--no-defaults", "--version"]).env_clear().output();
    let output = output.map_err(EngineError::io("run", server))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    version_in(wanted.is_it, &text).ok_or_else(|| {
        let (said, server) = (text.trim(), server.display());
        EngineError::NoBinaries(format!("{server} says {said:?}: {} is needed", wanted.product))
    })
}

/// `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)`
fn version_in(is_it: fn(&str) -> bool, text: &str) -> Option<(u32, u32, u32)> {
    let version = text.split_once("Ver ")?.1.split_ascii_whitespace().next()?;
    if !is_it(text) {
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
        let mariadb = |text: &str| text.contains("MariaDB");
        let said = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)\n";
        assert_eq!(version_in(mariadb, said), Some((10, 11, 19)));
        assert_eq!(version_in(mariadb, "mysqld  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)"), None);
        assert_eq!(version_in(mariadb, ""), None);
    }
}
