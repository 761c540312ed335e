//! Taking back what a former primary wrote and nobody else has.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::sleep;
use trine_protocol::Epoch;

use super::Postgres;
use super::clone::kilobytes;
use super::config::conninfo;
use super::control::{Control, lsn};
use super::follow::{judge, parts};
use super::paths::{remove_file, remove_tree, sync_all, sync_dir};
use super::setup::Private;
use crate::tool::{Said, Tool};
use crate::{EngineError, Followed, Fork, History, Progress, Upstream};

/// What the primary sees of a rewind: no node's name.
const NAME: &str = "trine_rewind";
/// How often it is looked why a rewound copy does not come up.
const LOOK: Duration = Duration::from_millis(500);

/// The mark of a copy that is in the middle of a rewind: it can't be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The data directory's number on its file system: a mark that another copy left says nothing about this one.
    inode: u64,
    /// To which epoch.
    epoch: Epoch,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// It has written its own checkpoint, as no standby may; nothing of the upstream's has been copied.
    Prepared,
    /// Files of both copies are mixed.
    Rewinding,
    /// The files are there; it has yet to take in the log up to where they fit together.
    Rewound,
}

impl Mark {
    pub(super) fn why(&self) -> String {
        match self.phase {
            Phase::Prepared => format!("it was made ready for a rewind to epoch {}", self.epoch),
            Phase::Rewinding => format!("its rewind to epoch {} was interrupted", self.epoch),
            Phase::Rewound => format!("it was rewound to epoch {} and has not caught up since", self.epoch),
        }
    }
}

/// What a rewind cut off, for a person: `note.json` beside the files.
#[derive(Serialize)]
struct Note<'a> {
    node: &'a str,
    rewound_to_epoch: Epoch,
    cut_off_epoch: Epoch,
    from: String,
    to: String,
    unix_seconds: u64,
    how_to_read: &'static str,
}

impl Postgres {
    pub(super) fn rewind_mark(&self) -> Option<Mark> {
        let text = fs::read(&self.paths.rewind_mark).ok()?;
        let inode = fs::metadata(&self.paths.data).map_or(0, |m| m.ino());
        match serde_json::from_slice::<Mark>(&text) {
            Ok(mark) => Some(mark).filter(|m| m.inode == inode),
            Err(_) => Some(Mark { inode, epoch: Epoch::ZERO, phase: Phase::Rewinding }),
        }
    }

    fn set_mark(&self, epoch: Epoch, phase: Phase) -> Result<(), EngineError> {
        let data = &self.paths.data;
        let inode = fs::metadata(data).map_err(EngineError::io("look at", data))?.ino();
        let text = serde_json::to_vec(&Mark { inode, epoch, phase }).unwrap_or_default();
        self.account.write(&self.paths.rewind_mark, &text)
    }

    fn clear_mark(&self) -> Result<(), EngineError> {
        remove_file(&self.paths.rewind_mark)?;
        sync_dir(&self.paths.dir)
    }

    pub(super) async fn rejoin(
        this: &Arc<Self>,
        upstream: &Upstream,
        history: &History,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let turn = Arc::clone(&this.turn).lock_owned().await;
        let _turn = match this.rewind_mark() {
            Some(mark) if mark.phase == Phase::Rewinding => return Err(EngineError::NeedsRebuild(mark.why())),
            Some(mark) if mark.phase == Phase::Rewound => turn,
            Some(_) => this.rewind(turn, upstream, history, progress).await?,
            None => {
                if !this.prepare_rewind(upstream, history, progress).await? {
                    return Ok(());
                }
                this.rewind(turn, upstream, history, progress).await?
            }
        };
        progress.send_replace(Progress { phase: "catching up".into(), done: 0, total: None });
        this.catch_up(upstream).await?;
        this.clear_mark()
    }

    /// Runs pg_rewind to its end, also when nobody waits for it any more: half a rewind is worth nothing. It takes seconds,
    /// holds the turn, and ends by itself when the upstream is gone.
    async fn rewind(
        self: &Arc<Self>,
        turn: OwnedMutexGuard<()>,
        upstream: &Upstream,
        history: &History,
        progress: &watch::Sender<Progress>,
    ) -> Result<OwnedMutexGuard<()>, EngineError> {
        if !history.rewind_ready {
            return Err(EngineError::NotRewindReady(upstream.node.clone()));
        }
        let epoch = history.epoch;
        let (tell, mut heard) = watch::channel(Progress::default());
        let (this, upstream) = (Arc::clone(self), upstream.clone());
        let task = tokio::spawn(async move { this.run_rewind(&upstream, epoch, &tell).await.map(|()| turn) });
        while heard.changed().await.is_ok() {
            progress.send_replace(heard.borrow_and_update().clone());
        }
        task.await.unwrap_or_else(|e| Err(EngineError::NeedsRebuild(format!("the rewind broke off: {e}"))))
    }

    /// False: there is nothing to take back, and it follows.
    async fn prepare_rewind(
        &self,
        upstream: &Upstream,
        history: &History,
        progress: &watch::Sender<Progress>,
    ) -> Result<bool, EngineError> {
        progress.send_replace(Progress { phase: "comparing".into(), done: 0, total: None });
        match self.start_as(&super::Live::default()).await {
            Err(EngineError::StartFailed { why, log }) => {
                return Err(EngineError::NeedsRebuild(format!("it does not start: {why}\n{log}")));
            }
            other => other?,
        }
        self.cut().await?;
        let session = self.session().await?;
        self.replay_to_the_end(&session).await?;
        let own = self.own_history(&session).await?;
        self.give_back(session);
        if own.identity != history.identity {
            let (found, expected) = (history.identity, own.identity);
            return Err(EngineError::OtherCluster { what: upstream.node.to_string(), found, expected });
        }
        let Some(why) = parts(&own, history, upstream) else {
            let live = self.link(upstream)?;
            self.write_live(&live)?;
            self.reload()?;
            return Ok(false);
        };
        let Some(fork) = own.common(history) else { return Err(EngineError::NeedsRebuild(why)) };
        if !history.rewind_ready {
            return Err(EngineError::NotRewindReady(upstream.node.clone()));
        }
        tracing::info!(%why, "rewinding");
        self.stop_now().await?;
        let control = self.control().await?;
        if !control.is_shut_down() {
            return Err(EngineError::StopFailed(format!("its data is {}", control.state)));
        }
        progress.send_replace(Progress { phase: "keeping aside".into(), done: 0, total: None });
        self.keep_aside(&own, fork, history.epoch, control.segment)?;
        if control.timeline < own.epoch.0 && self.binaries()?.major < 16 {
            self.write_own_checkpoint(history.epoch, &control).await?;
        }
        Ok(true)
    }

    /// pg_rewind before 16 takes a copy's timeline from its last checkpoint. A primary that ended before its first one is
    /// still on the timeline before, by that: its log would not be found. So it recovers once as what it was, alone, and
    /// writes that checkpoint. It is marked first: such a copy must never be started again as it is.
    async fn write_own_checkpoint(&self, epoch: Epoch, control: &Control) -> Result<(), EngineError> {
        tracing::info!(timeline = control.timeline, "its last checkpoint is of an earlier epoch: writing one");
        self.set_mark(epoch, Phase::Prepared)?;
        remove_file(&self.paths.data.join("standby.signal"))?;
        let binaries = self.binaries()?;
        let private = Private {
            binaries: &binaries,
            account: &self.account,
            data: &self.paths.data,
            place: self.paths.private(),
            settings: &control.floor,
        };
        let done = private.single_user("").await;
        remove_tree(&private.place)?;
        done.map_err(|e| EngineError::NeedsRebuild(e.chain()))
    }

    async fn run_rewind(
        &self,
        upstream: &Upstream,
        epoch: Epoch,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let binaries = self.binaries()?;
        self.copy_certificates(&self.paths.sockets)?;
        let dsn = conninfo(NAME, upstream, &self.paths.sockets, Some("postgres"));
        let args = [
            format!("--target-pgdata={}", self.paths.data.display()),
            format!("--source-server={dsn}"),
            "--no-ensure-shutdown".into(),
            "--progress".into(),
            "--no-sync".into(),
        ];
        let tool = Tool { program: binaries.program("pg_rewind"), account: &self.account, place: &self.paths.tools };
        let before = self.rewind_mark();
        progress.send_replace(Progress { phase: "rewinding".into(), done: 0, total: None });
        self.set_mark(epoch, Phase::Rewinding)?;
        let said = tool
            .run(&args, |line| {
                if let Some((done, total)) = kilobytes(line) {
                    progress.send_replace(Progress { phase: "rewinding".into(), done, total: Some(total) });
                }
            })
            .await?;
        let untouched = !said.text.contains("need to copy");
        if said.ok && !said.text.contains("no rewind required") {
            sync_all(&self.paths.data).await?;
            return self.set_mark(epoch, Phase::Rewound);
        }
        match before {
            _ if !untouched => {}
            Some(mark) => self.set_mark(epoch, mark.phase)?,
            None => self.clear_mark()?,
        }
        Err(failure(&said, untouched, upstream))
    }

    /// Starts a rewound copy and waits until its files fit together.
    async fn catch_up(&self, upstream: &Upstream) -> Result<(), EngineError> {
        if self.running().is_ok() {
            self.stop_now().await?;
        }
        let live = self.link(upstream)?;
        let hopeless = async {
            loop {
                sleep(LOOK).await;
                if let Some(error) = self.receiver_error().await
                    && !matches!(judge(&error), Followed::NotYet)
                {
                    return EngineError::NeedsRebuild(error);
                }
            }
        };
        tokio::select! {
            up = self.start_as(&live) => match up {
                Err(EngineError::StartFailed { why, log }) => {
                    Err(EngineError::NeedsRebuild(format!("it does not start after the rewind: {why}\n{log}")))
                }
                other => other,
            },
            error = hopeless => Err(error),
        }
    }

    /// Copies the log from the fork on to `kept/`, once.
    fn keep_aside(&self, own: &History, fork: Fork, epoch: Epoch, segment: u64) -> Result<(), EngineError> {
        let name = format!("{epoch}-{}", lsn(own.end).replace('/', "-"));
        let folder = self.paths.kept.join(name);
        if folder.join("note.json").exists() {
            return Ok(());
        }
        fs::create_dir_all(&folder).map_err(EngineError::io("make the folder", &folder))?;
        for (path, number) in self.cut_off(own, fork, segment)? {
            let to = folder.join(path.file_name().unwrap_or_default());
            // A file is written for a whole segment; what is after the log's end is worth nothing.
            let length = own.end.saturating_sub(number.saturating_mul(segment)).min(segment);
            copy_start(&path, &to, length).map_err(EngineError::io("keep aside what the rewind cuts off, in", &to))?;
        }
        let note = Note {
            node: self.config.me.as_str(),
            rewound_to_epoch: epoch,
            cut_off_epoch: own.epoch,
            from: lsn(fork.end),
            to: lsn(own.end),
            unix_seconds: self.clock.wall().as_secs(),
            how_to_read: "pg_waldump --start=FROM --end=TO --timeline=CUT_OFF_EPOCH --path=THIS_FOLDER",
        };
        let text = serde_json::to_vec_pretty(&note).unwrap_or_default();
        self.account.write(&folder.join("note.json"), &text)?;
        tracing::warn!(folder = %folder.display(), from = note.from, to = note.to, "kept aside what the rewind cuts off");
        Ok(())
    }

    /// The WAL files that hold what is after the fork, with their numbers.
    fn cut_off(&self, own: &History, fork: Fork, segment: u64) -> Result<Vec<(PathBuf, u64)>, EngineError> {
        let wal = self.paths.wal();
        let failed = || EngineError::io("read", &wal);
        let (first, last) = (fork.end / segment.max(1), own.end / segment.max(1));
        let mut found = Vec::new();
        for entry in fs::read_dir(&wal).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let Some((timeline, number)) = name.to_str().and_then(|n| wal_file(n, segment)) else { continue };
            let own_part = timeline >= fork.epoch.0 && own.end_of(Epoch(timeline)).is_some();
            if own_part && (first..=last).contains(&number) {
                found.push((wal.join(name), number));
            }
        }
        Ok(found)
    }
}

/// Copies the first `length` bytes of a file, up to a whole page, and leaves the rest of it empty.
fn copy_start(from: &Path, to: &Path, length: u64) -> io::Result<()> {
    use std::io::Read;
    let source = fs::File::open(from)?;
    let whole = source.metadata()?.len();
    let mut copy = fs::File::create(to)?;
    io::copy(&mut source.take(length.next_multiple_of(PAGE)), &mut copy)?;
    copy.set_len(whole)?;
    copy.sync_all()
}

/// The size of a page of the log.
const PAGE: u64 = 8192;

/// A WAL file's timeline and number.
fn wal_file(name: &str, segment: u64) -> Option<(u64, u64)> {
    if name.len() != 24 {
        return None;
    }
    let part = |range: std::ops::Range<usize>| u64::from_str_radix(name.get(range)?, 16).ok();
    let per_file = (1_u64 << 32).checked_div(segment)?;
    Some((part(0..8)?, part(8..16)?.checked_mul(per_file)?.checked_add(part(16..24)?)?))
}

fn failure(said: &Said, untouched: bool, upstream: &Upstream) -> EngineError {
    let text = said.end();
    if said.text.contains("no rewind required") {
        return EngineError::NotRewindReady(upstream.node.clone());
    }
    let unreachable = ["could not connect", "connection to server", "could not send", "could not receive"];
    if untouched && unreachable.iter().any(|t| text.contains(t)) {
        return EngineError::Tool { tool: "pg_rewind", output: text };
    }
    EngineError::NeedsRebuild(format!("pg_rewind: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_files() {
        assert_eq!(wal_file("0000000500000002000000FF", 16 << 20), Some((5, 2 * 256 + 255)));
        assert_eq!(wal_file("00000005.history", 16 << 20), None);
        assert_eq!(wal_file("000000050000000200000003.partial", 16 << 20), None);
    }
}
