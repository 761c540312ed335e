//! The guard itself: one thread, no allocation worth speaking of, nothing but `poll`.
//!
//! It starts the database as its child, and ends every process of it when the agent says so, when the deadline that the
//! agent has to push forward is past, or when the database's first process is gone. When the guard itself is killed, the
//! kernel kills that first process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mm::MlockAllFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use super::cage::Keeper;
use super::descendants::{end_all, kill_all, pid};
use super::wire::{Ending, FromGuard, Order, ToGuard};

/// How many lines are kept to be said later.
const NOTES: usize = 20;
/// After how long a container that does not end is noted.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// What a connection may send without a line end.
const LINE_LIMIT: usize = 4096;
/// More than any order.
const ORDER_LIMIT: u64 = 16 << 20;

/// Runs a guard to its end: what `trine guard DATA` does, with the order on stdin. `args` are the arguments after `guard`:
/// the data directory, by which people and `trine local` know whose guard it is.
///
/// Exit code 0: the database has ended and nothing of it is left. 1: it could not be started, or the guard can't go on;
/// the reason is on stderr. 2: wrong arguments.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    if args.next_if(|word| word == super::holder::WORD).is_some() {
        return super::holder::main();
    }
    if args.next().is_none() || args.next().is_some() {
        say("guard: it is started by the agent, with one argument");
        return ExitCode::from(2);
    }
    let order = match io::read_to_string(io::stdin().take(ORDER_LIMIT)).map(|text| serde_json::from_str::<Order>(&text))
    {
        Ok(Ok(order)) => order,
        Ok(Err(e)) => {
            say(&format!("guard: can't read the order: {e}"));
            return ExitCode::from(2);
        }
        Err(e) => {
            say(&format!("guard: can't read the order: {e}"));
            return ExitCode::from(2);
        }
    };
    match Guard::start(&order).and_then(Guard::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&format!("guard of {}: {e}", order.data.display()));
            ExitCode::FAILURE
        }
    }
}

fn say(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}

struct Guard {
    _lock: File,
    listener: UnixListener,
    agents: Vec<Agent>,
    database: Pid,
    data: PathBuf,
    /// Readable once the database's first process has ended.
    database_fd: OwnedFd,
    /// Readable once the deadline is past; on a clock that goes on in suspend.
    alarm: OwnedFd,
    /// The container that the database is; its first process here is the holder then.
    cage: Option<Keeper>,
    found: bool,
    deadline: Option<u64>,
    kill: bool,
    /// What is to be said once the database is gone: the log may be on the disk that hangs.
    later: Vec<String>,
}

struct Agent {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Guard {
    fn start(order: &Order) -> io::Result<Self> {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&order.lock)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::other("another guard is running here"))?;
        match std::fs::remove_file(&order.socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&order.socket)?;
        listener.set_nonblocking(true)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let alarm = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let database = spawn(order)?;
        // Only now: the database must inherit neither the priority nor the mercy of the kernel's memory killer.
        harden();
        let database_fd = pidfd_open(database, PidfdFlags::empty())?;
        Ok(Self {
            _lock: lock,
            listener,
            agents: Vec::new(),
            database,
            data: order.data.clone(),
            database_fd,
            alarm,
            cage: order.cage.clone().map(Keeper::new),
            found: false,
            deadline: None,
            kill: false,
            later: Vec::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let (ended, knock) = self.wait()?;
            if knock {
                self.welcome();
            }
            // First all that was said, then the deadline: a guard that was frozen for a while finds both.
            self.listen();
            self.find_container();
            let late = self.deadline.is_some_and(|d| now() >= d);
            if ended || late || self.kill {
                let status = if ended { reap(self.database) } else { None };
                if let Some(cage) = &self.cage {
                    cage.kill();
                }
                if late {
                    self.abandon_volume();
                }
                let status = end_all(self.database).or(status);
                self.end_container();
                let deadline = late && !self.kill && !ended;
                self.farewell(status, deadline);
                if deadline {
                    self.note(format!("the deadline was past: ended the database (process {})", self.database));
                }
                for line in &self.later {
                    say(&format!("guard: {line}"));
                }
                return Ok(());
            }
        }
    }

    /// Whenever the agent says something: until the container's first process is seen, and so kept.
    fn find_container(&mut self) {
        if let Some(cage) = self.cage.as_ref().filter(|_| !self.found) {
            self.found = !cage.left().is_empty();
        }
    }

    /// A call in a volume returns to nobody, killed or not, before it is answered; and the agent, which serves the volume,
    /// has not been heard of. Of what is lost by that nothing was acknowledged.
    fn abandon_volume(&mut self) {
        kill_all(self.database);
        if let Err(e) = trine_volume::abort_at(&self.data) {
            self.note(format!("can't end the volume {}: {e}", self.data.display()));
        }
    }

    /// As with processes: it is not over before nothing is left, however long that takes.
    fn end_container(&mut self) {
        let Some(cage) = self.cage.take() else { return };
        while let Err(left) = cage.end(PATIENCE) {
            self.note(format!("processes {left:?} of the container can't be ended, or its gate can't be removed"));
        }
    }

    /// Waits for anything; says whether the database has ended and whether somebody wants to connect.
    fn wait(&mut self) -> io::Result<(bool, bool)> {
        let mut fds = Vec::with_capacity(self.agents.len() + 3);
        fds.push(PollFd::new(&self.database_fd, PollFlags::IN));
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        fds.push(PollFd::new(&self.alarm, PollFlags::IN));
        fds.extend(self.agents.iter().map(|a| PollFd::new(&a.stream, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = |i: usize| fds.get(i).is_some_and(|f| !f.revents().is_empty());
        Ok((ready(0), ready(1)))
    }

    fn welcome(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let hello = FromGuard::Hello {
                guard: std::process::id(),
                database: self.database.as_raw_nonzero().get().unsigned_abs(),
            };
            if stream.set_nonblocking(true).is_ok() && tell(&stream, &hello) {
                self.agents.push(Agent { stream, line: Vec::new() });
            }
        }
    }

    fn listen(&mut self) {
        let mut said = Vec::new();
        let mut wrong = Vec::new();
        self.agents.retain_mut(|agent| agent.read(&mut said).map_err(|e| wrong.extend(e)).is_ok());
        for e in wrong {
            self.note(format!("can't understand the agent: {e}"));
        }
        for message in said {
            match message {
                ToGuard::Kill => self.kill = true,
                ToGuard::Signal(number) => match Signal::from_named_raw(number) {
                    Some(signal) => drop(pidfd_send_signal(&self.database_fd, signal)),
                    None => self.note(format!("no such signal: {number}")),
                },
                ToGuard::Deadline(at) => self.arm(at),
            }
        }
    }

    fn arm(&mut self, at: u64) {
        if self.deadline.is_some_and(|d| at <= d) {
            return;
        }
        self.deadline = Some(at);
        let when = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (at % 1_000_000_000).try_into().unwrap_or(0),
        };
        let never_again = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = Itimerspec { it_interval: never_again, it_value: when };
        if let Err(e) = timerfd_settime(&self.alarm, TimerfdTimerFlags::ABSTIME, &timer) {
            // Without an alarm nobody would keep the promise.
            self.note(format!("can't set the alarm ({e}): ended the database"));
            self.kill = true;
        }
    }

    fn note(&mut self, what: String) {
        if self.later.len() < NOTES {
            self.later.push(what);
        }
    }

    fn farewell(&self, status: Option<WaitStatus>, deadline: bool) {
        let ending = Ending {
            code: status.and_then(WaitStatus::exit_status),
            signal: status.and_then(WaitStatus::terminating_signal),
            deadline,
        };
        for agent in &self.agents {
            tell(&agent.stream, &FromGuard::Exited(ending));
        }
    }
}

impl Agent {
    /// Reads what there is. An error: the agent is gone, or speaks nonsense, and which.
    fn read(&mut self, said: &mut Vec<ToGuard>) -> Result<(), Option<serde_json::Error>> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(None),
                Ok(n) => self.take(buffer.get(..n).unwrap_or_default(), said)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(None),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], said: &mut Vec<ToGuard>) -> Result<(), Option<serde_json::Error>> {
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            said.push(serde_json::from_slice(&line)?);
        }
        if self.line.len() > LINE_LIMIT { Err(None) } else { Ok(()) }
    }
}

fn tell(mut to: &UnixStream, what: &FromGuard) -> bool {
    let Ok(mut line) = serde_json::to_vec(what) else { return false };
    line.push(b'\n');
    // A fresh connection's buffer takes these few bytes; an agent that has let it fill up does not listen anyway.
    to.write_all(&line).is_ok()
}

fn now() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    u64::try_from(t.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

fn reap(database: Pid) -> Option<WaitStatus> {
    rustix::process::waitpid(Some(database), WaitOptions::NOHANG).ok().flatten().map(|(_, status)| status)
}

fn open_log(order: &Order) -> io::Result<File> {
    trine_platform::put_aside(&order.log)?;
    let log = OpenOptions::new().append(true).create(true).open(&order.log)?;
    log.set_permissions(PermissionsExt::from_mode(0o640))?;
    Ok(log)
}

#[allow(unsafe_code)]
fn spawn(order: &Order) -> io::Result<Pid> {
    let log = open_log(order)?;
    let mut command = Command::new(&order.program);
    command.args(&order.args).env_clear().envs(order.env.iter().cloned());
    command.current_dir(order.workdir()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some((uid, gid)) = order.account {
        command.uid(uid).gid(gid);
    }
    let guard = std::process::id();
    // SAFETY: runs in the child between fork and exec, and only makes system calls; no lock, no allocation.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            // The agent's priority, which the guard has from it, is not the database's.
            let _ = rustix::process::setpriority_process(None, 0);
            // After the change of user, which would clear it.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            let parent = rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get().unsigned_abs());
            if parent == guard { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
        });
    }
    let child = command
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("can't start {}: {e}", order.program.display())))?;
    pid(child.id()).ok_or_else(|| io::Error::other("no process number"))
}

/// What keeps the guard running when the machine is in trouble. Each may be refused to an ordinary user; the guard does
/// its duty without.
fn harden() {
    trine_platform::rank_thread(trine_platform::Rank::Guard);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    // Locked in memory as far as it has been used (not the whole program file); so everything that ending the database
    // takes is used once here.
    drop(super::descendants::children(std::process::id()));
    let _ = serde_json::to_vec(&FromGuard::Exited(Ending::default()));
    let _ = now();
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let _ = rustix::mm::mlockall(flags);
}
