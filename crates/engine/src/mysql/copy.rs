//! A new copy of another node's data, made beside the old one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use trine_platform::BoxStream;
use trine_protocol::NodeName;

use super::dialect::Dialect;
use super::paths::own;
use super::state::{Mysql, Running};
use super::tunnel::{hear, say};
use crate::files::{remove_tree, sync_all};
use crate::swap::swap;
use crate::{Ask, CopyId, EngineError, Process, Progress, Upstream};

/// After how long without a piece of a copy it is looked why.
const SILENT: Duration = Duration::from_secs(1);

/// What a primary says before it sends its data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    identity: CopyId,
    /// How large its data directory is, about.
    pub(super) bytes: u64,
}

/// What the other node says to a wish for its data.
pub(super) async fn hear_offer(stream: &mut BoxStream) -> io::Result<Offer> {
    let said: Result<Offer, String> = hear(stream).await?;
    said.map_err(io::Error::other)
}

impl Mysql {
    /// The primary's side.
    pub(super) async fn serve_copy(this: &Arc<Self>, from: &NodeName, mut stream: BoxStream) -> io::Result<()> {
        let identity = this.identity().ok().flatten();
        let Some(identity) = identity.filter(|_| this.leading().is_some()) else {
            return say(&mut stream, &Err::<Offer, _>("it is not the primary (yet)")).await;
        };
        if this.are_commits_stuck().await {
            this.begin_anew(from);
            return say(&mut stream, &Err::<Offer, _>("commits wait for a standby; it starts anew, to be copied"))
                .await;
        }
        let data = this.paths.data.clone();
        let bytes = crate::guard::blocking(move || size_of(&data)).await;
        say(&mut stream, &Ok::<_, String>(Offer { identity, bytes })).await?;
        match this.config.dialect {
            Dialect::MariaDb => this.send_backup(from, stream).await,
            Dialect::MySql => this.serve_clone(from, stream).await,
        }
    }

    /// It can't be copied while commits wait, and they wait for what would come of the copy. Nothing is lost: it leads again, with
    /// all that they have written, and takes no writes before somebody can acknowledge them.
    fn begin_anew(&self, from: &NodeName) {
        tracing::warn!(%from, "commits wait and nobody is there to acknowledge them: the database is ended, to be copied");
        self.gate.close();
        self.guard.kill();
    }

    /// Waits for the next piece of a copy for `to`. It may not come: commits have begun to wait since the copy began.
    pub(super) async fn next_piece<T>(
        &self,
        to: &NodeName,
        piece: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let stuck = async {
            // Nobody is asked anything as long as pieces come.
            sleep(SILENT).await;
            while !self.are_commits_stuck().await {
                sleep(SILENT).await;
            }
        };
        tokio::select! {
            biased;
            came = piece => came,
            () = stuck => {
                self.begin_anew(to);
                Err(io::Error::other("commits wait for a standby, and the copy for them"))
            }
        }
    }

    pub(super) async fn copy_from(
        &self,
        upstream: &Upstream,
        identity: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let _one = self.copying.lock().await;
        let fresh = &self.paths.fresh;
        self.nothing_works_in(&self.paths.tools).await?;
        remove_tree(fresh)?;
        if let Err(e) = self.copy_into_fresh(upstream, identity, progress).await {
            // What is there is useless, and may be what fills the disk.
            if let Err(left) = remove_tree(fresh) {
                tracing::warn!(error = %left.chain(), "can't remove what is left of a clone");
            }
            return Err(e);
        }
        progress.send_replace(Progress { phase: "putting in place".into(), done: 0, total: None });
        let _turn = self.turn.lock().await;
        self.cut_feed().await;
        // The old copy is thrown away: a clean end would be for nothing, and takes MySQL a minute where what it has received
        // ends within a transaction.
        self.guard.kill();
        let _ = self.guard.state().wait_for(|s| *s == Process::Stopped).await;
        *self.running() = Running::default();
        swap(&self.paths.dir, &self.paths.data, fresh, &self.paths.old)
    }

    async fn copy_into_fresh(
        &self,
        upstream: &Upstream,
        expected: Option<CopyId>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), EngineError> {
        let fresh = &self.paths.fresh;
        let node = &upstream.node;
        progress.send_replace(Progress { phase: "connecting".into(), done: 0, total: None });
        let broke = |source| EngineError::Neighbour { action: "copy the data of", node: node.clone(), source };
        let mut stream = self.neighbours()?.open(node, Ask::Copy).await.map_err(broke)?;
        let offer = hear_offer(&mut stream).await.map_err(broke)?;
        if let Some(expected) = expected.filter(|e| *e != offer.identity) {
            let what = format!("the database on {node}");
            return Err(EngineError::OtherCluster { what, found: offer.identity, expected });
        }
        match self.config.dialect {
            Dialect::MariaDb => self.take_backup(stream, &offer, node, progress).await?,
            Dialect::MySql => {
                drop(stream);
                self.take_clone(&offer, node, progress).await?;
            }
        }
        self.account.write(&fresh.join(own::IDENTITY), format!("{}\n", offer.identity).as_bytes())?;
        progress.send_replace(Progress { phase: "writing to disk".into(), done: 0, total: None });
        sync_all(fresh).await
    }
}

/// About how large the files of a folder are together.
fn size_of(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|e| match e.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&e.path()),
        Ok(meta) if !e.file_name().to_string_lossy().starts_with("binlog.") => meta.len(),
        _ => 0,
    });
    sizes.sum()
}
