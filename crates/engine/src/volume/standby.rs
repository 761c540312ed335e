//! A standby's side of the engine: it follows, takes back, is made anew.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use trine_protocol::NodeName;
use trine_volume::{Volume, VolumeError, link};

use super::following::{Flow, Following};
use super::site::Inner;
use crate::guard::blocking;
use crate::{Ask, CopyId, DataCopy, EngineError, Followed, Fork, History, Progress, Upstream};

/// A new follower is waited for so long before the caller may look again.
const FIRST_WORD: Duration = Duration::from_millis(300);

impl Inner {
    pub(super) async fn follow(&self, upstream: &Upstream, history: &History) -> Result<Followed, EngineError> {
        let _turn = self.turn.lock().await;
        let volume = self.standby("follow")?;
        if let Some(why) = volume.closed() {
            // Its disk has failed. Opened anew it says whether what it has is of any use.
            if volume.is_broken() {
                self.opened().copy = DataCopy::Incomplete(why.clone());
            }
            self.tear_down(&volume, None, &why).await;
            return Err(EngineError::NotRunning);
        }
        self.check_identity(&upstream.node, history)?;
        let own = own_history(&volume);
        let common = history.common(&own);
        if common.is_none_or(|c| c.end < own.end) {
            let at = common.map_or(0, |c| c.end);
            return Ok(Followed::Diverged(format!("its log goes on to {} where it parts at {at}", own.end)));
        }
        let mut flow = {
            let mut following = self.following.lock().await;
            let same = |f: &Following| f.upstream == upstream.node && f.epoch == history.epoch;
            if !following.as_ref().is_some_and(same) {
                if let Some(f) = following.as_mut() {
                    f.cut().await;
                }
                let (node, epoch) = (upstream.node.clone(), history.epoch);
                *following = Following::start(&self.log, volume, self.neighbours()?, node, epoch);
            }
            let Some(f) = following.as_ref() else { return Err(EngineError::NotRunning) };
            self.opened().follows = Some((f.upstream.clone(), f.flow.clone()));
            f.flow.clone()
        };
        let settled = flow.wait_for(|f| !matches!(f, Flow::Connecting(_)));
        let _ = timeout(FIRST_WORD, settled).await;
        let now = flow.borrow().clone();
        Ok(match now {
            Flow::Streaming => Followed::Streaming,
            Flow::Connecting(_) => Followed::NotYet,
            Flow::Parted => Followed::Diverged(format!("{} has another log", upstream.node)),
            Flow::TooFar(first) => {
                Followed::TooFarBehind(format!("{} keeps its log only from {first} on", upstream.node))
            }
        })
    }

    pub(super) fn check_identity(&self, node: &NodeName, history: &History) -> Result<(), EngineError> {
        match self.identity()? {
            Some(found) if found != history.identity => Err(EngineError::OtherCluster {
                what: format!("the log of {node}"),
                found: history.identity,
                expected: found,
            }),
            _ => Ok(()),
        }
    }

    pub(super) async fn rejoin(&self, upstream: &Upstream, history: &History) -> Result<(), EngineError> {
        {
            let _turn = self.turn.lock().await;
            let volume = self.standby("rewind it")?;
            self.check_identity(&upstream.node, history)?;
            self.cut().await;
            let own = own_history(&volume);
            let Some(common) = history.common(&own) else {
                return Err(EngineError::NeedsRebuild(format!("it has nothing in common with {}", upstream.node)));
            };
            if common.end >= own.end {
                return Err(EngineError::NeedsRebuild(format!("its log differs from that of {}", upstream.node)));
            }
            let kept = self.paths.kept.clone();
            let work = move || {
                keep_aside(&volume, common.end, &kept)?;
                volume.truncate(common.end).map_err(|error| match error {
                    VolumeError::Applied { .. } | VolumeError::Strange(_) => {
                        EngineError::NeedsRebuild(error.to_string())
                    }
                    other => EngineError::volume("take back the end of the log")(other),
                })
            };
            blocking(work).await?;
        }
        self.follow(upstream, history).await.map(drop)
    }

    pub(super) async fn copy_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let _one = self.copying.lock().await;
        crate::files::remove_tree(&self.paths.fresh)?;
        let fresh = Arc::new(self.disk(&self.paths.fresh)?);
        let old = self.disk(&self.paths.copy)?;
        let open = async |ask| {
            self.neighbours()?.open(&upstream.node, ask).await.map_err(|source| EngineError::Neighbour {
                action: "open a stream to",
                node: upstream.node.clone(),
                source,
            })
        };
        let failed = EngineError::volume;
        let copied = |c: link::Copied| {
            progress.send_replace(Progress { phase: "copying".into(), done: c.done, total: Some(c.total) });
        };
        let stream = open(Ask::Copy).await?;
        let (taken, stream) =
            link::take(&*fresh, Some(&old), stream, copied).await.map_err(|e| self.full_or(e, "copy the volume"))?;
        if identity.is_some_and(|expected| expected != CopyId(taken.identity)) {
            let what = format!("the volume of {}", upstream.node);
            let expected = identity.unwrap_or(CopyId(0));
            return Err(EngineError::OtherCluster { what, found: CopyId(taken.identity), expected });
        }
        progress.send_replace(Progress { phase: "taking the log".into(), done: 0, total: None });
        let settings = self.config.settings;
        let opened = blocking(move || Volume::open(fresh, settings)).await;
        let volume = ClosedAtEnd(opened.map_err(failed("open the new copy"))?);
        let reached = self.take_log(&volume.0, upstream, &taken).await;
        let end = volume.0.clone();
        blocking(move || end.end("the new copy is put in place")).await;
        drop(stream);
        reached?;
        self.paths.mark_complete()?;
        let _turn = self.turn.lock().await;
        let (open, serving) = self.what_is_open();
        if let Some(open) = open {
            self.tear_down(&open, serving.as_ref(), "a new copy takes its place").await;
        }
        self.paths.swap()?;
        self.opened().copy = DataCopy::Complete;
        tracing::info!(sent = taken.sent, from = %upstream.node, "a new copy is in place");
        Ok(())
    }

    /// The new copy takes the log until it is one.
    pub(super) async fn take_log(
        &self,
        volume: &Volume,
        upstream: &Upstream,
        taken: &link::Taken,
    ) -> Result<(), EngineError> {
        let link::Taken { upto, epoch, .. } = *taken;
        let neighbours = self.neighbours()?;
        let node = upstream.node.clone();
        let Some(mut following) = Following::start(&self.log, volume.clone(), neighbours, node.clone(), epoch) else {
            return Err(EngineError::NotRunning);
        };
        let mut flow = following.flow.clone();
        let mut progress = volume.progress();
        let ended = tokio::select! {
            there = progress.wait_for(|p| p.durable >= upto || p.closed) => {
                there.is_ok_and(|p| !p.closed).then_some(()).ok_or_else(|| volume.closed().unwrap_or_default())
            }
            lost = flow.wait_for(|f| matches!(f, Flow::Parted | Flow::TooFar(_))) => {
                Err(lost.map_or_else(|e| e.to_string(), |f| format!("{:?}", *f)))
            }
        };
        following.cut().await;
        ended.map_err(|why| EngineError::Neighbour {
            action: "take the log after the copy from",
            node,
            source: std::io::Error::other(why),
        })
    }

    pub(super) fn full_or(&self, error: VolumeError, action: &'static str) -> EngineError {
        match &error {
            VolumeError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                EngineError::DiskFull { path: self.paths.dir.clone(), what: error.to_string() }
            }
            _ => EngineError::volume(action)(error),
        }
    }
}

/// A volume that is closed whatever becomes of who opened it: its threads would work on in a folder that is made anew.
struct ClosedAtEnd(Volume);

impl Drop for ClosedAtEnd {
    fn drop(&mut self) {
        self.0.close("nobody needs it any more");
    }
}

/// What a copy's log is made of.
pub(super) fn own_history(volume: &Volume) -> History {
    let (lineage, end) = volume.extent();
    let ends = lineage.begins().iter().skip(1).map(|(_, begin)| *begin);
    let forks = lineage.begins().iter().zip(ends).map(|((epoch, _), end)| Fork { epoch: *epoch, end }).collect();
    History { identity: CopyId(volume.identity()), forks, epoch: lineage.epoch(), end, rewind_ready: true }
}

/// Keeps what is about to be taken back, for a person: the log's own bytes, from `from` to its end.
fn keep_aside(volume: &Volume, from: u64, kept: &Path) -> Result<(), EngineError> {
    let end = volume.log_end().lsn;
    fs::create_dir_all(kept).map_err(EngineError::io("make the folder", kept))?;
    let path = kept.join(format!("epoch-{}-from-{from}-to-{end}.log", volume.lineage().epoch()));
    let mut log = Vec::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = from;
    while at < end {
        let read = volume.read_log(at, &mut piece).map_err(EngineError::volume("read the log"))?;
        log.extend_from_slice(piece.get(..read).unwrap_or_default());
        at += read as u64;
    }
    fs::write(&path, log).map_err(EngineError::io("write", &path))?;
    tracing::warn!(file = %path.display(), from, to = end, "kept aside what is taken back");
    Ok(())
}
