//! The primary's side: the volume mounted, and the database on it.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use trine_protocol::Epoch;
use trine_volume::{Ino, Mount, MountOptions, Op, Store, Volume};

use super::paths::Paths;
use super::process::words;
use super::run::empty;
use super::{DatabaseSpec, Instance};
use crate::guard::blocking;
use crate::{EngineError, Process};

/// How far the database is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Up {
    /// It starts.
    Starting,
    /// It answers.
    Ready,
    /// It did not start, or has ended; why.
    Ended(String),
}

/// A volume that this node writes, mounted, and its database.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) epoch: Epoch,
    pub(super) volume: Volume,
    instance: Instance,
    mount: Mount,
    up: watch::Sender<Up>,
    /// It is on its way out: nothing is started any more.
    ending: watch::Sender<bool>,
}

impl Serving {
    /// Mounts the volume. The database is not started yet.
    pub(super) async fn mount(
        epoch: Epoch,
        volume: Volume,
        instance: Instance,
        paths: &Paths,
    ) -> Result<Arc<Self>, EngineError> {
        let (store, at) = (Arc::new(volume.clone()), paths.data.clone());
        let mount = blocking(move || Mount::open(store, &at, &MountOptions::default())).await?;
        let up = watch::channel(Up::Starting).0;
        Ok(Arc::new(Self { epoch, volume, instance, mount, up, ending: watch::channel(false).0 }))
    }

    /// It is stopped or killed.
    pub(super) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    pub(super) fn up(&self) -> watch::Receiver<Up> {
        self.up.subscribe()
    }

    /// Starts the database and stays with it; returns how it ended, when no process of it is left. The volume must be open to
    /// the sync rule meanwhile: the database's first words wait for it.
    pub(super) async fn run(&self) -> String {
        let mut ending = self.ending.subscribe();
        let started = tokio::select! {
            started = self.start() => started,
            _ = ending.wait_for(|ending| *ending) => Err(EngineError::NotRunning),
        };
        let why = match started {
            Ok(()) => {
                self.up.send_replace(Up::Ready);
                let mut process = self.instance.process();
                tokio::select! {
                    _ = process.wait_for(|p| *p == Process::Stopped) => {
                        let how = self.instance.ending().map_or_else(|| "it ended".to_owned(), words);
                        format!("its database does not run any more: {how}")
                    }
                    why = self.volume.until_closed() => format!("its volume was closed: {why}"),
                    () = self.mount.ended() => "its volume is not mounted any more".to_owned(),
                }
            }
            Err(error) => {
                if !self.is_ending() {
                    tracing::error!(epoch = %self.epoch, error = error.chain(), "the database did not start");
                }
                error.chain()
            }
        };
        // A start that was given up may be under way still.
        while self.instance.attach().await.unwrap_or(true) {
            self.instance.kill();
            let mut process = self.instance.process();
            let _ = process.wait_for(|p| *p == Process::Stopped).await;
        }
        self.up.send_replace(Up::Ended(why.clone()));
        why
    }

    async fn start(&self) -> Result<(), EngineError> {
        let spec = self.instance.spec();
        if !spec.init.is_empty() {
            match first_data(&self.volume) {
                FirstData::There => {}
                FirstData::Missing => self.make_first_data(spec).await?,
                FirstData::Begun => {
                    tracing::warn!(database = spec.name(), "the first data was not finished: it is made anew");
                    let data = spec.place.data.clone();
                    blocking(move || empty(&data)).await?;
                    self.make_first_data(spec).await?;
                }
            }
        }
        self.instance.start().await
    }

    /// Nobody is let in before it is done: an epoch opens when the database answers. So what is half-made is nobody's data.
    async fn make_first_data(&self, spec: &DatabaseSpec) -> Result<(), EngineError> {
        tracing::info!(database = spec.name(), "the volume is empty: the first data is made");
        mark(&self.volume, BEGUN)?;
        spec.initialise().await?;
        mark(&self.volume, DONE)?;
        let (tell, told) = oneshot::channel();
        self.volume.sync(Box::new(|done| {
            let _ = tell.send(done);
        }));
        match told.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(EngineError::NotRunning),
        }
    }

    /// The database ends cleanly; what the kernel still has of its files goes into the log.
    pub(super) async fn stop(self: &Arc<Self>) -> Result<(), EngineError> {
        self.ending.send_replace(true);
        let stopped = self.instance.stop().await;
        self.instance.kill();
        self.wait_ended().await;
        let this = Arc::clone(self);
        blocking(move || this.mount.close()).await?;
        stopped
    }

    /// The database ends at once, and whoever waits for the volume gets an error. Never blocks.
    pub(super) fn kill(&self, why: &str) {
        self.ending.send_replace(true);
        self.volume.close(why);
        self.instance.kill();
    }

    /// Returns once no process of the database is left, nor will be.
    pub(super) async fn wait_ended(&self) {
        let _ = self.up().wait_for(|up| matches!(up, Up::Ended(_))).await;
    }

    /// Takes the mount away, whoever uses it.
    pub(super) async fn unmount(self: &Arc<Self>) {
        let this = Arc::clone(self);
        if let Err(error) = blocking(move || this.mount.abort()).await {
            tracing::error!(%error, "the volume can't be unmounted: this node stays fenced until a person has looked");
            // It must not look stopped: nobody else may hold this to be over, nor start on it again.
            std::future::pending::<()>().await;
        }
    }
}

/// An attribute of the volume's own directory: how far the first data is.
const FIRST_DATA: &[u8] = b"trusted.trine.first-data";
const BEGUN: &[u8] = b"begun";
const DONE: &[u8] = b"done";

enum FirstData {
    Missing,
    Begun,
    There,
}

fn first_data(volume: &Volume) -> FirstData {
    volume.look(|tree| {
        let mark = tree.get(Ino::ROOT).and_then(|root| root.xattrs.get(FIRST_DATA));
        let empty = tree.iter().all(|(ino, _)| ino == Ino::ROOT);
        match mark {
            Some(mark) if **mark == *BEGUN => FirstData::Begun,
            Some(_) => FirstData::There,
            None if empty => FirstData::Missing,
            // Somebody has put it there.
            None => FirstData::There,
        }
    })
}

fn mark(volume: &Volume, how_far: &'static [u8]) -> Result<(), EngineError> {
    let at = volume.look(|tree| tree.get(Ino::ROOT).map(|root| root.ctime)).unwrap_or_default();
    let op = Op::SetXattr { ino: Ino::ROOT, name: FIRST_DATA.into(), value: how_far.into(), at };
    volume.change(|_| Ok((op, ()))).map_err(|errno| EngineError::Io {
        action: "mark the first data in",
        path: "the volume".into(),
        source: errno.into(),
    })
}
