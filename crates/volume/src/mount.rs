//! The volume as a directory: mounted by FUSE, each change an operation of the [`Store`].
//!
//! The kernel keeps what is written and what was read (its writeback cache), and asks only for what it does not know; nobody
//! else changes the volume, so it may know it for long. It sends what was written when it sees fit, and at the latest before
//! the `fsync` that asks for it, which is answered once the store has acknowledged everything before it. `O_SYNC`, `O_DSYNC`,
//! `msync` and a directory's `fsync` are the same to it. Not so `syncfs` and `sync`: the kernel hands over what was written,
//! but tells only FUSE mounts of block devices and of virtual machines that it was called, so they make nothing durable here.
//!
//! The kernel lets one process at a time `fsync` a file, and nobody write it meanwhile: that waits for the acknowledgement.
//!
//! A process that serves a volume must not map a file of it (unmapping holds the process's memory until what was written is
//! handed over), nor wait in any other way for what it serves itself.

mod attr;
mod content;
mod device;
mod directories;
mod error;
mod names;
mod opens;
mod reads;
mod removed;
mod requests;
mod served;
mod table;
mod xattrs;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use tokio::sync::watch;

pub use error::MountError;
pub use table::{abort_at, clean_stale};

use crate::Store;

use served::Served;

/// How a volume is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// What the table of mounts shows as its source.
    pub source: String,
    /// May other users enter (as permissions allow)? `None`: when this process is root's. Another than root may say so only
    /// where `/etc/fuse.conf` has `user_allow_other`.
    pub allow_other: Option<bool>,
    /// How many threads take the kernel's requests; at least 2, so that a read from a slow disk holds nothing up. The kernel
    /// wakes them in turn, each on another processor: with 3 or 4 a request often takes 35 µs in place of 7.
    pub threads: usize,
    /// How many further threads read when those are busy.
    pub readers: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { source: "trine".into(), allow_other: None, threads: 2, readers: 4 }
    }
}

/// A mounted volume. Dropped, it is aborted; see [`Mount::abort`].
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
    /// The kernel's number of it: device 0:this.
    minor: u32,
    ended: watch::Receiver<bool>,
}

impl Mount {
    /// Mounts the volume. What a dead process left there is removed first. Blocks for some milliseconds.
    ///
    /// # Errors
    /// See [`MountError`]: nothing is mounted then.
    pub fn open<S: Store>(store: Arc<S>, at: &Path, options: &MountOptions) -> Result<Self, MountError> {
        clean_stale(at)?;
        let at = mount_point(at)?;
        let allow_other = options.allow_other.unwrap_or_else(|| rustix::process::geteuid().is_root());
        let served = Served::new(store, options).map_err(|error| MountError::threads(&at, error))?;
        let device = device::mount(&at, &options.source, allow_other)?;
        // From here on everything that fails closes the device, and so ends what is mounted.
        let opened = table::top(&at).ok_or_else(|| MountError::Gone { at: at.clone() });
        let mount = opened.and_then(|row| Self::start(served, device, &at, row.minor, allow_other, options.threads));
        if mount.is_err() {
            device::detach(&at).ok();
        }
        mount
    }

    fn start<S: Store>(
        served: Served<S>,
        device: OwnedFd,
        at: &Path,
        minor: u32,
        allow_other: bool,
        threads: usize,
    ) -> Result<Self, MountError> {
        let acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(threads.max(2));
        config.clone_fd = true;
        let handshake = |error| MountError::handshake(at, error);
        // Mounted by us and not by the session: that would unmount whatever is there when it ends, be it another's.
        let session = Session::from_fd(served, device, acl, config).map_err(handshake)?;
        let (end, ended) = watch::channel(false);
        let path = at.to_owned();
        thread::Builder::new()
            .name("trine-mount".into())
            .spawn(move || {
                match session.run() {
                    Ok(()) => tracing::debug!(at = %path.display(), "mount has ended"),
                    Err(error) => tracing::error!(at = %path.display(), %error, "mount has failed"),
                }
                end.send_replace(true);
            })
            .map_err(|error| MountError::threads(at, error))?;
        tracing::info!(at = %at.display(), minor, "mounted");
        Ok(Self { at: at.to_owned(), minor, ended })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Waits until it is not served any more: closed, aborted, or unmounted by somebody else.
    pub async fn ended(&self) {
        // An error is the thread's death: the end, too.
        self.ended.clone().wait_for(|ended| *ended).await.ok();
    }

    /// Unmounts it. The kernel hands over first what it has not written yet (it is not synced by that). Blocks meanwhile.
    ///
    /// # Errors
    /// [`MountError::Busy`]: a process has a file open or works there; it is mounted still.
    pub fn close(&self) -> Result<(), MountError> {
        // A process that is just being started has copies of this one's descriptors, for a moment.
        let mut tries = 20;
        while self.is_there() {
            match device::unmount(&self.at) {
                Err(MountError::Busy { .. }) if tries > 0 => thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error),
                Ok(()) => break,
            }
            tries -= 1;
        }
        if self.wait() {
            return Ok(());
        }
        // It lives on where another namespace (a container) has it mounted.
        tracing::warn!(at = %self.at.display(), "unmounted here, but still in use elsewhere: aborted");
        self.abort()
    }

    /// Ends it at once, whoever uses it: calls that hang in it fail, what the kernel has not handed over is lost.
    ///
    /// # Errors
    /// It could not be ended: [`MountError::Stuck`].
    pub fn abort(&self) -> Result<(), MountError> {
        // Reaches it wherever it is mounted, but is not everywhere.
        let connection = table::end_connection(self.minor);
        let detached = if self.is_there() { device::detach(&self.at) } else { Ok(()) };
        if self.wait() {
            return Ok(());
        }
        let error = detached.and(connection).err().unwrap_or_else(|| io::Error::from(io::ErrorKind::TimedOut));
        Err(MountError::Stuck { at: self.at.clone(), error })
    }

    /// Whether the uppermost mount there is this one.
    fn is_there(&self) -> bool {
        table::top(&self.at).is_some_and(|row| row.minor == self.minor)
    }

    /// Waits until its threads are gone: they are in a moment, once it is unmounted.
    fn wait(&self) -> bool {
        for _ in 0..1000 {
            if *self.ended.borrow() || self.ended.has_changed().is_err() {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !*self.ended.borrow()
            && let Err(error) = self.abort()
        {
            tracing::error!(at = %self.at.display(), %error, "mount is left behind");
        }
    }
}

/// Checks that a volume can be mounted there, and gives the path without links in it.
fn mount_point(at: &Path) -> Result<PathBuf, MountError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing { at: at.to_owned() },
        io::ErrorKind::NotADirectory => MountError::NoDirectory { at: at.to_owned() },
        _ => MountError::Unreadable { at: at.to_owned(), error },
    };
    let real = fs::canonicalize(at).map_err(failed)?;
    if let Some(row) = table::top(&real) {
        return Err(MountError::InUse { at: real, by: row.kind });
    }
    match fs::read_dir(&real).map_err(failed)?.next() {
        None => Ok(real),
        Some(Ok(entry)) => Err(MountError::NotEmpty { at: real, found: entry.file_name() }),
        Some(Err(error)) => Err(failed(error)),
    }
}
