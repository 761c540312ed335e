//! The guard: the database's parent process, and the agent's side of it.

pub(crate) mod cage;
pub(crate) mod descendants;
pub(crate) mod holder;
mod process;
pub(crate) mod wire;

use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use trine_protocol::Moment;

use crate::{EngineError, Process};
use cage::{Cage, Keeper};
use descendants::Whose;
use wire::{FromGuard, Order, ToGuard};

pub use process::main;
pub use wire::Ending;

/// The program that becomes a guard, and the arguments that come before the guard's own: `trine` and `["guard"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardCommand {
    /// Which program.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<String>,
}

/// How long a guard that runs may take to say who it is. One that does not is frozen.
const HELLO: Duration = Duration::from_secs(1);
/// How long a new guard may take until it listens.
const SPAWN: Duration = Duration::from_secs(10);
/// How often, and how many times, a guard that does not listen yet is knocked at.
const STEP: Duration = Duration::from_millis(10);
const LOOKS: u32 = 500;
/// After a kill that the guard does not confirm by then, the agent ends the processes itself, and the guard too.
const CONFIRM: Duration = Duration::from_millis(250);

/// The agent's side: starts guards, talks to the one that runs, and knows whether anything of the database is left.
#[derive(Clone, Debug)]
pub(crate) struct GuardClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    command: GuardCommand,
    socket: PathBuf,
    lock: PathBuf,
    log: PathBuf,
    /// Where the database's processes work; the first is its data directory.
    folders: Vec<PathBuf>,
    /// Which processes there are its.
    whose: Whose,
    /// The containers that may be running here.
    cages: Mutex<Vec<Arc<Keeper>>>,
    state: watch::Sender<Process>,
    link: Mutex<Option<Link>>,
    ending: Mutex<Option<Ending>>,
    /// Held while processes that work in `data` are looked up and ended, so that a new database is never among them.
    sweeping: Mutex<()>,
    /// Held while a guard is being started.
    spawning: Arc<tokio::sync::Mutex<()>>,
}

/// A connection to a guard.
#[derive(Debug)]
struct Link {
    write: StdStream,
    guard: u32,
    database: u32,
    guard_fd: OwnedFd,
    database_fd: OwnedFd,
}

impl GuardClient {
    /// `folders` is where the database's processes work; the guard's own messages are appended to `log`.
    /// Its socket and its lock are in `run`.
    pub(crate) fn new(command: GuardCommand, run: &Path, log: PathBuf, folders: Vec<PathBuf>, whose: Whose) -> Self {
        let shared = Shared {
            command,
            socket: run.join("guard.sock"),
            lock: run.join("guard.lock"),
            log,
            folders,
            whose,
            cages: Mutex::default(),
            state: watch::Sender::new(Process::Stopped),
            link: Mutex::new(None),
            ending: Mutex::new(None),
            sweeping: Mutex::new(()),
            spawning: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The containers that may be running here: they are ended with the processes.
    pub(crate) fn set_cages(&self, cages: Vec<Cage>) {
        *self.shared.cages.lock().unwrap_or_else(PoisonError::into_inner) =
            cages.into_iter().map(|c| Arc::new(Keeper::new(c))).collect();
    }

    pub(crate) fn command(&self) -> &GuardCommand {
        &self.shared.command
    }

    pub(crate) fn state(&self) -> watch::Receiver<Process> {
        self.shared.state.subscribe()
    }

    /// The guard's and the database's processes.
    pub(crate) fn pids(&self) -> Option<(u32, u32)> {
        self.shared.link().as_ref().map(|l| (l.guard, l.database))
    }

    /// How the last database ended.
    pub(crate) fn ending(&self) -> Option<Ending> {
        *self.shared.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database `pid` has answered.
    pub(crate) fn answered(&self, pid: u32) {
        if self.pids().is_some_and(|(_, p)| p == pid) {
            self.shared.state.send_if_modified(|s| {
                let starting = *s == Process::Starting;
                if starting {
                    *s = Process::Running;
                }
                starting
            });
        }
    }

    /// Finds a guard that runs already. False: there is none, and nothing of a database either (`folders` are swept).
    pub(crate) async fn attach(&self, folders: Vec<PathBuf>) -> Result<bool, EngineError> {
        // One that is being started is there in a moment.
        drop(self.shared.spawning.lock().await);
        if self.pids().is_some() {
            return Ok(true);
        }
        let mut knock = self.connect().await;
        let mut looks = 0;
        // One that an earlier agent started just before its end holds the lock before it listens.
        while matches!(knock, Err(Knock::Nobody)) && self.shared.guard_lives() && looks < LOOKS {
            sleep(STEP).await;
            looks += 1;
            knock = self.connect().await;
        }
        match knock {
            Ok(_) => return Ok(true),
            Err(Knock::Nobody) => {}
            Err(Knock::Silent(guard)) => {
                tracing::error!(guard, "the guard does not answer: ending it and its database");
                if let Some(pid) = guard.and_then(descendants::pid) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
        }
        let shared = Arc::clone(&self.shared);
        let left = blocking(move || shared.sweep(&folders, Duration::from_secs(10))).await;
        match left {
            Ok(0) => Ok(false),
            Ok(count) => {
                tracing::warn!(count, "ended database processes that had lost their guard");
                Ok(false)
            }
            Err(left) => Err(EngineError::StopFailed(format!("processes {left:?} of an earlier run can't be ended"))),
        }
    }

    /// Starts a guard with a database, which may have ended again when this returns. `order.socket` is this client's.
    ///
    /// Once begun it goes on to its end, whatever becomes of the caller: a guard that nobody waits for would start a
    /// database behind the back of the next start.
    pub(crate) async fn spawn(&self, order: &Order) -> Result<(), EngineError> {
        let text = serde_json::to_vec(order)
            .map_err(|e| EngineError::Guard { action: "start", source: io::Error::from(e) })?;
        let begun = Arc::clone(&self.shared.spawning).lock_owned().await;
        let client = self.clone();
        let task = tokio::spawn(async move {
            let outcome = client.spawn_to_the_end(text).await;
            drop(begun);
            outcome
        });
        task.await
            .unwrap_or_else(|e| Err(EngineError::Guard { action: "start", source: io::Error::other(e.to_string()) }))
    }

    async fn spawn_to_the_end(&self, order: Vec<u8>) -> Result<(), EngineError> {
        let failed = |source| EngineError::Guard { action: "start", source };
        let shared = Arc::clone(&self.shared);
        // The log is opened on the way: that waits for a disk that hangs.
        let forked = blocking(move || {
            let _none = shared.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
            shared.fork(&order)
        });
        let mut child = forked.await.map_err(failed)?;
        let id = child.id();
        let (gone_tx, gone) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let end = child.wait().await;
            tracing::debug!(?end, "the guard's process has ended");
            let _ = gone_tx.send(end.is_ok_and(|e| e.success()));
        });
        let connected = async {
            loop {
                match self.connect().await {
                    Ok(guard) if Some(guard) == id => return,
                    Ok(guard) => tracing::debug!(guard, "an earlier guard still runs"),
                    Err(_) => {}
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            () = connected => Ok(()),
            ended = gone => {
                if ended == Ok(true) {
                    // The database has ended before anybody knocked: the caller sees that, as if it were a moment later.
                    *self.shared.ending.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    return Ok(());
                }
                let said = tail(&self.shared.log, 2000).await;
                Err(failed(io::Error::other(said.lines().last().unwrap_or("it ended at once").to_owned())))
            }
            () = sleep(SPAWN) => Err(failed(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    async fn connect(&self) -> Result<u32, Knock> {
        let stream = UnixStream::connect(&self.shared.socket).await.map_err(|_| Knock::Nobody)?;
        let other = stream.peer_cred().ok().and_then(|c| c.pid()).and_then(|p| u32::try_from(p).ok());
        let write = rustix::io::fcntl_dupfd_cloexec(&stream, 0).map_err(|_| Knock::Nobody)?;
        let mut lines = BufReader::new(stream).lines();
        let Ok(first) = timeout(HELLO, lines.next_line()).await else { return Err(Knock::Silent(other)) };
        let Ok(Some(first)) = first else { return Err(Knock::Nobody) };
        let Ok(FromGuard::Hello { guard, database }) = serde_json::from_str(&first) else { return Err(Knock::Nobody) };
        let fd = |p| descendants::pid(p).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok()).ok_or(Knock::Nobody);
        let link = Link { write: write.into(), guard, database, guard_fd: fd(guard)?, database_fd: fd(database)? };
        *self.shared.link() = Some(link);
        *self.shared.ending.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.state.send_replace(Process::Starting);
        tokio::spawn(Arc::clone(&self.shared).hear(lines, guard));
        Ok(guard)
    }

    /// Sends a signal to the database's first process.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.shared.link().as_ref().is_some_and(|l| pidfd_send_signal(&l.database_fd, signal).is_ok())
    }

    /// Arms the guard or moves its deadline.
    pub(crate) fn push(&self, deadline: Moment) {
        self.shared.tell(ToGuard::Deadline(deadline.as_nanos()));
    }

    /// Ends everything at once, also when the guard itself is frozen.
    pub(crate) fn kill(&self) {
        self.shared.tell(ToGuard::Kill);
        self.signal(Signal::KILL);
        let Some((guard, _)) = self.pids() else { return };
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new().name("kill".into()).spawn(move || shared.confirm_kill(guard));
        if let Err(e) = spawned {
            tracing::error!(error = %e, "can't start a thread to see the database's end");
        }
    }
}

/// Why nobody opened.
enum Knock {
    Nobody,
    Silent(Option<u32>),
}

impl Shared {
    /// Does a guard hold the lock of this node?
    fn guard_lives(&self) -> bool {
        use rustix::fs::{FlockOperation, flock};
        let Ok(lock) = std::fs::File::open(&self.lock) else { return false };
        // Closing the file lets go of it again.
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Ends what works in `folders`, and the containers; waits until nothing is left, or `patience` is over. Blocks.
    fn sweep(&self, folders: &[PathBuf], patience: Duration) -> Result<usize, Vec<u32>> {
        let mut count = descendants::sweep(folders, self.whose, patience)?;
        for cage in self.cages() {
            count += cage.end(patience)?;
        }
        Ok(count)
    }

    fn cages(&self) -> Vec<Arc<Keeper>> {
        self.cages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn link(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: ToGuard) {
        let mut slot = self.link();
        let Some(link) = slot.as_mut() else { return };
        let Ok(mut line) = serde_json::to_vec(&what) else { return };
        line.push(b'\n');
        match link.write.write(&line) {
            Ok(n) if n == line.len() => {}
            // A guard that does not read for thousands of lines is frozen: the database goes with it when it wakes.
            Ok(_) => drop(link.write.shutdown(std::net::Shutdown::Both)),
            Err(e) => tracing::debug!(error = %e, "the guard does not take a message"),
        }
    }

    /// Follows what the guard says until it is gone.
    async fn hear(self: Arc<Self>, mut lines: tokio::io::Lines<BufReader<UnixStream>>, guard: u32) {
        let mut ending = None;
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(FromGuard::Exited(e)) = serde_json::from_str(&line) {
                ending = Some(e);
                break;
            }
        }
        if ending.is_none() {
            self.end_without_guard(guard).await;
        }
        if let Some(e) = ending
            && e.deadline
        {
            tracing::warn!("the guard ended the database: its deadline was not pushed in time");
        }
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = ending;
        let mut slot = self.link();
        if slot.as_ref().is_some_and(|l| l.guard == guard) {
            *slot = None;
            drop(slot);
            self.state.send_replace(Process::Stopped);
        }
    }

    /// The connection broke without a farewell: the guard is dead, or its line was cut. Nothing may live on without it.
    async fn end_without_guard(self: &Arc<Self>, guard: u32) {
        tracing::error!(guard, "the guard is gone: ending what is left of the database");
        if let Some(l) = self.link().as_ref() {
            let _ = pidfd_send_signal(&l.guard_fd, Signal::KILL);
            let _ = pidfd_send_signal(&l.database_fd, Signal::KILL);
        }
        loop {
            let shared = Arc::clone(self);
            match blocking(move || shared.sweep(&shared.folders, Duration::from_secs(5))).await {
                Ok(_) => return,
                Err(left) => tracing::error!(?left, "database processes can't be ended"),
            }
        }
    }

    /// In a thread of its own: the guard may be frozen, then its database is ended without it.
    fn confirm_kill(&self, guard: u32) {
        let same = || self.link().as_ref().is_some_and(|l| l.guard == guard);
        let step = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        while same() && waited < CONFIRM {
            {
                let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
                if same() {
                    descendants::end_working_in(&self.folders, self.whose);
                    self.cages().iter().for_each(|c| drop(c.kill()));
                }
            }
            std::thread::sleep(step);
            waited += step;
        }
        if let Some(l) = self.link().as_ref()
            && l.guard == guard
            && descendants::working_in(&self.folders, self.whose).is_empty()
            && self.cages().iter().all(|c| c.left().is_empty())
        {
            tracing::error!(guard, "the guard does not confirm the database's end: ending the guard");
            let _ = pidfd_send_signal(&l.guard_fd, Signal::KILL);
        }
    }

    #[allow(unsafe_code)]
    fn fork(&self, order: &[u8]) -> io::Result<tokio::process::Child> {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(&self.log)?;
        let mut command = tokio::process::Command::new(&self.command.program);
        command.args(&self.command.args).args(self.folders.first()).current_dir("/");
        // In memory, not a pipe: it is written in one go, however long the guard takes to read it.
        let mut paper = std::fs::File::from(rustix::fs::memfd_create("order", rustix::fs::MemfdFlags::CLOEXEC)?);
        paper.write_all(order)?;
        paper.seek(io::SeekFrom::Start(0))?;
        command.stdin(paper).stdout(Stdio::null()).stderr(log);
        // SAFETY: runs in the child between fork and exec, and makes one system call. A session of its own: what ends the
        // agent (a terminal, a group's signal) must leave the guard to its duty.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
        }
        command.spawn()
    }
}

/// The end of a text file, at most `bytes`; empty when it can't be read.
pub(crate) async fn tail(path: &Path, bytes: u64) -> String {
    let path = path.to_owned();
    blocking(move || tail_now(&path, bytes)).await
}

fn tail_now(path: &Path, bytes: u64) -> String {
    use std::io::{Read, SeekFrom};
    let read = || -> io::Result<Vec<u8>> {
        let mut f = std::fs::File::open(path)?;
        let length = f.metadata()?.len();
        f.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut content = Vec::new();
        f.take(bytes).read_to_end(&mut content)?;
        Ok(content)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Runs what may block on a disk or `/proc` off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only when the runtime is being torn down: nobody waits any more.
            Err(_) => std::future::pending().await,
        },
    }
}
