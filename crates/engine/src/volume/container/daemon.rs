//! What the daemon is asked: images, creating, removing, running a check inside.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use futures::StreamExt;
use tokio::time::timeout;

use super::credentials::credentials;
use super::{ContainerError, ContainerSpec, GATE_LABEL, labels};
use crate::files::sync_dir;
use crate::guard::blocking;
use crate::guard::cage::{Cage, Keeper, new_gate};
use crate::guard::holder::{Held, connect, said, with_key};
use crate::volume::spec::{DatabaseSpec, Listen};
use crate::volume::table::Pull;

/// How long one answer may take that needs no work.
const ANSWER: Duration = Duration::from_secs(5);
/// How long creating one may take: a disk may be busy.
const WORK: u64 = 120;
/// How long an image may take.
const FETCH: u64 = 3600;
/// The file in `run/` that says which containers were created.
pub(super) const RECORD: &str = "containers.json";
/// How much of what a check says is kept.
const KEEP: usize = 64 << 10;

/// A node's containers: at most one runs; others may have been left.
#[derive(Clone, Debug)]
pub(in crate::volume) struct Containers {
    spec: Arc<DatabaseSpec>,
    /// Those that were created, written down before they are started: so they are found without the daemon.
    record: PathBuf,
    /// It was looked once whether the daemon has some that are not written down: the node's folder may have been emptied.
    looked: Arc<AtomicBool>,
}

impl Containers {
    pub(in crate::volume) fn new(spec: Arc<DatabaseSpec>, run: &Path) -> Self {
        Self { spec, record: run.join(RECORD), looked: Arc::default() }
    }

    /// Those that may run here.
    pub(in crate::volume) fn recorded(&self) -> Vec<Cage> {
        read_record(&self.record)
    }

    fn write_down(&self, cages: &[Cage]) -> Result<(), ContainerError> {
        let failed = |source| ContainerError::File { action: "write", path: self.record.clone(), source };
        let fresh = self.record.with_extension("new");
        let text = serde_json::to_vec(cages).map_err(|e| failed(e.into()))?;
        fs::write(&fresh, text).and_then(|()| fs::File::open(&fresh)?.sync_all()).map_err(failed)?;
        fs::rename(&fresh, &self.record).map_err(failed)?;
        let folder = self.record.parent().unwrap_or(Path::new("/"));
        sync_dir(folder).map_err(|e| failed(std::io::Error::other(e.chain())))
    }

    /// Makes one, with its image, and does not start it. What an earlier one has left is removed. What the guard has to hold.
    pub(in crate::volume) async fn create(&self, c: &ContainerSpec) -> Result<Held, ContainerError> {
        let socket = socket(c.socket.as_deref())?;
        let docker = open(&socket, WORK).await?;
        self.remove_leftovers(&docker).await.map_err(|why| ContainerError::Silent { socket: socket.clone(), why })?;
        if let Listen::Tcp(at) = self.spec.listen {
            port_is_free(at).await?;
        }
        // Podman would make an empty one.
        if let Some(missing) = c.mounts.iter().find(|b| !b.source.exists()) {
            return Err(ContainerError::NoSource { folder: missing.source.clone() });
        }
        self.image(&docker, &socket, c).await?;
        let gate = new_gate(self.record.parent().unwrap_or(Path::new("/"))).map_err(|source| ContainerError::File {
            action: "make a folder in",
            path: "/run/trine-gates".into(),
            source,
        })?;
        let options = CreateContainerOptionsBuilder::default().name(&c.name).build();
        let created = docker.create_container(Some(options), self.spec.body(c, &gate)).await;
        let id = match created {
            Ok(created) => created.id,
            Err(e) => {
                let _ = fs::remove_dir(&gate);
                return Err(ContainerError::Create { why: with_key(&said(&e)) });
            }
        };
        let cage = Cage { id, gate };
        self.write_down(std::slice::from_ref(&cage))?;
        Ok(Held { socket, cage, data: (self.spec.place.data.clone(), c.data_path.clone()) })
    }

    /// After the end of all that is recorded: it need not be remembered, and the daemon may forget it. A daemon that does not
    /// answer keeps what it has until the next start.
    pub(in crate::volume) async fn forget(&self, c: &ContainerSpec) {
        if !self.record.exists() && self.looked.swap(true, Ordering::Relaxed) {
            return;
        }
        let work = async {
            let socket = socket(c.socket.as_deref()).map_err(|e| e.to_string())?;
            let docker = open(&socket, ANSWER.as_secs()).await.map_err(|e| e.to_string())?;
            self.remove_leftovers(&docker).await
        };
        if let Err(why) = timeout(ANSWER * 2, work).await.unwrap_or_else(|late| Err(late.to_string())) {
            // A standby's machine may have no daemon at all, as long as nothing was started there.
            if self.record.exists() {
                tracing::warn!(why, "what is left of a container is removed before the next one starts");
            }
            return;
        }
        let _ = fs::remove_file(&self.record);
    }

    /// Ends and removes this node's containers, known by their labels, whoever has started them. Others' are not touched.
    async fn remove_leftovers(&self, docker: &Docker) -> Result<(), String> {
        let of_this_node = labels(&self.spec.place).map(|(k, v)| format!("{k}={v}")).to_vec();
        let filters = HashMap::from([("label".to_owned(), of_this_node)]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        for found in docker.list_containers(Some(options)).await.map_err(|e| said(&e))? {
            let Some(id) = found.id else { continue };
            let gate = found.labels.and_then(|mut l| l.remove(GATE_LABEL)).map(PathBuf::from);
            let gate = gate.filter(|g| g.parent().is_some_and(|p| p.ends_with("trine-gates")));
            let keeper =
                Keeper::new(Cage { id: id.clone(), gate: gate.unwrap_or_else(|| "/run/trine-gates/none".into()) });
            match blocking(move || keeper.end(ANSWER)).await {
                Ok(0) => {}
                Ok(count) => tracing::warn!(container = id, count, "ended a container that was left"),
                Err(left) => return Err(format!("processes {left:?} of the container {id} can't be ended")),
            }
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            match docker.remove_container(&id, Some(options)).await {
                // Somebody else has removed it, or does so now.
                Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                Err(e) => return Err(said(&e)),
            }
        }
        Ok(())
    }

    async fn image(&self, docker: &Docker, socket: &Path, c: &ContainerSpec) -> Result<(), ContainerError> {
        let image = c.image.clone();
        let there = match docker.inspect_image(&image).await {
            Ok(_) => true,
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => false,
            Err(e) => return Err(ContainerError::Silent { socket: socket.to_owned(), why: said(&e) }),
        };
        match (c.pull, there) {
            (Pull::Never, false) => return Err(ContainerError::NoImage { image }),
            (Pull::Never | Pull::Missing, true) => return Ok(()),
            (Pull::Always, _) | (Pull::Missing, false) => {}
        }
        tracing::info!(image, "the image is pulled");
        let who = match &c.registry {
            Some(registry) => Some(credentials(registry, &image).await?),
            None => None,
        };
        let docker = open(socket, FETCH).await?;
        // Without a tag the daemon would fetch all of them.
        let last = image.rsplit('/').next().unwrap_or(&image);
        let full = if last.contains([':', '@']) { image.clone() } else { format!("{image}:latest") };
        let options = CreateImageOptionsBuilder::default().from_image(&full).build();
        let mut steps = std::pin::pin!(docker.create_image(Some(options), None, who));
        while let Some(step) = steps.next().await {
            step.map_err(|e| ContainerError::Pull { image: image.clone(), why: said(&e) })?;
        }
        Ok(())
    }
}

/// Those that were written down in this file.
pub(super) fn read_record(file: &Path) -> Vec<Cage> {
    serde_json::from_slice(&fs::read(file).unwrap_or_default()).unwrap_or_default()
}

/// Runs a program in the container; its exit code, and what it said. The caller sets the deadline.
pub(in crate::volume) async fn run_inside(c: &ContainerSpec, words: Vec<String>) -> Result<(i64, String), String> {
    let socket = socket(c.socket.as_deref()).map_err(|e| e.to_string())?;
    let docker = connect(&socket, WORK).await.map_err(|e| said(&e))?;
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(words),
        ..Default::default()
    };
    let made = docker.create_exec(&c.name, options).await.map_err(|e| said(&e))?;
    let mut text = Vec::new();
    if let StartExecResults::Attached { mut output, .. } =
        docker.start_exec(&made.id, None).await.map_err(|e| said(&e))?
    {
        while let Some(Ok(piece)) = output.next().await {
            let piece = piece.into_bytes();
            let room = KEEP.saturating_sub(text.len()).min(piece.len());
            text.extend_from_slice(piece.get(..room).unwrap_or_default());
        }
    }
    let ended = docker.inspect_exec(&made.id).await.map_err(|e| said(&e))?;
    Ok((ended.exit_code.unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

/// Whoever has the port would be taken for the database, or the daemon's own words would come late. The daemon's proxy of the
/// container before may have it for a moment still, with Podman for a second and longer.
async fn port_is_free(at: SocketAddr) -> Result<(), ContainerError> {
    const LOOKS: u32 = 100;
    for look in 1.. {
        match std::net::TcpListener::bind(at) {
            Ok(_) => break,
            Err(source) if look == LOOKS => return Err(ContainerError::Port { at, source }),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}

async fn open(socket: &Path, patience: u64) -> Result<Docker, ContainerError> {
    let silent = |why: String| ContainerError::Silent { socket: socket.to_owned(), why };
    let opened = timeout(ANSWER, connect(socket, patience)).await;
    let docker =
        opened.map_err(|_| silent(format!("nothing came within {ANSWER:?}")))?.map_err(|e| silent(said(&e)))?;
    let me = rustix::process::geteuid();
    let owner = fs::metadata(socket).map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    if me.is_root() || owner.is_ok_and(|o| o == me.as_raw()) {
        return Ok(docker);
    }
    Err(ContainerError::NotMine { socket: socket.to_owned() })
}

/// The daemon's socket: the one that is set, or the usual one of Docker, or of Podman.
fn socket(set: Option<&Path>) -> Result<PathBuf, ContainerError> {
    let usual = || {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let podman = runtime.into_iter().chain(["/run".into()]).map(|r: PathBuf| r.join("podman/podman.sock"));
        [PathBuf::from("/var/run/docker.sock")].into_iter().chain(podman).collect()
    };
    let candidates: Vec<PathBuf> = set.map_or_else(usual, |s| vec![s.to_owned()]);
    let tried = candidates.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    candidates.into_iter().find(|p| p.exists()).ok_or(ContainerError::NoSocket { tried })
}
