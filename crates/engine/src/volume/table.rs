//! `[database]` of trine.toml, and the same table in a preset's file: as it is written, checked, laid over each other.

mod container;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use toml::Spanned;

use super::template::{Template, Use};
pub use container::{Bind, Pull, Registry};
pub(super) use container::{ContainerPart, user_numbers};
use values::{absolute, folder_pattern, inside, listen, millis, number, signal, template, uri, words};

/// `[database]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseTable {
    command: Option<Spanned<String>>,
    args: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    env: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    files: BTreeMap<String, Spanned<String>>,
    user: Option<Spanned<String>>,
    package: Option<Spanned<String>>,
    path: Option<Vec<Spanned<String>>>,
    workdir: Option<Spanned<String>>,
    listen: Option<Spanned<String>>,
    init: Option<Vec<Spanned<Vec<Spanned<String>>>>>,
    init_deadline_ms: Option<Spanned<i64>>,
    remove: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    ready: ReadyTable,
    #[serde(default)]
    health: HealthTable,
    stop_signal: Option<Spanned<String>>,
    stop_patience_ms: Option<Spanned<i64>>,
    uri: Option<Spanned<String>>,
    image: Option<Spanned<String>>,
    mounts: Option<Spanned<Vec<Spanned<String>>>>,
    data_path: Option<Spanned<String>>,
    port: Option<Spanned<i64>>,
    network: Option<Spanned<String>>,
    memory_mb: Option<Spanned<i64>>,
    cpus: Option<Spanned<f64>>,
    registry: Option<Spanned<container::RegistryTable>>,
    pull: Option<Spanned<String>>,
    socket: Option<Spanned<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadyTable {
    tcp: Option<Spanned<bool>>,
    send: Option<Spanned<String>>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
    expect: Option<Spanned<String>>,
    every_ms: Option<Spanned<i64>>,
    deadline_ms: Option<Spanned<i64>>,
    within_ms: Option<Spanned<i64>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthTable {
    tcp: Option<Spanned<bool>>,
    send: Option<Spanned<String>>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
    expect: Option<Spanned<String>>,
    every_ms: Option<Spanned<i64>>,
    deadline_ms: Option<Spanned<i64>>,
    failures: Option<Spanned<i64>>,
}

/// A value is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {allowed}")]
pub struct Wrong {
    /// Where in the text, in bytes.
    pub at: usize,
    /// The key with its table: `database.stop_signal`.
    pub key: String,
    /// What it says.
    pub value: String,
    /// What is wrong with that, and what it may be.
    pub allowed: String,
}

fn wrong<T: std::fmt::Debug>(at: &Spanned<T>, key: impl Into<String>, allowed: impl Into<String>) -> Wrong {
    let value = format!("{:?}", at.get_ref());
    Wrong { at: at.span().start, key: key.into(), value, allowed: allowed.into() }
}

/// What one table says, checked. Lay it over another one, then [complete](Self::complete) it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    command: Option<Template>,
    args: Option<Vec<Template>>,
    env: BTreeMap<String, Template>,
    files: BTreeMap<String, Template>,
    user: Option<String>,
    default_user: Option<String>,
    package: Option<String>,
    path: Option<Vec<String>>,
    workdir: Option<Template>,
    listen: Option<ListenText>,
    init: Option<Vec<Vec<Template>>>,
    init_deadline: Option<Duration>,
    remove: Option<Vec<String>>,
    ready: CheckPart,
    ready_within: Option<Duration>,
    health: CheckPart,
    health_failures: Option<u32>,
    stop_signal: Option<Signal>,
    stop_patience: Option<Duration>,
    uri: Option<Template>,
    container: ContainerPart,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CheckPart {
    how: Option<HowText>,
    every: Option<Duration>,
    deadline: Option<Duration>,
}

/// How clients' connections reach the database, with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenText {
    Tcp,
    Unix(Template),
}

/// How a database is asked whether it answers, with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HowText {
    Connect { send: Option<Template>, expect: Option<String> },
    Command { words: Vec<Template>, expect: Option<String> },
}

/// A check, with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckText {
    pub(super) how: HowText,
    pub(super) every: Duration,
    pub(super) deadline: Duration,
}

/// A database's description, complete and checked, with placeholders: what [`DatabaseSpec`](super::DatabaseSpec) is
/// resolved from on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// `None`: what the image runs by itself.
    pub(super) command: Option<Template>,
    pub(super) args: Vec<Template>,
    pub(super) env: BTreeMap<String, Template>,
    pub(super) files: BTreeMap<String, Template>,
    /// Named by the person who runs it.
    pub(super) user: Option<String>,
    /// Named by the preset: only when the agent is root.
    pub(super) default_user: Option<String>,
    pub(super) package: Option<String>,
    pub(super) path: Vec<String>,
    pub(super) workdir: Option<Template>,
    pub(super) listen: ListenText,
    pub(super) init: Vec<Vec<Template>>,
    pub(super) init_deadline: Duration,
    pub(super) remove: Vec<String>,
    pub(super) ready: CheckText,
    pub(super) ready_within: Duration,
    pub(super) health: CheckText,
    pub(super) health_failures: u32,
    pub(super) stop_signal: Signal,
    pub(super) stop_patience: Duration,
    pub(super) uri: Option<Template>,
    pub(super) container: ContainerPart,
}

impl Database {
    /// The user of this machine that it runs as when the agent is root; `None`: the owner of the node's folder, or in a
    /// container the image's own.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        if self.container.image.is_some() {
            return None;
        }
        self.user.as_deref().or(self.default_user.as_deref())
    }

    /// The distribution's package that has its programs (Debian's name), when the preset knows.
    #[must_use]
    pub fn package(&self) -> Option<&str> {
        self.package.as_deref()
    }
}

impl DatabaseTable {
    /// Reads a table alone, as in a preset's file.
    ///
    /// # Errors
    /// What the parser says.
    pub(super) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Wrong`]: the first that is not allowed.
    pub(super) fn part(&self) -> Result<Part, Wrong> {
        let argument = |key: &'static str| move |v: &Spanned<String>| template(v, key, Use::Argument);
        let private = |table: &'static str, of: &BTreeMap<String, Spanned<String>>| {
            let one = |(name, v): (&String, &Spanned<String>)| {
                Ok((name.clone(), template(v, &format!("{table}.{name}"), Use::Private)?))
            };
            of.iter().map(one).collect::<Result<BTreeMap<_, _>, Wrong>>()
        };
        let all = |list: &Option<Vec<Spanned<String>>>, check: &dyn Fn(&Spanned<String>) -> Result<(), Wrong>| {
            list.iter().flatten().try_for_each(check)?;
            Ok(list.as_ref().map(|l| l.iter().map(|v| v.get_ref().clone()).collect::<Vec<_>>()))
        };
        if let Some(command) = self.command.as_ref().filter(|c| c.get_ref().trim().is_empty()) {
            let allowed = "use a program: an absolute path, or a name that is looked for in PATH";
            return Err(wrong(command, "database.command", allowed));
        }
        self.names()?;
        Ok(Part {
            command: self.command.as_ref().map(argument("database.command")).transpose()?,
            args: words(self.args.as_deref(), "database.args")?,
            env: private("database.env", &self.env)?,
            files: private("database.files", &self.files)?,
            user: self.user.as_ref().map(|u| u.get_ref().clone()),
            default_user: None,
            package: self.package.as_ref().map(|p| p.get_ref().clone()),
            path: all(&self.path, &|p| folder_pattern(p))?,
            workdir: self.workdir.as_ref().map(|v| absolute(v, "database.workdir")).transpose()?,
            listen: self.listen.as_ref().map(listen).transpose()?,
            init: self.init()?,
            init_deadline: millis(self.init_deadline_ms.as_ref(), "database.init_deadline_ms", 1000..=86_400_000)?,
            remove: all(&self.remove, &|r| inside(r))?,
            ready: self.ready.check()?,
            ready_within: millis(self.ready.within_ms.as_ref(), "database.ready.within_ms", 100..=86_400_000)?,
            health: self.health.check()?,
            health_failures: number(self.health.failures.as_ref(), "database.health.failures", 1..=1000, "")?,
            stop_signal: self.stop_signal.as_ref().map(signal).transpose()?,
            stop_patience: millis(self.stop_patience_ms.as_ref(), "database.stop_patience_ms", 0..=3_600_000)?,
            uri: self.uri.as_ref().map(uri).transpose()?,
            container: self.container()?,
        })
    }

    /// Names of the environment, of files, of the user.
    fn names(&self) -> Result<(), Wrong> {
        for (name, value) in &self.env {
            let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if !good {
                let allowed = "is no variable's name; use letters, digits and '_'";
                return Err(Wrong { value: name.clone(), ..wrong(value, format!("database.env.{name}"), allowed) });
            }
        }
        for (name, value) in &self.files {
            let good = !name.is_empty()
                && name.len() <= 100
                && !name.starts_with('.')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            if !good {
                let allowed = "is no name for a file in {run}; use letters, digits, '.', '_' and '-'";
                return Err(Wrong { value: name.clone(), ..wrong(value, format!("database.files.{name}"), allowed) });
            }
        }
        match self.user.as_ref().filter(|u| matches!(u.get_ref().as_str(), "" | "root" | "0")) {
            Some(u) => Err(wrong(u, "database.user", "use an ordinary user; a database does not run as root")),
            None => Ok(()),
        }
    }

    fn init(&self) -> Result<Option<Vec<Vec<Template>>>, Wrong> {
        let Some(list) = &self.init else { return Ok(None) };
        let one = |command: &Spanned<Vec<Spanned<String>>>| {
            if command.get_ref().is_empty() {
                return Err(Wrong {
                    value: "[]".into(),
                    ..wrong(command, "database.init", "use a list of commands, each a program with its arguments")
                });
            }
            Ok(words(Some(command.get_ref()), "database.init")?.unwrap_or_default())
        };
        list.iter().map(one).collect::<Result<_, _>>().map(Some)
    }
}

/// The keys that say how a check asks.
struct Asks<'a> {
    table: &'static str,
    tcp: Option<&'a Spanned<bool>>,
    send: Option<&'a Spanned<String>>,
    command: Option<&'a Spanned<Vec<Spanned<String>>>>,
    expect: Option<&'a Spanned<String>>,
    every: Option<&'a Spanned<i64>>,
    deadline: Option<&'a Spanned<i64>>,
}

impl ReadyTable {
    fn check(&self) -> Result<CheckPart, Wrong> {
        let (table, every, deadline) = ("database.ready", self.every_ms.as_ref(), self.deadline_ms.as_ref());
        let (tcp, send) = (self.tcp.as_ref(), self.send.as_ref());
        let (command, expect) = (self.command.as_ref(), self.expect.as_ref());
        Asks { table, tcp, send, command, expect, every, deadline }.check()
    }
}

impl HealthTable {
    fn check(&self) -> Result<CheckPart, Wrong> {
        let (table, every, deadline) = ("database.health", self.every_ms.as_ref(), self.deadline_ms.as_ref());
        let (tcp, send) = (self.tcp.as_ref(), self.send.as_ref());
        let (command, expect) = (self.command.as_ref(), self.expect.as_ref());
        Asks { table, tcp, send, command, expect, every, deadline }.check()
    }
}

impl Asks<'_> {
    fn check(&self) -> Result<CheckPart, Wrong> {
        let key = |name: &str| format!("{}.{name}", self.table);
        if let Some(expect) = self.expect.filter(|e| e.get_ref().is_empty()) {
            return Err(wrong(expect, key("expect"), "use the text that a good answer holds, or leave it out"));
        }
        if let Some(tcp) = self.tcp.filter(|t| !t.get_ref()) {
            return Err(wrong(tcp, key("tcp"), "use true, or a command instead"));
        }
        let expect = self.expect.map(|e| e.get_ref().clone());
        let how = match (self.command, self.send, self.tcp) {
            (Some(command), None, None) if !command.get_ref().is_empty() => Some(HowText::Command {
                words: words(Some(command.get_ref()), &key("command"))?.unwrap_or_default(),
                expect,
            }),
            (Some(command), _, _) => {
                let allowed = "use either a command (a program with its arguments) or tcp and send";
                let value = command.get_ref().iter().map(Spanned::get_ref).collect::<Vec<_>>();
                return Err(Wrong { value: format!("{value:?}"), ..wrong(command, key("command"), allowed) });
            }
            (None, None, None) if expect.is_none() => None,
            (None, send, _) => Some(HowText::Connect {
                send: send.map(|s| template(s, &key("send"), Use::Private)).transpose()?,
                expect,
            }),
        };
        Ok(CheckPart {
            how,
            every: millis(self.every, &key("every_ms"), 10..=3_600_000)?,
            deadline: millis(self.deadline, &key("deadline_ms"), 10..=3_600_000)?,
        })
    }
}

impl Part {
    /// The same as a preset: its user is a default, for agents that are root.
    pub(super) fn into_preset(mut self) -> Self {
        self.default_user = self.user.take();
        self
    }

    /// What this says, and where it says nothing, what `below` says. Environment and files are laid over each other one
    /// by one, lists replaced as a whole.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let merged = |mut base: BTreeMap<String, Template>, over: BTreeMap<String, Template>| {
            base.extend(over);
            base
        };
        let image = self.container.image.is_some();
        let other = self.command.is_some();
        Self {
            // Another program takes other arguments, and comes from another package.
            package: self.package.or(if self.command.is_some() { None } else { below.package }),
            // An image is given all that it runs, or what the preset runs.
            command: self.command.or(if image && self.args.is_some() { None } else { below.command }),
            args: self.args.or(if other { None } else { below.args }),
            env: merged(below.env, self.env),
            files: merged(below.files, self.files),
            user: self.user.or(below.user),
            // The image has users and first data of its own.
            default_user: self.default_user.or(if image { None } else { below.default_user }),
            path: self.path.or(below.path),
            workdir: self.workdir.or(below.workdir),
            listen: self.listen.or(below.listen),
            init: self.init.or(if image { None } else { below.init }),
            init_deadline: self.init_deadline.or(below.init_deadline),
            remove: self.remove.or(below.remove),
            ready: self.ready.over(below.ready),
            ready_within: self.ready_within.or(below.ready_within),
            health: self.health.over(below.health),
            health_failures: self.health_failures.or(below.health_failures),
            stop_signal: self.stop_signal.or(below.stop_signal),
            stop_patience: self.stop_patience.or(below.stop_patience),
            uri: self.uri.or(below.uri),
            container: self.container.over(below.container),
        }
    }

    /// With the defaults; `None` without a program or an image.
    #[must_use]
    pub fn complete(self) -> Option<Database> {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        if self.command.is_none() && self.container.image.is_none() {
            return None;
        }
        Some(Database {
            command: self.command,
            args: self.args.unwrap_or_default(),
            env: self.env,
            files: self.files,
            user: self.user,
            default_user: self.default_user,
            package: self.package,
            path: self.path.unwrap_or_default(),
            workdir: self.workdir,
            listen: self.listen.unwrap_or(ListenText::Tcp),
            init: self.init.unwrap_or_default(),
            init_deadline: self.init_deadline.unwrap_or(minute * 10),
            remove: self.remove.unwrap_or_default(),
            ready: self.ready.complete(Duration::from_millis(50), second * 5),
            ready_within: self.ready_within.unwrap_or(minute * 10),
            health: self.health.complete(second, second * 5),
            health_failures: self.health_failures.unwrap_or(3),
            stop_signal: self.stop_signal.unwrap_or(Signal::TERM),
            stop_patience: self.stop_patience.unwrap_or(second * 20),
            uri: self.uri,
            container: self.container,
        })
    }
}

impl CheckPart {
    fn over(self, below: Self) -> Self {
        Self {
            how: self.how.or(below.how),
            every: self.every.or(below.every),
            deadline: self.deadline.or(below.deadline),
        }
    }

    fn complete(self, every: Duration, deadline: Duration) -> CheckText {
        CheckText {
            how: self.how.unwrap_or(HowText::Connect { send: None, expect: None }),
            every: self.every.unwrap_or(every),
            deadline: self.deadline.unwrap_or(deadline),
        }
    }
}
