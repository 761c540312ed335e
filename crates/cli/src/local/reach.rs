//! Can the database's user get at the cluster's folder?
//!
//! Looked at before anything is made, because the database itself only says "permission denied".

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use trine_agent::{Config, EngineKind, Secrets};

use crate::failure::{Done, Failure, chain};

/// A user of this machine.
struct User {
    name: String,
    uid: u32,
    groups: BTreeSet<u32>,
}

/// Checks every folder from `/` down to `dir`, as far as they exist, and of a volume's database that it can be run at all.
pub(crate) fn check(config: &Config, dir: &Path) -> Done {
    if config.volume.is_some() {
        described(config)?;
    }
    // Only root runs the database as somebody else.
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // Nobody named: it runs as the owner of the folder, who can enter it.
    let Some(name) = config.database_user() else { return Ok(()) };
    let Some(user) = User::find(name) else {
        let message = format!("there is no user {name} on this machine for the database to run as");
        let package = match config.engine.kind {
            EngineKind::MariaDb => "MariaDB, which makes the user mysql",
            EngineKind::MySql => "MySQL, which makes the user mysql",
            EngineKind::Postgres | EngineKind::Volume => "PostgreSQL, which makes the user postgres",
        };
        let hint = format!("install {package}, or name another user: --set engine.user=NAME");
        return Err(Failure::failed(message).hint(hint));
    };
    let mut above: Vec<&Path> = dir.ancestors().collect();
    above.reverse();
    for folder in above {
        let Ok(meta) = fs::metadata(folder) else { break };
        if !user.may_enter(meta.uid(), meta.gid(), meta.mode()) {
            let message = format!(
                "the database runs as user {}, who may not enter {} (mode {:04o})",
                user.name,
                folder.display(),
                meta.mode() & 0o7777
            );
            return Err(Failure::failed(message).hint(format!(
                "use a --dir elsewhere, such as /var/lib/trine, or allow it: chmod o+x {}",
                folder.display()
            )));
        }
    }
    Ok(())
}

/// Are the database's programs and its user here, and what its volume needs?
fn described(config: &Config) -> Done {
    // Only to look: a node's own are not made yet.
    let any = || "looking".to_owned();
    let secrets = Secrets { api_token: any(), superuser_password: any(), app_password: any() };
    trine_agent::database(config, &secrets).map_err(|e| match &e {
        trine_agent::AgentError::Engine(e) => Failure::failed(e.chain()),
        _ => Failure::failed(chain(&e)),
    })?;
    if !Path::new("/dev/fuse").exists() {
        return Err(Failure::failed("there is no /dev/fuse here, by which a volume is mounted")
            .hint("load the kernel's module fuse (modprobe fuse), or give the container the device"));
    }
    Ok(())
}

impl User {
    fn find(name: &str) -> Option<Self> {
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        let line = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&name))?;
        let (uid, gid) = (line.get(2)?.parse().ok()?, line.get(3)?.parse().ok()?);
        let mut groups = BTreeSet::from([gid]);
        for group in fs::read_to_string("/etc/group").unwrap_or_default().lines() {
            let fields: Vec<&str> = group.split(':').collect();
            if let (Some(gid), Some(members)) = (fields.get(2).and_then(|g| g.parse().ok()), fields.get(3))
                && members.split(',').any(|m| m == name)
            {
                groups.insert(gid);
            }
        }
        Some(Self { name: name.to_owned(), uid, groups })
    }

    fn may_enter(&self, owner: u32, group: u32, mode: u32) -> bool {
        let bit = if owner == self.uid {
            0o100
        } else if self.groups.contains(&group) {
            0o010
        } else {
            0o001
        };
        self.uid == 0 || mode & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_class_decides() {
        let user = User { name: "p".into(), uid: 5, groups: BTreeSet::from([7]) };
        assert!(user.may_enter(0, 0, 0o711));
        assert!(!user.may_enter(0, 0, 0o710));
        assert!(user.may_enter(0, 7, 0o710));
        assert!(!user.may_enter(0, 7, 0o701));
        assert!(!user.may_enter(5, 0, 0o077));
    }
}
