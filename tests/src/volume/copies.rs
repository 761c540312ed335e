//! The three copies of a volume, compared: the log, the tree, and every byte of every file.
//!
//! Files of a running standby lag behind its log, as it applies only what it was told is acknowledged. So the logs must become
//! equally long, and the files equal as they lie there, while the agents run. Then every process is killed, and each copy is
//! opened as an agent would open it and applies what its own log has after its last checkpoint. Nothing of one copy makes up
//! for what another lacks.

use std::borrow::Borrow as _;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use trine_protocol::{Epoch, SyncSetting};
use trine_volume::{Disk, Ino, Settings, Store as _, Volume};

use crate::cluster::{Cluster, Node};
use crate::wait::{wait_for, wait_until};

/// No epoch of a test is as late.
const LAST: Epoch = Epoch(1 << 40);
const PIECE: usize = 1 << 20;

/// What was compared.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// Bytes of log.
    pub log: u64,
    /// Files, and folders, links …
    pub names: usize,
    /// Bytes of files.
    pub content: u64,
}

/// Nothing may be written any more. The cluster is killed, and its copies are of no use afterwards.
///
/// # Errors
/// Two copies differ, or a standby does not get to where the primary is.
pub fn identical(cluster: &Cluster) -> Result<Compared> {
    let end = wait_for("the three logs to be equally long", Duration::from_secs(20), || {
        let status = cluster.status()?;
        let mut all = status.nodes.iter().map(|n| n.position.clone());
        let first = all.next().flatten();
        Ok(if all.all(|p| p == first) { first } else { None })
    })
    .with_context(|| format!("{:?}", cluster.status()))?;
    wait_until("the files of the three copies to be equal", Duration::from_secs(20), || {
        let of = |n: &Node| objects(&n.dir.join("volume/objects"));
        let all: Vec<_> = cluster.nodes().iter().map(of).collect::<Result<_>>()?;
        all.windows(2).try_for_each(|two| differ(&two[0], &two[1]))?;
        Ok(true)
    })?;
    let names: Vec<&str> = cluster.nodes().iter().map(|n| n.name.as_str()).collect();
    cluster.kill_nodes(&names)?;
    let copies: Vec<(&str, Volume)> = cluster
        .nodes()
        .iter()
        .map(|n| Ok((n.name.as_str(), open(&n.dir.join("volume")).with_context(|| format!("the copy of {}", n.name))?)))
        .collect::<Result<_>>()?;
    // A database that never rests may have written a little more meanwhile. Nobody waits for that.
    let log = copies.iter().map(|(_, v)| v.log_end().lsn).min().unwrap_or(0);
    let least = offset(&end).with_context(|| format!("a position: {end}"))?;
    ensure!(log >= least, "a log of {log} bytes, and all three had {least}: {copies:?}");
    let check = |v: &Volume| v.check_at(log)?.context("no entry ends there");
    let (first, others) = copies.split_first().context("no copies")?;
    for (name, other) in others {
        ensure!(check(&first.1)? == check(other)?, "the logs of {} and {name} differ before {log}", first.0);
    }
    for (name, volume) in &copies {
        lead(volume, log, LAST).with_context(|| format!("opening the copy of {name}"))?;
    }
    let mut compared = Compared { log, names: 0, content: 0 };
    let tree = first.1.look(Clone::clone);
    for (name, other) in others {
        ensure!(other.look(|t| *t == tree), "the names or attributes of {} and {name} differ", first.0);
    }
    for (ino, _) in tree.iter() {
        compared.names += 1;
        compared.content += same_content(&copies, ino, tree.size(ino).unwrap_or(0))?;
    }
    for (_, volume) in &copies {
        volume.end("the comparison is done");
    }
    Ok(compared)
}

/// The end of a position's text, `… 0/0000002A`.
fn offset(position: &str) -> Option<u64> {
    let (high, low) = position.rsplit(' ').next()?.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// What is in each file: a hash of its content but for zeros at its end, which a copy may leave out.
fn objects(folder: &Path) -> Result<BTreeMap<OsString, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("looking into {}", folder.display()))? {
        let entry = entry?;
        let mut content = fs::read(entry.path())?;
        content.truncate(content.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
        if !content.is_empty() {
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            found.insert(entry.file_name(), hasher.finish());
        }
    }
    Ok(found)
}

fn differ(one: &BTreeMap<OsString, u64>, other: &BTreeMap<OsString, u64>) -> Result<()> {
    let all = one.keys().chain(other.keys());
    let wrong: BTreeSet<_> = all.filter(|name| one.get(*name) != other.get(*name)).collect();
    ensure!(wrong.is_empty(), "these files differ: {wrong:?}");
    Ok(())
}

fn open(folder: &Path) -> Result<Volume> {
    Ok(Volume::open(Arc::new(Disk::open(folder)?), Settings::default())?)
}

/// Everything up to `log` goes into its files.
fn lead(volume: &Volume, log: u64, epoch: Epoch) -> Result<()> {
    volume.truncate(log)?;
    volume.lead(epoch)?;
    volume.set_sync(&SyncSetting::Alone);
    wait_until("a copy to apply its log", Duration::from_secs(20), || {
        let now = *volume.progress().borrow();
        ensure!(!now.closed, "it was closed: {:?}", volume.closed());
        Ok(now.applied == now.end)
    })
}

/// Writes a copy's files and folders into a new folder, each as long and with the content that it has, for a program that reads
/// files. No agent may have the copy.
///
/// # Errors
/// The copy can't be opened or read, or the folder not be written.
pub fn take_out(copy: &Path, into: &Path) -> Result<()> {
    let volume = open(copy)?;
    lead(&volume, volume.log_end().lsn, Epoch(LAST.0 + 1))?;
    let tree = volume.look(Clone::clone);
    let mut folders: Vec<(Ino, PathBuf)> = vec![(Ino::ROOT, into.to_owned())];
    while let Some((folder, path)) = folders.pop() {
        fs::create_dir_all(&path)?;
        let inode = tree.get(folder).context("a folder that is not there")?;
        for (name, ino) in inode.directory().into_iter().flat_map(|d| &d.entries) {
            let to = path.join(OsStr::from_bytes(name.borrow()));
            let what = tree.get(*ino).context("a name of no file")?;
            if what.is_directory() {
                folders.push((*ino, to));
            } else if what.is_file() {
                write_out(&volume, *ino, what.size(), &to).with_context(|| format!("writing {}", to.display()))?;
            }
        }
    }
    volume.end("its files are out");
    Ok(())
}

fn write_out(volume: &Volume, ino: Ino, size: u64, to: &Path) -> Result<()> {
    let mut file = fs::File::create(to)?;
    let mut at = 0;
    while at < size {
        let piece = volume.read(ino, at, PIECE)?;
        ensure!(!piece.is_empty(), "it ends at {at}, and should have {size} bytes");
        file.write_all(&piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn same_content(copies: &[(&str, Volume)], ino: Ino, size: u64) -> Result<u64> {
    let mut at = 0;
    while at < size {
        let mut pieces = Vec::new();
        for (name, volume) in copies {
            let piece = volume.read(ino, at, PIECE).with_context(|| format!("reading {ino:?} of {name}"))?;
            pieces.push((name, piece));
        }
        for (name, piece) in &pieces {
            ensure!(!piece.is_empty(), "file {ino:?} of {name} ends at {at}, and should have {size} bytes");
            ensure!(*piece == pieces[0].1, "file {ino:?} of {} and {name} differs at {at} or after", pieces[0].0);
        }
        at += pieces[0].1.len() as u64;
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_ends_with_its_place_in_the_log() {
        assert_eq!(offset("0/0000002A"), Some(42));
        assert_eq!(offset("epoch 3 at 1/00000001"), Some((1 << 32) + 1));
        assert_eq!(offset("nowhere"), None);
    }

    #[test]
    fn files_that_differ_are_named() {
        let dir = std::env::temp_dir().join(format!("trine-copies-{}", crate::process::own_id()));
        let write = |copy: &str, name: &str, content: &[u8]| {
            fs::create_dir_all(dir.join(copy)).unwrap();
            fs::write(dir.join(copy).join(name), content).unwrap();
        };
        write("a", "1", b"x\0\0");
        write("a", "2", b"\0");
        write("b", "1", b"x");
        write("c", "1", b"x\x01");
        write("c", "3", b"y");
        let of = |copy: &str| objects(&dir.join(copy)).unwrap();
        assert!(differ(&of("a"), &of("b")).is_ok());
        let wrong = differ(&of("a"), &of("c")).unwrap_err().to_string();
        assert!(wrong.contains("\"1\"") && wrong.contains("\"3\""), "{wrong}");
        fs::remove_dir_all(dir).unwrap();
    }
}
