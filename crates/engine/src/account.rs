//! The user that the database runs as: never root.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::EngineError;

/// A user, and whether the agent has to change to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its name, when one was looked up.
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The agent runs as this user itself.
    own: bool,
}

impl Account {
    /// `wanted`, or `default` when the agent is root, or else the agent's own. `key` is the setting that names one.
    pub(crate) fn find(wanted: Option<&str>, default: Option<&str>, key: &'static str) -> Result<Self, EngineError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let name = match wanted.or(default.filter(|_| uid == 0)) {
            None if uid != 0 => return Ok(Self { name: "the agent's user".into(), uid, gid, own: true }),
            None => {
                return Err(EngineError::Config(format!(
                    "a database does not run as root: name the user that it is to run as in {key}"
                )));
            }
            Some(name) => name,
        };
        let account = Self { name: name.to_owned(), uid: id("-u", name, key)?, gid: id("-g", name, key)?, own: false };
        if account.uid == 0 {
            return Err(EngineError::Config(format!("a database does not run as root: name another user in {key}")));
        }
        if account.uid == uid {
            return Ok(Self { own: true, ..account });
        }
        if uid != 0 {
            return Err(EngineError::Config(format!(
                "{key} is {name}, but only root can change to another user: start the agent as root or as {name}"
            )));
        }
        Ok(account)
    }

    /// The owner of a node's folder, when the agent is root, or else the agent's own user.
    pub(crate) fn owner_of(folder: &Path, key: &'static str) -> Result<Self, EngineError> {
        if rustix::process::geteuid().as_raw() != 0 {
            return Self::find(None, None, key);
        }
        // One that is not there yet will be its parent's.
        let Some(meta) = folder.ancestors().find_map(|f| fs::metadata(f).ok()) else {
            return Self::find(None, None, key);
        };
        if meta.uid() == 0 {
            return Self::find(None, None, key);
        }
        Ok(Self { name: format!("number {}", meta.uid()), uid: meta.uid(), gid: meta.gid(), own: false })
    }

    /// The user in a container that these numbers are; `None`: whoever the image says, whose files the agent's are then.
    pub(crate) fn of_numbers(numbers: Option<(u32, u32)>) -> Self {
        let (own_uid, own_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        match numbers {
            Some((uid, gid)) if own_uid == 0 => Self { name: format!("number {uid}"), uid, gid, own: false },
            _ => Self { name: "the image's user".into(), uid: own_uid, gid: own_gid, own: true },
        }
    }

    /// Whether it is another user than the agent's.
    pub(crate) fn is_other(&self) -> bool {
        !self.own
    }

    /// For starting processes: the user and group to change to, if any.
    pub(crate) fn change_to(&self) -> Option<(u32, u32)> {
        (!self.own).then_some((self.uid, self.gid))
    }

    /// Lets a program be started as this user, without the agent's priority, gone when the agent is.
    #[allow(unsafe_code)]
    pub(crate) fn child(&self, command: &mut tokio::process::Command) {
        command.kill_on_drop(true);
        if let Some((uid, gid)) = self.change_to() {
            command.uid(uid).gid(gid);
        }
        // SAFETY: runs in the child between fork and exec, and only makes system calls.
        unsafe {
            command.pre_exec(|| {
                let _ = rustix::process::setpriority_process(None, 0);
                // After the change of user, which would clear it.
                Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
            });
        }
    }

    /// Gives a file or folder to this user.
    pub(crate) fn give(&self, path: &Path) -> Result<(), EngineError> {
        if self.own {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid)).map_err(EngineError::io("change the owner of", path))
    }

    /// Makes a folder that only this user can use. One that is there is put in order.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), EngineError> {
        fs::create_dir_all(path).map_err(EngineError::io("make the folder", path))?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o700))
            .map_err(EngineError::io("set the mode of", path))?;
        self.give(path)
    }

    /// Writes a whole file that only this user can read, durably: whatever happens there is the old one or the new.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> Result<(), EngineError> {
        let fresh = path.with_extension("trine-new");
        let done = (|| {
            let mut f = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            f.write_all(content)?;
            f.sync_all()
        })();
        done.map_err(EngineError::io("write", path))?;
        self.give(&fresh)?;
        fs::rename(&fresh, path).map_err(EngineError::io("write", path))?;
        path.parent().map_or(Ok(()), crate::files::sync_dir)
    }

    /// Lets this user pass through a folder without seeing what else is in it.
    pub(crate) fn let_through(&self, folder: &Path) -> Result<(), EngineError> {
        if self.own {
            return Ok(());
        }
        let open = || -> std::io::Result<()> {
            let mode = fs::metadata(folder)?.mode();
            if mode & 0o001 != 0 {
                Ok(())
            } else {
                fs::set_permissions(folder, PermissionsExt::from_mode(mode | 0o011))
            }
        };
        open().map_err(EngineError::io("let the database's user pass through", folder))
    }

    /// Is every folder down to `path` open to this user?
    pub(crate) fn can_reach(&self, path: &Path) -> Result<(), EngineError> {
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

fn id(what: &str, name: &str, key: &str) -> Result<u32, EngineError> {
    let output = Command::new("id").args([what, "--", name]).output().map_err(EngineError::io("run", "id"))?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|_| EngineError::Config(format!("there is no user {name} to run the database as: name one in {key}")))
}
