//! Nodes' directories on file systems of their own: one that is too small, one that hangs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::namespace::run;
use crate::wait::wait_until;

/// What a node's directory stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A tmpfs of so many MiB, which can be given another size.
    Small(u32),
    /// An ext4 of 8 GiB (sparse) that can be made to hang: all that changes a file waits, as on a disk whose device or
    /// network has gone, and what waits can't be killed.
    Freezable,
}

/// A file system of one node's own. Dropping it thaws and unmounts it.
#[derive(Debug)]
pub struct OwnDisk {
    at: PathBuf,
}

impl OwnDisk {
    /// Makes and mounts it at `at`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn mount(kind: DiskKind, at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        let image = at.with_extension("img");
        match kind {
            DiskKind::Small(mib) => {
                mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=755"), "trinetest"]);
            }
            DiskKind::Freezable => {
                File::create(&image)?.set_len(8 << 30).with_context(|| format!("making {}", image.display()))?;
                run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
                mount.args(["-o", "loop"]).arg(&image);
            }
        }
        run(mount.arg(at))?;
        let made = Self { at: at.to_owned() };
        if kind == DiskKind::Freezable {
            // The loop device has the file open, and goes by itself when the file system is unmounted.
            fs::remove_file(image)?;
            fs::remove_dir(at.join("lost+found"))?;
        }
        Ok(made)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Gives a small one another size.
    ///
    /// # Errors
    /// The system refuses.
    pub fn resize(&self, mib: u32) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={mib}m")]).arg(&self.at)).map(drop)
    }

    /// It hangs from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn freeze(&self) -> Result<()> {
        run(Command::new("fsfreeze").arg("-f").arg(&self.at)).map(drop)
    }

    /// It works again, and what waited goes on.
    ///
    /// # Errors
    /// It did not hang.
    pub fn thaw(&self) -> Result<()> {
        thaw(&self.at)
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        release(&self.at);
    }
}

fn thaw(at: &Path) -> Result<()> {
    run(Command::new("fsfreeze").arg("-u").arg(at)).map(drop)
}

/// Unmounts it, for which nothing may wait for it.
fn release(at: &Path) {
    let _ = thaw(at);
    let unmounted = wait_until("a node's file system to be unmounted", Duration::from_secs(5), || {
        run(Command::new("umount").arg(at)).map(|_| true)
    });
    if unmounted.is_err() {
        let _ = run(Command::new("umount").arg("-l").arg(at));
    }
}

/// Unmounts everything that a killed run has left below this directory.
pub fn sweep(below: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(1)).map(Path::new);
    points.filter(|p| p.starts_with(below)).for_each(release);
}
