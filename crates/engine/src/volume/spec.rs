//! A database's description resolved on one node: what is started, as whom, and how it is asked.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use trine_platform::BoxStream;

use super::container::ContainerSpec;
use super::program;
use super::table::{CheckText, Database, HowText, ListenText, user_numbers};
use super::template::{Placeholder, Template};
use crate::EngineError;
use crate::account::Account;
use crate::files::{remove_file, remove_tree};
use crate::guard::GuardCommand;
use crate::guard::holder::{self, Held};
use crate::guard::wire::Order;

/// What a unix socket's path may have at most (`sun_path` without the zero at its end).
const SOCKET_LIMIT: usize = 107;

/// What the placeholders stand for on a node.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// `{data}`
    pub data: PathBuf,
    /// `{dir}`
    pub dir: PathBuf,
    /// `{run}`
    pub run: PathBuf,
    /// `{log}`
    pub log: PathBuf,
    /// `{address}`
    pub address: IpAddr,
    /// `{port}`
    pub port: u16,
    /// `{user}`
    pub user: String,
    /// `{password}`
    pub password: String,
    /// The cluster's and the node's name: its containers are labelled with them.
    pub names: (String, String),
}

impl Place {
    /// The usual places below a node's folder. `me` is where the node is reached: the database listens there when that
    /// is loopback, else on 127.0.0.1, since clients come through the endpoints only.
    #[must_use]
    pub fn of(dir: &Path, me: IpAddr, port: u16, password: &str) -> Self {
        // As the kernel names it, or the processes that work there would not be found.
        let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        Self {
            data: dir.join("data"),
            dir: dir.clone(),
            run: dir.join("run/db"),
            log: dir.join("log/db"),
            address: if me.is_loopback() { me } else { Ipv4Addr::LOCALHOST.into() },
            port,
            user: "app".to_owned(),
            password: password.to_owned(),
            names: Default::default(),
        }
    }

    /// The same with the cluster's and the node's name.
    #[must_use]
    pub fn named(self, cluster: &str, node: &str) -> Self {
        Self { names: (cluster.to_owned(), node.to_owned()), ..self }
    }

    fn value(&self, of: Placeholder) -> String {
        match of {
            Placeholder::Data => self.data.display().to_string(),
            Placeholder::Dir => self.dir.display().to_string(),
            Placeholder::Run => self.run.display().to_string(),
            Placeholder::Log => self.log.display().to_string(),
            Placeholder::Address => self.address.to_string(),
            Placeholder::Port => self.port.to_string(),
            Placeholder::User => self.user.clone(),
            Placeholder::Password => self.password.clone(),
            // Only in a URI, which is not resolved here.
            Placeholder::Host | Placeholder::Hosts => String::new(),
        }
    }
}

/// Keeps the password out of logs.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({}, {}:{})", self.dir.display(), self.address, self.port)
    }
}

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Absolute.
    pub path: PathBuf,
    /// Without the program itself.
    pub args: Vec<String>,
}

/// Where clients' connections reach the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port on a loopback address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Opens a connection. The caller sets the deadline.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(&self) -> io::Result<BoxStream> {
        match self {
            Self::Tcp(at) => {
                let stream = tokio::net::TcpStream::connect(at).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How a database is asked whether it answers.
#[derive(Clone, PartialEq, Eq)]
pub enum How {
    /// It takes a connection; and its answer to `send` (or what it says unasked) holds `expect`.
    Connect {
        /// What is sent. It may hold the password.
        send: Option<String>,
        /// What must come back.
        expect: Option<String>,
    },
    /// A program ends with exit code 0, and what it says holds `expect`.
    Command {
        /// Which.
        program: Program,
        /// What it must say.
        expect: Option<String>,
    },
}

/// Keeps the password out of logs.
impl std::fmt::Debug for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect { expect, .. } => f.debug_struct("Connect").field("expect", expect).finish_non_exhaustive(),
            Self::Command { program, expect } => {
                f.debug_struct("Command").field("program", program).field("expect", expect).finish()
            }
        }
    }
}

/// A check of a database that should be running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How it asks.
    pub how: How,
    /// How long after one try the next one begins.
    pub every: Duration,
    /// How long one try may take.
    pub deadline: Duration,
}

/// When a database that was started is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Tried until it succeeds.
    pub check: Check,
    /// How long after the start that may take: its recovery is within it. 10 minutes by default.
    pub within: Duration,
}

/// When a database that was up hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Tried for ever.
    pub check: Check,
    /// How many failures in a row mean that it hangs. 3 by default.
    pub failures: u32,
}

/// How it is stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What its first process is sent.
    pub signal: Signal,
    /// How long it may take before it is killed. 20 s by default.
    pub patience: Duration,
}

/// A database on a node, ready to be started.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseSpec {
    /// The user that it runs as.
    pub(crate) account: Account,
    /// Where the placeholders lead.
    pub place: Place,
    /// What is started. Of a container the image, and what is given to it to run.
    pub program: Program,
    /// The container that it runs in.
    pub container: Option<ContainerSpec>,
    /// Its whole environment, and that of checks and of `init`.
    pub env: Vec<(String, String)>,
    /// Where it is started: `{run}` by default. Not in the volume, so that a volume that hangs can't keep the guard from
    /// starting it, and from ending it.
    pub workdir: PathBuf,
    /// Where clients' connections reach it.
    pub listen: Listen,
    /// What makes the first data in an empty `{data}`, one after the other; none: the database itself does.
    pub init: Vec<Program>,
    /// How long all of `init` may take.
    pub init_deadline: Duration,
    /// Files of `{data}` that are removed before each start.
    pub remove: Vec<PathBuf>,
    /// When it is up.
    pub ready: Ready,
    /// When it hangs.
    pub health: Health,
    /// How it is stopped.
    pub stop: Stop,
    files: Vec<(PathBuf, String)>,
    from: Arc<Database>,
}

/// Keeps environment and files, which may hold the password, out of logs.
impl std::fmt::Debug for DatabaseSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut s = f.debug_struct("DatabaseSpec");
        s.field("program", &self.program).field("account", &self.account).field("listen", &self.listen);
        s.finish_non_exhaustive()
    }
}

impl Database {
    /// What it is on this node. Looks for programs and for the user; starts and writes nothing.
    ///
    /// # Errors
    /// [`EngineError::NoBinaries`] names the program that is missing and the package that has it;
    /// [`EngineError::Config`]: there is no such user, a socket's path is too long, or the password can't stand in a file.
    pub fn resolve(&self, place: Place) -> Result<DatabaseSpec, EngineError> {
        let image = self.container.image.as_deref();
        let account = match (&self.user, &self.default_user) {
            // The image's own users are not this machine's.
            (user, _) if image.is_some() => Account::of_numbers(user.as_deref().and_then(user_numbers)),
            (None, None) => Account::owner_of(&place.dir, "database.user")?,
            (user, default) => {
                Account::find(user.as_deref(), default.as_deref(), "database.user").map_err(|e| self.with_package(e))?
            }
        };
        self.plain_password(&place)?;
        let folders = program::folders(&self.path, &account);
        let container = image.map(|image| ContainerSpec::resolve(image, &self.container, &place)).transpose()?;
        // What the database itself reads is in the container's terms.
        let inner = container.as_ref().map_or_else(|| place.clone(), |c| c.inner(&place));
        let fill = |t: &Template| t.fill(|p| inner.value(p));
        let program = |name: &str, args: &[Template]| {
            let args = args.iter().map(fill).collect();
            match image {
                // Programs are the image's; checks run in the container.
                Some(_) => Ok(Program { path: name.into(), args }),
                None => self.program(name, args, &folders),
            }
        };
        let words = |list: &[Template]| {
            let name = list.first().map(fill).unwrap_or_default();
            program(&name, list.get(1..).unwrap_or_default())
        };
        let check = |c: &CheckText| -> Result<Check, EngineError> {
            let how = match &c.how {
                HowText::Connect { send, expect } => {
                    How::Connect { send: send.as_ref().map(fill), expect: expect.clone() }
                }
                HowText::Command { words: w, expect } => How::Command { program: words(w)?, expect: expect.clone() },
            };
            Ok(Check { how, every: c.every, deadline: c.deadline })
        };
        let listen = match &self.listen {
            ListenText::Tcp => Listen::Tcp(SocketAddr::new(place.address, place.port)),
            ListenText::Unix(path) => Listen::Unix(short_enough(path.fill(|p| place.value(p)).into())?),
        };
        let own = self.env.iter().map(|(k, v)| (k.clone(), fill(v)));
        let main = match (image, &self.command) {
            (Some(image), command) => {
                let words = command.iter().chain(&self.args).map(fill).collect();
                Program { path: image.into(), args: words }
            }
            (None, Some(command)) => program(&fill(command), &self.args)?,
            (None, None) => return Err(EngineError::Config("database.command is not set".into())),
        };
        Ok(DatabaseSpec {
            program: main,
            env: if container.is_some() { own.collect() } else { environment(&place, &folders, own) },
            container,
            workdir: self.workdir.as_ref().map_or_else(|| place.run.clone(), |w| fill(w).into()),
            listen,
            init: self.init.iter().map(|c| words(c)).collect::<Result<_, _>>()?,
            init_deadline: self.init_deadline,
            remove: self.remove.iter().map(|name| place.data.join(name)).collect(),
            ready: Ready { check: check(&self.ready)?, within: self.ready_within },
            health: Health { check: check(&self.health)?, failures: self.health_failures },
            stop: Stop { signal: self.stop_signal, patience: self.stop_patience },
            files: self.files.iter().map(|(name, text)| (place.run.join(name), fill(text))).collect(),
            from: Arc::new(self.clone()),
            account,
            place,
        })
    }

    fn program(&self, name: &str, args: Vec<String>, folders: &[PathBuf]) -> Result<Program, EngineError> {
        match program::find(name, folders) {
            Some(path) => Ok(Program { path, args }),
            None => {
                let place = if name.contains('/') { "" } else { " in PATH" };
                let what = format!("the database's program {name} was not found{place}");
                let install =
                    self.package.as_ref().map(|p| format!("install the package {p} (its name in Debian), or "));
                let install = install.unwrap_or_default();
                Err(EngineError::NoBinaries(format!("{what}: {install}name it with its path in [database]")))
            }
        }
    }

    /// A preset's user comes with its package.
    fn with_package(&self, error: EngineError) -> EngineError {
        match (error, &self.package) {
            (EngineError::Config(text), Some(package)) if self.user.is_none() => {
                EngineError::Config(format!("{text}, or install the package {package}, which makes it"))
            }
            (error, _) => error,
        }
    }

    /// Every file has its own rules for quotes: a password that needs none is right in all of them.
    fn plain_password(&self, place: &Place) -> Result<(), EngineError> {
        let plain = place.password.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c));
        let sends = |c: &CheckText| match &c.how {
            HowText::Connect { send, .. } => send.clone(),
            HowText::Command { .. } => None,
        };
        let mut texts = self.files.values().cloned().chain(sends(&self.ready)).chain(sends(&self.health));
        if plain || !texts.any(|t| t.has(Placeholder::Password)) {
            return Ok(());
        }
        Err(EngineError::Config(
            "app_password in secrets.toml stands in the database's files: use only a-z, A-Z, 0-9, '-', '_', '.' and '~' \
             in it"
                .into(),
        ))
    }

    /// What clients are given for these endpoints: one URI that names all of them, when there is a form for that, else one
    /// for each, in the same order.
    #[must_use]
    pub fn uris(&self, endpoints: &[SocketAddr], user: &str, password: &str) -> Vec<String> {
        let Some(uri) = &self.uri else {
            return endpoints.iter().map(|at| format!("tcp://{at}")).collect();
        };
        let hosts = endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let one = |at: &SocketAddr| {
            uri.fill(|p| match p {
                Placeholder::Hosts => hosts.clone(),
                Placeholder::Host => match at.ip() {
                    IpAddr::V4(a) => a.to_string(),
                    IpAddr::V6(a) => format!("[{a}]"),
                },
                Placeholder::Port => at.port().to_string(),
                Placeholder::User => escape(user),
                Placeholder::Password => escape(password),
                _ => String::new(),
            })
        };
        let every = if uri.has(Placeholder::Hosts) { 1 } else { endpoints.len() };
        endpoints.iter().take(every).map(one).collect()
    }
}

impl DatabaseSpec {
    /// The same with another data directory: where a first copy is made before it is put in place.
    ///
    /// # Errors
    /// As [`Database::resolve`].
    pub fn with_data(&self, data: &Path) -> Result<Self, EngineError> {
        self.from.resolve(Place { data: data.to_owned(), ..self.place.clone() })
    }

    /// The program's or the image's name, for people.
    #[must_use]
    pub fn name(&self) -> String {
        self.program.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Where it is started, when something says so: a container has a place of its own.
    pub(super) fn own_workdir(&self) -> Option<&Path> {
        Some(self.workdir.as_path()).filter(|w| *w != self.place.run)
    }

    /// Whose the data directory is: user and group.
    pub(crate) fn owner(&self) -> (u32, u32) {
        (self.account.uid, self.account.gid)
    }

    /// Before each start, when no process of the database is left: makes `{run}` and `{log}`, empties `{run}`, writes the
    /// files there, and removes from the data what must not outlive a process.
    ///
    /// # Errors
    /// [`EngineError::Io`], or a folder above that the database's user can't pass.
    pub(crate) fn prepare(&self) -> Result<(), EngineError> {
        let place = &self.place;
        for folder in [&place.run, &place.log] {
            let parent = folder.parent().unwrap_or(&place.dir);
            fs::create_dir_all(parent).map_err(EngineError::io("make the folder", parent))?;
            self.account.let_through(parent)?;
        }
        if self.account.is_other() {
            self.account.let_through(&place.dir)?;
            self.account.can_reach(&place.dir)?;
        }
        remove_tree(&place.run)?;
        for folder in [&place.run, &place.log] {
            self.account.make_dir(folder)?;
        }
        for (path, text) in &self.files {
            self.account.write(path, text.as_bytes())?;
        }
        self.remove.iter().try_for_each(|path| remove_file(path))
    }

    /// What the guard is to run. `run` and `log` are the agent's own: the guard's socket and lock, the database's output.
    pub(crate) fn order(&self, run: &Path, log: PathBuf) -> Order {
        Order {
            socket: run.join("guard.sock"),
            lock: run.join("guard.lock"),
            log,
            data: self.place.data.clone(),
            workdir: Some(self.workdir.clone()),
            account: self.account.change_to(),
            program: self.program.path.clone(),
            args: self.program.args.clone(),
            env: self.env.clone(),
            cage: None,
        }
    }

    /// The same for a container: the holder is run, as the agent's own user.
    pub(crate) fn order_to_hold(&self, held: &Held, guard: &GuardCommand, run: &Path, log: PathBuf) -> Order {
        let mut args = guard.args.clone();
        args.push(holder::WORD.to_owned());
        Order {
            workdir: Some("/".into()),
            account: None,
            program: guard.program.clone(),
            args,
            env: vec![(holder::ORDER.to_owned(), serde_json::to_string(held).unwrap_or_default())],
            cage: Some(held.cage.clone()),
            ..self.order(run, log)
        }
    }

    /// Where processes of the database work, to find those that have lost their guard.
    pub(crate) fn workplaces(&self) -> Vec<PathBuf> {
        let mut all = vec![self.place.data.clone(), self.place.run.clone()];
        // Nobody's shell is mistaken for a database's process because somebody chose `/` as its working directory.
        if self.workdir.starts_with(&self.place.dir) && self.workdir != self.place.dir {
            all.push(self.workdir.clone());
        }
        all
    }
}

/// Nothing of the agent's own but PATH; messages in English.
fn environment(
    place: &Place,
    folders: &[PathBuf],
    own: impl Iterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let path = folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(":");
    let home = place.run.display().to_string();
    let base = [("PATH", path.as_str()), ("LC_ALL", "C"), ("LANG", "C"), ("HOME", home.as_str())];
    let mut all: BTreeMap<String, String> = base.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    all.extend(own);
    all.into_iter().collect()
}

fn short_enough(path: PathBuf) -> Result<PathBuf, EngineError> {
    if path.as_os_str().len() <= SOCKET_LIMIT {
        return Ok(path);
    }
    Err(EngineError::Config(format!(
        "database.listen: the path of the unix socket, {}, is longer than {SOCKET_LIMIT} bytes: use a shorter one",
        path.display()
    )))
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn escape(s: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    s.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
