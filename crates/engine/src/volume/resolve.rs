//! A database's description, resolved on one node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::container::ContainerSpec;
use super::place::Place;
use super::program;
use super::spec::{Check, DatabaseSpec, Health, How, Listen, Program, Ready, Stop};
use super::table::{CheckText, Database, HowText, ListenText, user_numbers};
use super::template::{Placeholder, Template};
use crate::EngineError;
use crate::account::Account;

/// What a unix socket's path may have at most (`sun_path` without the zero at its end).
const SOCKET_LIMIT: usize = 107;

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
        let container = image.map(|image| ContainerSpec::resolve(image, &self.container, &self.listen, &place));
        let container = container.transpose()?;
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
