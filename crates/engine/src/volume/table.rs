//! `[database]` of trine.toml, and the same table in a preset's file: as it is written, checked, laid over each other.

mod check;
mod container;
mod part;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use toml::Spanned;

use super::template::{Template, Use};
use check::{CheckPart, HealthTable, ReadyTable};
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
