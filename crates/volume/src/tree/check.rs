//! What holds in every tree.

use std::collections::BTreeMap;

use crate::Ino;

use super::names::{valid, valid_name};
use super::{Inode, LARGEST_FILE, Tree, What};

/// A tree that no operations could have made: a snapshot that is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the volume's tree is damaged: file {}: {why}", ino.0)]
pub struct Broken {
    /// At which file.
    pub ino: Ino,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Tree {
    /// Checks all of a tree that was read from elsewhere: names, link counts, parents, that every file can be reached.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Broken> {
        let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
        for (ino, inode) in self.iter() {
            one(self.next, ino, inode)?;
            let Some(directory) = inode.directory() else { continue };
            let mut directories = 0;
            for (name, child) in &directory.entries {
                let Some(found) = self.get(*child) else { return broken(ino, "a name leads nowhere") };
                if valid_name(name).is_err() {
                    return broken(ino, "a name can't be one");
                }
                if let Some(below) = found.directory() {
                    directories += 1;
                    if below.parent != ino || *child == Ino::ROOT {
                        return broken(*child, "its parent is another");
                    }
                }
                *names.entry(*child).or_default() += 1;
            }
            if inode.links != directories + 2 {
                return broken(ino, "wrong number of links");
            }
        }
        for (ino, inode) in self.iter() {
            let named = names.get(&ino).copied().unwrap_or_default();
            if self.orphans.contains(&ino) != (named == 0 && ino != Ino::ROOT) {
                return broken(ino, "it has no name, or one too many");
            }
            match inode.directory() {
                None if inode.links != named => return broken(ino, "wrong number of links"),
                Some(_) if named != u32::from(ino != Ino::ROOT) => {
                    return broken(ino, "a directory with several names");
                }
                _ => {}
            }
        }
        match self.orphans.iter().find(|ino| self.get(**ino).is_none()) {
            Some(ino) => return broken(*ino, "it is not there"),
            None if !self.get(Ino::ROOT).is_some_and(Inode::is_directory) => return broken(Ino::ROOT, "no directory"),
            None => {}
        }
        self.reachable()
    }

    /// Every directory has one name, so whatever hangs together without the root goes round in a circle.
    fn reachable(&self) -> Result<(), Broken> {
        let mut seen = 0_usize;
        let mut next = vec![Ino::ROOT];
        while let Some(directory) = next.pop() {
            seen += 1;
            let below = self.directory(directory).ok().into_iter().flat_map(|d| d.entries.values());
            next.extend(below.filter(|ino| self.directory(**ino).is_ok()));
        }
        let directories = self.iter().filter(|(_, inode)| inode.is_directory()).count();
        if seen == directories { Ok(()) } else { broken(Ino::ROOT, "not all directories are below it") }
    }
}

fn one(next: Ino, ino: Ino, inode: &Inode) -> Result<(), Broken> {
    if ino >= next || ino.0 == 0 {
        return broken(ino, "a number that was not given yet");
    }
    if inode.mode > 0o7777 {
        return broken(ino, "permissions that are none");
    }
    if [inode.atime, inode.mtime, inode.ctime].into_iter().any(|time| valid(time).is_err()) {
        return broken(ino, "a time that is none");
    }
    match &inode.what {
        What::File { size } if *size > LARGEST_FILE => broken(ino, "too large"),
        _ => Ok(()),
    }
}

fn broken(ino: Ino, why: &'static str) -> Result<(), Broken> {
    Err(Broken { ino, why })
}
