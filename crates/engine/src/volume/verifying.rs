//! The primary compares its volume with the other copies, part for part.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use trine_protocol::NodeName;
use trine_volume::{Findings, Ino, LARGEST_REGION, Op, Region, Store as _, Tree, Verdict, Volume, VolumeError};

use crate::{Difference, EngineError, Remedy, Verification};

/// An attribute of the volume's own directory: when its copies were last found equal, in seconds since the Unix epoch; or
/// [`DUE`].
const VERIFIED: &[u8] = b"trusted.trine.verified";
const DUE: &[u8] = b"due";

/// So many parts are asked for at once: one waits for a commit, and there are many small files.
const AT_ONCE: usize = 16;

/// How often a part is looked at again that changes whenever it is to be repaired.
const TRIES: usize = 5;

/// Is it time to compare the copies again? `every`: how long after the last time.
pub(super) fn is_due(volume: &Volume, every: Duration, now: Duration) -> bool {
    let last = volume.look(|tree| tree.get(Ino::ROOT).and_then(|root| root.xattrs.get(VERIFIED)).map(|v| v.to_vec()));
    let Some(last) = last else {
        // A volume is new, or of an older version: its time begins now.
        if let Err(error) = note(volume, &seconds(now)) {
            tracing::debug!(%error, "can't note when the copies are to be compared");
        }
        return false;
    };
    let at = std::str::from_utf8(&last).ok().and_then(|text| text.parse().ok());
    // Something else, `due` for one: at once.
    at.is_none_or(|at| now.saturating_sub(Duration::from_secs(at)) >= every)
}

fn seconds(at: Duration) -> Vec<u8> {
    at.as_secs().to_string().into_bytes()
}

fn note(volume: &Volume, what: &[u8]) -> Result<(), rustix::io::Errno> {
    let at = volume.look(|tree| tree.get(Ino::ROOT).map(|root| root.ctime)).unwrap_or_default();
    let op = Op::SetXattr { ino: Ino::ROOT, name: VERIFIED.into(), value: what.into(), at };
    volume.change(|_| Ok((op, ())))
}

/// Compares all of the volume. Parts that differ on standbys are repaired on the way. `pace`: at most so many bytes a second.
pub(super) async fn verify(
    me: &NodeName,
    volume: &Volume,
    pace: Option<u64>,
    now: Duration,
    seen: &watch::Sender<Verification>,
) -> Result<(), EngineError> {
    let files = volume.look(|tree| tree.iter().filter_map(|(ino, _)| Some((ino, tree.size(ino)?))).collect::<Vec<_>>());
    let total = files.iter().map(|(_, size)| size).sum();
    seen.send_replace(Verification { total, ..Verification::default() });
    let this = Verifier { me, volume, seen };
    this.look_at(Region::Tree).await?;
    let regions = files.into_iter().flat_map(|(ino, size)| {
        let content = move |offset| Region::Content { ino, offset, len: LARGEST_REGION.min(size - offset) };
        (0..size).step_by(usize::try_from(LARGEST_REGION).unwrap_or(usize::MAX)).map(content)
    });
    let regions: Vec<Region> = regions.collect();
    let mut next = Instant::now();
    for some in regions.chunks(AT_ONCE) {
        let bytes = some.iter().map(|region| length(*region)).sum::<u64>();
        if let Some(pace) = pace {
            sleep_until(next).await;
            next = Instant::now() + Duration::from_secs_f64(bytes as f64 / pace.max(1) as f64);
        }
        let asked = some.iter().map(|region| Ok((*region, ask(volume, *region)?))).collect::<Result<Vec<_>, _>>();
        for (region, answer) in asked.map_err(failed)? {
            let (lsn, findings) = answer.await.map_err(|_| failed(VolumeError::Closed))?;
            this.judge(region, lsn, findings).await?;
        }
        seen.send_modify(|v| v.done += bytes);
    }
    let own = seen.borrow().differences.iter().any(|d| d.outcome == Remedy::Primary);
    // The next primary has to look at once: what this one has is not right.
    let mark = if own { DUE.to_vec() } else { seconds(now) };
    let volume = volume.clone();
    let noted = crate::guard::blocking(move || note(&volume, &mark)).await;
    noted.map_err(|errno| EngineError::Io {
        action: "note the comparison in",
        path: "the volume".into(),
        source: errno.into(),
    })
}

fn failed(error: VolumeError) -> EngineError {
    EngineError::volume("compare the copies")(error)
}

fn length(region: Region) -> u64 {
    match region {
        Region::Tree => 0,
        Region::Content { len, .. } => len,
    }
}

type Answer = oneshot::Receiver<(u64, Findings)>;

fn ask(volume: &Volume, region: Region) -> Result<Answer, VolumeError> {
    let (tell, told) = oneshot::channel();
    let tell = move |lsn, findings| {
        let _ = tell.send((lsn, findings));
    };
    volume.verify(region, Box::new(tell))?;
    Ok(told)
}

struct Verifier<'a> {
    me: &'a NodeName,
    volume: &'a Volume,
    seen: &'a watch::Sender<Verification>,
}

impl Verifier<'_> {
    async fn look_at(&self, region: Region) -> Result<(), EngineError> {
        let (lsn, findings) = self.answer(region).await?;
        self.judge(region, lsn, findings).await
    }

    async fn answer(&self, region: Region) -> Result<(u64, Findings), EngineError> {
        let answer = ask(self.volume, region).map_err(failed)?;
        answer.await.map_err(|_| failed(VolumeError::Closed))
    }

    /// Says what differs, and repairs it if this copy is right.
    async fn judge(&self, region: Region, lsn: u64, findings: Findings) -> Result<(), EngineError> {
        self.seen.send_modify(|v| v.copies = v.copies.into_iter().chain([findings.compared()]).min());
        let (mut lsn, mut findings) = (lsn, findings);
        let mut odd = BTreeSet::new();
        for _ in 0..TRIES {
            match (findings.verdict(), findings.right()) {
                // It may have been written anew meanwhile; or it is repaired by now.
                (Verdict::Equal, _) if odd.is_empty() => return Ok(()),
                (Verdict::Equal, _) => return self.found(region, odd, Remedy::Repaired),
                (Verdict::Odd { own: true, others }, _) => {
                    let nodes = others.into_iter().chain([self.me.clone()]).collect();
                    return self.found(region, nodes, Remedy::Primary);
                }
                (Verdict::Odd { others, .. }, _) if region == Region::Tree => {
                    return self.found(region, others, Remedy::Rebuild);
                }
                (Verdict::Odd { others, .. }, Some(right)) => {
                    odd.extend(others);
                    let volume = self.volume.clone();
                    let repair = move || volume.repair(lsn, right);
                    crate::guard::blocking(repair).await.map_err(failed)?;
                }
                (Verdict::Undecided | Verdict::Odd { .. }, _) => {
                    let nodes = findings.others.into_keys().chain([self.me.clone()]).collect();
                    return self.found(region, nodes, Remedy::Undecided);
                }
            }
            (lsn, findings) = self.answer(region).await?;
        }
        self.found(region, odd, Remedy::Busy)
    }

    fn found(&self, region: Region, nodes: BTreeSet<NodeName>, outcome: Remedy) -> Result<(), EngineError> {
        let what = match region {
            Region::Tree => "names or attributes of files".to_owned(),
            Region::Content { ino, offset, len } => {
                format!("{} from byte {offset} to {}", self.volume.look(|tree| path(tree, ino)), offset + len)
            }
        };
        tracing::warn!(%what, ?nodes, ?outcome, "the copies of the volume differ");
        self.seen.send_modify(|v| {
            // One that asks for more than a repair is never left out: something has to be done about it.
            let same = |d: &Difference| d.outcome == outcome && d.nodes == nodes;
            let told = outcome == Remedy::Repaired || v.differences.iter().any(same);
            if v.differences.len() < Verification::SHOWN || !told {
                v.differences.push(Difference { what, nodes, outcome });
            } else {
                v.more += 1;
            }
        });
        Ok(())
    }
}

/// A name of the file, from the volume's own directory on.
fn path(tree: &Tree, ino: Ino) -> String {
    let mut parts = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT {
        let parent = tree.iter().find_map(|(parent, inode)| {
            let (name, _) = inode.directory()?.entries.iter().find(|(_, child)| **child == at)?;
            Some((parent, String::from_utf8_lossy(name).into_owned()))
        });
        let Some((parent, name)) = parent else { return format!("file {} (without a name)", ino.0) };
        parts.push(name);
        at = parent;
    }
    parts.reverse();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trine_protocol::{Epoch, SyncSetting};
    use trine_volume::{Disk, Kind, Settings, Stamp};

    use super::*;

    const AT: Stamp = Stamp { secs: 1, nanos: 0 };

    fn volume(folder: &std::path::Path) -> Volume {
        let disk = Disk::open(folder).unwrap();
        Volume::create(&disk, 7, Epoch(1), Tree::new(0, 0, AT)).unwrap();
        let volume = Volume::open(Arc::new(disk), Settings::default()).unwrap();
        volume.lead(Epoch(2)).unwrap();
        volume.set_sync(&SyncSetting::Alone);
        volume
    }

    fn make(volume: &Volume, parent: Ino, name: &str, kind: Kind<'_>) -> Ino {
        let make = |tree: &Tree| {
            let ino = tree.next();
            let name = name.as_bytes().into();
            Ok((Op::Make { parent, name, ino, kind, mode: 0o700, uid: 0, gid: 0, at: AT }, ino))
        };
        volume.change(make).unwrap()
    }

    #[tokio::test]
    async fn it_is_due_a_while_after_the_last_one_and_at_once_when_the_last_primary_was_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let volume = volume(folder.path());
        let (day, now) = (Duration::from_secs(86_400), Duration::from_secs(1_800_000_000));
        assert!(!is_due(&volume, day, now), "a new volume");
        assert!(!is_due(&volume, day, now + day / 2) && is_due(&volume, day, now + day));
        let seen = watch::channel(Verification::default()).0;
        verify(&"n1".parse().unwrap(), &volume, None, now + day, &seen).await.unwrap();
        assert!(!is_due(&volume, day, now + day) && is_due(&volume, day, now + 2 * day));
        note(&volume, DUE).unwrap();
        assert!(is_due(&volume, day, now + day));
        volume.end("done");
    }

    #[tokio::test]
    async fn a_volume_without_others_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let volume = volume(folder.path());
        let deep = make(&volume, Ino::ROOT, "deep", Kind::Directory);
        let file = make(&volume, deep, "a b", Kind::File);
        let data = vec![3; 1 << 20];
        for i in 0..3 {
            volume
                .change(|_| Ok((Op::Write { ino: file, offset: i << 20, data: (&data).into(), at: AT }, ())))
                .unwrap();
        }
        assert_eq!(volume.look(|tree| path(tree, file)), "deep/a b");
        let seen = watch::channel(Verification::default()).0;
        verify(&"n1".parse().unwrap(), &volume, Some(u64::MAX), Duration::ZERO, &seen).await.unwrap();
        let seen = seen.borrow().clone();
        assert_eq!((seen.done, seen.total, seen.copies, seen.differences.len()), (3 << 20, 3 << 20, Some(1), 0));
        volume.end("done");
    }

    #[test]
    fn a_disk_that_has_lost_everything_is_told_in_a_few_words() {
        let folder = tempfile::tempdir().unwrap();
        let volume = volume(folder.path());
        let seen = watch::channel(Verification::default()).0;
        let this = Verifier { me: &"n1".parse().unwrap(), volume: &volume, seen: &seen };
        let part = Region::Content { ino: Ino(9), offset: 0, len: 1 };
        let nodes = |node: &str| [node.parse().unwrap()].into();
        for _ in 0..1000 {
            this.found(part, nodes("n2"), Remedy::Repaired).unwrap();
        }
        this.found(part, nodes("n3"), Remedy::Undecided).unwrap();
        this.found(part, nodes("n3"), Remedy::Undecided).unwrap();
        let seen = seen.borrow().clone();
        assert_eq!((seen.differences.len(), seen.more), (Verification::SHOWN + 1, 981));
        assert_eq!(seen.differences.last().unwrap().outcome, Remedy::Undecided);
        volume.end("done");
    }
}
