//! A file in memory.
#![allow(unsafe_code, reason = "there is no other way to map one")]

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::fs::File;
use std::ptr;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// Memory by pages: a part of a file that is shared with it, or nobody's.
pub(crate) struct Mapping {
    at: *mut c_void,
    len: usize,
    _not_shared: UnsafeCell<()>,
}

impl Mapping {
    /// The file's first `len` bytes; up to its last page.
    pub(crate) fn of(file: &File, len: usize) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks the place; nobody cuts the file while it is used.
        let at = unsafe { rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0) }.unwrap();
        Self { at, len, _not_shared: UnsafeCell::new(()) }
    }

    /// Nobody's memory, on a page's boundary as `O_DIRECT` wants it.
    pub(crate) fn anonymous(len: usize) -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks the place.
        let at = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) }.unwrap();
        Self { at, len, _not_shared: UnsafeCell::new(()) }
    }

    #[allow(clippy::mut_from_ref, reason = "one thread has it, and one slice of it at a time")]
    pub(crate) fn bytes(&self) -> &mut [u8] {
        // SAFETY: it is mapped as long as self lives, to be read and written.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }

    pub(crate) fn sync(&mut self, flags: MsyncFlags) -> rustix::io::Result<()> {
        // SAFETY: it is mapped.
        unsafe { rustix::mm::msync(self.at, self.len, flags) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a slice of it any more.
        unsafe { rustix::mm::munmap(self.at, self.len) }.unwrap();
    }
}
