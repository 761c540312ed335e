//! The user that the database runs as. PostgreSQL refuses to run as root.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::EngineError;

/// A user, and whether the agent has to change to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// Its name, when one was looked up.
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The agent runs as this user itself.
    own: bool,
}

impl Account {
    /// `wanted`, or `postgres` when the agent is root, or else the agent's own.
    pub(super) fn find(wanted: Option<&str>) -> Result<Self, EngineError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let name = match wanted {
            None if uid != 0 => return Ok(Self { name: "the agent's user".into(), uid, gid, own: true }),
            None => "postgres",
            Some(name) => name,
        };
        let account = Self { name: name.to_owned(), uid: id("-u", name)?, gid: id("-g", name)?, own: false };
        if account.uid == 0 {
            return Err(EngineError::Config(
                "PostgreSQL refuses to run as root: name another user in engine.user".into(),
            ));
        }
        if account.uid == uid {
            return Ok(Self { own: true, ..account });
        }
        if uid != 0 {
            return Err(EngineError::Config(format!(
                "engine.user is {name}, but only root can change to another user: start the agent as root or as {name}"
            )));
        }
        Ok(account)
    }

    /// Whether it is another user than the agent's.
    pub(super) fn is_other(&self) -> bool {
        !self.own
    }

    /// For starting processes: the user and group to change to, if any.
    pub(super) fn change_to(&self) -> Option<(u32, u32)> {
        (!self.own).then_some((self.uid, self.gid))
    }

    /// Gives a file or folder to this user.
    pub(super) fn give(&self, path: &Path) -> Result<(), EngineError> {
        if self.own {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid)).map_err(EngineError::io("change the owner of", path))
    }

    /// Makes a folder that only this user can use. One that is there is put in order.
    pub(super) fn make_dir(&self, path: &Path) -> Result<(), EngineError> {
        fs::create_dir_all(path).map_err(EngineError::io("make the folder", path))?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o700))
            .map_err(EngineError::io("set the mode of", path))?;
        self.give(path)
    }

    /// Writes a whole file that only this user can read, durably: whatever happens there is the old one or the new.
    pub(super) fn write(&self, path: &Path, content: &[u8]) -> Result<(), EngineError> {
        let fresh = path.with_extension("trine-new");
        let done = (|| {
            let mut f = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            f.write_all(content)?;
            f.sync_all()
        })();
        done.map_err(EngineError::io("write", path))?;
        self.give(&fresh)?;
        fs::rename(&fresh, path).map_err(EngineError::io("write", path))?;
        path.parent().map_or(Ok(()), super::paths::sync_dir)
    }

    /// Is every folder down to `path` open to this user?
    pub(super) fn can_reach(&self, path: &Path) -> Result<(), EngineError> {
        for folder in path.ancestors() {
            let meta = fs::metadata(folder).map_err(EngineError::io("look at", folder))?;
            let bit = match () {
                () if meta.uid() == self.uid => 0o100,
                () if meta.gid() == self.gid => 0o010,
                () => 0o001,
            };
            if meta.mode() & bit == 0 {
                return Err(EngineError::Config(format!(
                    "the user {} can't get through {} to its data: use a folder that it can reach, or chmod o+x {}",
                    self.name,
                    folder.display(),
                    folder.display()
                )));
            }
        }
        Ok(())
    }
}

fn id(what: &str, name: &str) -> Result<u32, EngineError> {
    let output = Command::new("id").args([what, "--", name]).output().map_err(EngineError::io("run", "id"))?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| {
        EngineError::Config(format!("there is no user {name} to run the database as: name one in engine.user"))
    })
}
