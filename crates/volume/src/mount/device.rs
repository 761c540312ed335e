//! Mounting and unmounting: by the kernel, or for whom that is not allowed, by `fusermount3`.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::MountError;

/// Mounts, and gives the device that requests come from. Without anybody who reads it everything there hangs; closed, all
/// of it fails.
pub(super) fn mount(at: &Path, source: &str, allow_other: bool) -> Result<OwnedFd, MountError> {
    let no_device = |error| MountError::NoDevice { at: at.to_owned(), error };
    let device = match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(device) => OwnedFd::from(device),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return by_helper(at, source, allow_other, &format!("/dev/fuse: {error}"));
        }
        Err(error) => return Err(no_device(error)),
    };
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let data = format!(
        "fd={},rootmode=40700,user_id={user},group_id={group},default_permissions{}",
        device.as_raw_fd(),
        if allow_other { ",allow_other" } else { "" },
    );
    let refused = |error: Errno| MountError::Refused { at: at.to_owned(), error: error.into() };
    let data = CString::new(data).map_err(|_| refused(Errno::INVAL))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    match rustix::mount::mount(source, at, "fuse.trine", flags, data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => by_helper(at, source, allow_other, "mount: not permitted"),
        Err(Errno::NODEV) => Err(no_device(Errno::NODEV.into())),
        Err(error) => Err(refused(error)),
    }
}

/// Unmounts, if nobody uses it.
pub(super) fn unmount(at: &Path) -> Result<(), MountError> {
    let stuck = |error: io::Error| MountError::Stuck { at: at.to_owned(), error };
    match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW) {
        // Not mounted (any more).
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy { at: at.to_owned() }),
        Err(Errno::PERM) => {
            let output = Command::new("fusermount3").arg("-u").arg("--").arg(at).output().map_err(stuck)?;
            let said = String::from_utf8_lossy(&output.stderr);
            match output.status.success() {
                true => Ok(()),
                false if said.contains("busy") => Err(MountError::Busy { at: at.to_owned() }),
                false => Err(stuck(io::Error::other(said.trim().to_owned()))),
            }
        }
        Err(error) => Err(stuck(error.into())),
    }
}

/// Ends all calls in it, and leaves it where it is.
pub(super) fn end(at: &Path) -> io::Result<()> {
    // In use by this descriptor, it can't be unmounted; the kernel ends it before it looks at that. To be opened so, it is
    // asked nothing.
    let _used = rustix::fs::open(at, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::mount::unmount(at, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes it away from where it is at once, and ends all calls in it if that is allowed.
pub(super) fn detach(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::PERM) => {
            let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() { Ok(()) } else { Err(io::Error::other(said.trim().to_owned())) }
        }
        Err(error) => Err(error.into()),
    }
}

/// Has `fusermount3` mount it, which sends the device over a socket.
fn by_helper(at: &Path, source: &str, allow_other: bool, why: &str) -> Result<OwnedFd, MountError> {
    let failed = |error: io::Error| MountError::Refused { at: at.to_owned(), error };
    let not_permitted = |more: &str| MountError::NotPermitted { at: at.to_owned(), why: format!("{why}, {more}") };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut options = format!(
        "rw,nosuid,nodev,noatime,default_permissions,subtype=trine,fsname={}",
        source.replace([',', '\\'], "_")
    );
    if allow_other {
        options.push_str(",allow_other");
    }
    let mut helper = match Command::new("fusermount3")
        .args(["-o", &options, "--"])
        .arg(at)
        // It takes the number of any descriptor: its input needs no leave to be inherited.
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(helper) => helper,
        Err(error) => return Err(not_permitted(&format!("and fusermount3: {error}"))),
    };
    let device = receive(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = helper.stderr.take() {
        stderr.read_to_string(&mut said).ok();
    }
    let status = helper.wait().map_err(failed)?;
    match device {
        Ok(Some(device)) => {
            rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
            Ok(device)
        }
        Ok(None) => Err(not_permitted(&format!("and fusermount3 failed ({status}): {}", said.trim()))),
        Err(error) => Err(failed(error.into())),
    }
}

fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)
    })?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}
