//! Extended attributes.

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::{Ino, Op, Store};

use super::attr::now;
use super::served::Served;

/// The names that are kept; who may do what with them the kernel knows. Access lists (`system.`) would have to be obeyed.
const KEPT: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

impl<S: Store> Served<S> {
    pub(super) fn set_attribute(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        kept(name)?;
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        self.store.change(|tree| {
            let there = tree.get(ino).ok_or(Errno::NOENT)?.xattrs.contains_key(name);
            if there && flags.contains(XattrFlags::CREATE) {
                return Err(Errno::EXIST);
            }
            if !there && flags.contains(XattrFlags::REPLACE) {
                return Err(Errno::NODATA);
            }
            Ok((Op::SetXattr { ino, name: name.into(), value: value.into(), at: now() }, ()))
        })
    }

    pub(super) fn attribute(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Errno> {
        kept(name)?;
        self.store.look(|tree| {
            let inode = tree.get(ino).ok_or(Errno::NOENT)?;
            inode.xattrs.get(name).map(|value| value.to_vec()).ok_or(Errno::NODATA)
        })
    }

    /// All names, each with a NUL after it.
    pub(super) fn attribute_names(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        self.store.look(|tree| {
            let inode = tree.get(ino).ok_or(Errno::NOENT)?;
            Ok(inode.xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect())
        })
    }

    pub(super) fn remove_attribute(&self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        kept(name)?;
        self.store.change(|_| Ok((Op::RemoveXattr { ino, name: name.into(), at: now() }, ())))
    }
}

fn kept(name: &[u8]) -> Result<(), Errno> {
    match KEPT.iter().find_map(|prefix| name.strip_prefix(*prefix)) {
        Some([]) => Err(Errno::INVAL),
        Some(_) => Ok(()),
        None => Err(Errno::OPNOTSUPP),
    }
}
