//! The guard's child when the database is a container: it starts the container, stays as long as that runs, and ends as that
//! has ended. So the agent and the guard see a process, as with any other database: its signals go on to the container's first
//! process, its output is the container's, its exit code the container's.
//!
//! It decides nothing about when the database has to end: that is the guard's, which needs neither this process nor the
//! daemon for it (see [`super::cage`]).

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bollard::container::AttachContainerResults;
use bollard::errors::Error;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, InspectContainerOptions, StartContainerOptions, WaitContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::StreamExt;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cage::{Cage, Keeper};
use super::descendants::pid;

/// What comes before the guard's own argument to become a holder.
pub(crate) const WORD: &str = "--holder";
/// The variable that its order is in. It holds no secret.
pub(crate) const ORDER: &str = "TRINE_HOLDER";
/// How long is waited for the last output of a container that has ended, and for the daemon's word on how.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// No limit to speak of, in seconds: a start may have to wait for a disk, and the guard has its deadline.
const NO_LIMIT: u64 = 1 << 20;

/// What is held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
    /// The container.
    pub(crate) cage: Cage,
    /// The volume here, and where the container must have it.
    pub(crate) data: (PathBuf, PathBuf),
}

/// Runs a holder to its end. Exit code 125: the container could not be started, why is on stderr; else the container's own.
pub(crate) fn main() -> ExitCode {
    let held = std::env::var(ORDER).map_err(|e| e.to_string());
    let held = held.and_then(|text| serde_json::from_str::<Held>(&text).map_err(|e| e.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match (held, runtime) {
        (Ok(held), Ok(runtime)) => runtime.block_on(held.run()),
        (Err(e), _) => Err(format!("the holder can't read its order: {e}")),
        (_, Err(e)) => Err(e.to_string()),
    };
    outcome.unwrap_or_else(|e| {
        say(&format!("trine: {e}"));
        ExitCode::from(125)
    })
}

impl Held {
    async fn run(self) -> Result<ExitCode, String> {
        let guard = watch_guard()?;
        let docker = connect(&self.socket, NO_LIMIT).await.map_err(|e| said(&e))?;
        let outcome = tokio::select! {
            outcome = self.hold(&docker) => outcome,
            _ = guard => Err("the guard is gone: the container is ended".to_owned()),
        };
        if outcome.is_err() {
            let keeper = Keeper::new(self.cage.clone());
            let _ = tokio::task::spawn_blocking(move || keeper.end(Duration::from_secs(10))).await;
        }
        outcome
    }

    async fn hold(&self, docker: &Docker) -> Result<ExitCode, String> {
        let id = &self.cage.id;
        // Before the start: nothing that it says is missed.
        let output = tokio::spawn(copy(attach(docker, id).await?.output));
        docker.start_container(id, None::<StartContainerOptions>).await.map_err(explain)?;
        let state = docker.inspect_container(id, None::<InspectContainerOptions>).await.map_err(explain)?.state;
        let first = state.and_then(|s| s.pid).and_then(|p| u32::try_from(p).ok()).filter(|&p| p != 0);
        if let Some(first) = first.filter(|&p| self.cage.holds(p))
            && let Some(fd) = pid(first).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok())
        {
            self.has_the_volume(first).await?;
            let ended = end_of(fd.try_clone().map_err(|e| e.to_string())?)?;
            tokio::select! {
                _ = ended => {}
                never = forward(&fd) => return Err(never?),
            }
        } else if first.is_some_and(|p| Path::new(&format!("/proc/{p}/cgroup")).exists()) {
            // It may have ended meanwhile. Else its end could not be enforced.
            if Keeper::new(self.cage.clone()).left().is_empty() && docker_says_running(docker, id).await {
                return Err(
                    "the container's processes are not in a cgroup with its number: the guard could not end them; \
                            use Docker or Podman on this machine, with cgroups"
                        .to_owned(),
                );
            }
        }
        let _ = timeout(LAST_WORDS, output).await;
        let code = timeout(LAST_WORDS, exit_code(docker, id)).await.ok().flatten();
        let asked = timeout(LAST_WORDS, docker.inspect_container(id, None::<InspectContainerOptions>)).await;
        let state = asked.ok().and_then(Result::ok).and_then(|c| c.state).unwrap_or_default();
        if state.oom_killed == Some(true) {
            say("trine: the kernel ended it: it used more memory than database.memory_mb allows");
        }
        Ok(ExitCode::from(code.and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
    }

    /// A daemon that runs in a mount namespace of its own gives the container what is below the mount: a folder of this
    /// node's disk that nobody replicates.
    async fn has_the_volume(&self, first: u32) -> Result<(), String> {
        let (here, there) = self.data.clone();
        let inside = PathBuf::from(format!("/proc/{first}/root")).join(there.strip_prefix("/").unwrap_or(&there));
        let look = move || {
            let which = |p: &Path| fs::metadata(p).ok().map(|m| (m.dev(), m.ino()));
            (which(&inside), which(&here))
        };
        match tokio::task::spawn_blocking(look).await {
            // It has ended, or its view can't be seen: then nothing is known.
            Ok((None, _)) | Err(_) => Ok(()),
            Ok((inside, here)) if inside == here => Ok(()),
            Ok(_) => Err(format!(
                "the container does not see the volume at {}: the daemon has mounts of its own (as in a snap, or in a \
                 container); use one that runs in the machine's own mount namespace",
                self.data.1.display()
            )),
        }
    }
}

/// Podman notices an end some time after it: until then it calls the container running, with exit code 0.
async fn exit_code(docker: &Docker, id: &str) -> Option<i64> {
    let mut waits = std::pin::pin!(docker.wait_container(id, None::<WaitContainerOptions>));
    match waits.next().await? {
        Ok(ended) => Some(ended.status_code),
        Err(Error::DockerContainerWaitError { code, .. }) => Some(code),
        Err(_) => None,
    }
}

async fn docker_says_running(docker: &Docker, id: &str) -> bool {
    let asked = docker.inspect_container(id, None::<InspectContainerOptions>).await;
    asked.ok().and_then(|c| c.state).and_then(|s| s.running).unwrap_or(false)
}

async fn attach(docker: &Docker, id: &str) -> Result<AttachContainerResults, String> {
    let options = AttachContainerOptionsBuilder::default().stdout(true).stderr(true).stream(true).build();
    docker.attach_container(id, Some(options)).await.map_err(explain)
}

/// Its output goes to this process's, which is the database's log. When the daemon is restarted it is lost from there on.
async fn copy(mut output: impl futures::Stream<Item = Result<bollard::container::LogOutput, Error>> + Unpin) {
    while let Some(Ok(piece)) = output.next().await {
        let bytes = piece.into_bytes();
        // The log is a file: a write to it is short, and nothing else waits for this process.
        let _ = std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush());
    }
}

/// Passes signals on to the container's first process. Returns only when signals can't be heard.
async fn forward(to: &OwnedFd) -> Result<String, String> {
    let hear = |kind| signal(kind).map_err(|e| format!("signals can't be heard: {e}"));
    let (mut term, mut int) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    let (mut quit, mut hup) = (hear(SignalKind::quit())?, hear(SignalKind::hangup())?);
    let (mut usr1, mut usr2) = (hear(SignalKind::user_defined1())?, hear(SignalKind::user_defined2())?);
    loop {
        let which = tokio::select! {
            _ = term.recv() => Signal::TERM,
            _ = int.recv() => Signal::INT,
            _ = quit.recv() => Signal::QUIT,
            _ = hup.recv() => Signal::HUP,
            _ = usr1.recv() => Signal::USR1,
            _ = usr2.recv() => Signal::USR2,
        };
        let _ = pidfd_send_signal(to, which);
    }
}

/// The guard dies: the container must not outlive it, so this process has to, for a moment.
fn watch_guard() -> Result<oneshot::Receiver<()>, String> {
    let gone = || "the guard is gone".to_owned();
    let guard = rustix::process::getppid().ok_or_else(gone)?;
    let fd = pidfd_open(guard, PidfdFlags::empty()).map_err(|e| e.to_string())?;
    rustix::process::set_parent_process_death_signal(None).map_err(|e| e.to_string())?;
    if rustix::process::getppid() != Some(guard) {
        return Err(gone());
    }
    end_of(fd)
}

/// Tells when the process has ended.
fn end_of(process: OwnedFd) -> Result<oneshot::Receiver<()>, String> {
    let (tell, told) = oneshot::channel();
    let wait = move || {
        while !matches!(poll(&mut [PollFd::new(&process, PollFlags::IN)], None), Ok(1..)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = tell.send(());
    };
    std::thread::Builder::new().name("end".into()).spawn(wait).map_err(|e| e.to_string())?;
    Ok(told)
}

/// A connection to the daemon, in the version of its interface that both know. Each request may take `patience` seconds.
pub(crate) async fn connect(socket: &Path, patience: u64) -> Result<Docker, Error> {
    let docker = Docker::connect_with_unix(&socket.to_string_lossy(), patience, API_DEFAULT_VERSION)?;
    docker.negotiate_version().await
}

/// The daemon's own words, or why none came.
pub(crate) fn said(e: &Error) -> String {
    if let Error::DockerResponseServerError { message, .. } = e {
        return message.trim().to_owned();
    }
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        let more = c.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = c.source();
    }
    text
}

fn explain(e: Error) -> String {
    format!("the container could not be started: {}", with_key(&said(&e)))
}

/// The daemon's words, and what to do about them.
pub(crate) fn with_key(said: &str) -> String {
    const KEYS: [(&str, &str); 9] = [
        ("already allocated", "; another program has the port: stop it, or change ports.database"),
        ("already in use", "; another program has it: stop that, or change ports.database"),
        ("bind source path does not exist", "; make that folder, or correct database.mounts"),
        ("executable file not found", "; correct database.args"),
        ("no such file or directory", "; correct database.args"),
        ("network", "; make the network, or correct database.network"),
        ("emory", "; correct database.memory_mb"),
        ("CPU", "; correct database.cpus"),
        ("user", "; correct database.user"),
    ];
    let hint = KEYS.iter().find(|(words, _)| said.contains(words)).map_or("", |(_, hint)| hint);
    format!("{}{hint}", said.trim())
}

fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
