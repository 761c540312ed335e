//! The keys of `[database]` that are for a container.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{DatabaseTable, Part, Wrong, number, wrong};

/// `[database.registry]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistryTable {
    helper: Option<Spanned<String>>,
    username: Option<Spanned<String>>,
    password_file: Option<Spanned<String>>,
}

/// Whether an image is fetched from its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// When it is not here. The default.
    #[default]
    Missing,
    /// Before each start.
    Always,
    /// It must be here.
    Never,
}

/// How the registry knows who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registry {
    /// The program `docker-credential-NAME` is asked (`get`), as for Amazon's ECR: `ecr-login`.
    Helper(String),
    /// A name, and a file that has the password.
    Password {
        /// The name.
        username: String,
        /// Read before each pull; the spaces and line ends around the password do not count.
        file: PathBuf,
    },
}

/// A file or folder of the machine in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Here.
    pub source: PathBuf,
    /// There.
    pub target: PathBuf,
    /// It can't be written there.
    pub read_only: bool,
}

/// What a table says of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::volume) struct ContainerPart {
    pub(in crate::volume) image: Option<String>,
    pub(in crate::volume) mounts: Option<Vec<Bind>>,
    pub(in crate::volume) data_path: Option<PathBuf>,
    pub(in crate::volume) port: Option<u16>,
    pub(in crate::volume) network: Option<String>,
    /// Bytes.
    pub(in crate::volume) memory: Option<i64>,
    /// Billionths of a processor.
    pub(in crate::volume) nano_cpus: Option<i64>,
    pub(in crate::volume) registry: Option<Registry>,
    pub(in crate::volume) pull: Option<Pull>,
    pub(in crate::volume) socket: Option<PathBuf>,
}

impl ContainerPart {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            image: self.image.or(below.image),
            mounts: self.mounts.or(below.mounts),
            data_path: self.data_path.or(below.data_path),
            port: self.port.or(below.port),
            network: self.network.or(below.network),
            memory: self.memory.or(below.memory),
            nano_cpus: self.nano_cpus.or(below.nano_cpus),
            registry: self.registry.or(below.registry),
            pull: self.pull.or(below.pull),
            socket: self.socket.or(below.socket),
        }
    }
}

impl DatabaseTable {
    /// Checks every value, and that those of a container come with an image, and those of a program without.
    ///
    /// # Errors
    /// [`Wrong`]: the first that is not allowed.
    pub fn check(&self) -> Result<Part, Wrong> {
        let part = self.part()?;
        if let Some(image) = &self.image {
            if self.command.is_some() {
                let allowed =
                    "use either an image or database.command; what the image is to run goes into database.args";
                return Err(wrong(image, "database.image", allowed));
            }
            if self.init.is_some() {
                let allowed = "an image makes its first data itself: leave database.init out";
                return Err(wrong(image, "database.image", allowed));
            }
            return Ok(part);
        }
        const ONLY: &str = "is only for a container: set database.image, too";
        let at = |span: std::ops::Range<usize>, key: &str| {
            let key = format!("database.{key}");
            Err(Wrong { at: span.start, key, value: "…".to_owned(), allowed: ONLY.to_owned() })
        };
        let spans = [
            ("mounts", self.mounts.as_ref().map(Spanned::span)),
            ("data_path", self.data_path.as_ref().map(Spanned::span)),
            ("port", self.port.as_ref().map(Spanned::span)),
            ("network", self.network.as_ref().map(Spanned::span)),
            ("memory_mb", self.memory_mb.as_ref().map(Spanned::span)),
            ("cpus", self.cpus.as_ref().map(Spanned::span)),
            ("registry", self.registry.as_ref().map(Spanned::span)),
            ("pull", self.pull.as_ref().map(Spanned::span)),
            ("socket", self.socket.as_ref().map(Spanned::span)),
        ];
        match spans.into_iter().find_map(|(key, span)| Some((key, span?))) {
            Some((key, span)) => at(span, key),
            None => Ok(part),
        }
    }

    pub(super) fn container(&self) -> Result<ContainerPart, Wrong> {
        if let Some(user) = self.user.as_ref().filter(|_| self.image.is_some()) {
            numbers(user)?;
        }
        Ok(ContainerPart {
            image: self.image.as_ref().map(image).transpose()?,
            mounts: self
                .mounts
                .as_ref()
                .map(|list| list.get_ref().iter().map(bind).collect::<Result<_, _>>())
                .transpose()?,
            data_path: self.data_path.as_ref().map(|p| inner_path(p, "database.data_path")).transpose()?,
            port: number(self.port.as_ref(), "database.port", 1..=65535, "")?,
            network: self.network.as_ref().map(network).transpose()?,
            memory: number::<i64>(self.memory_mb.as_ref(), "database.memory_mb", 6..=67_108_864, " (MiB)")?
                .map(|mb| mb << 20),
            nano_cpus: self.cpus.as_ref().map(cpus).transpose()?,
            registry: self.registry.as_ref().map(registry).transpose()?,
            pull: self.pull.as_ref().map(pull).transpose()?,
            socket: self.socket.as_ref().map(socket).transpose()?,
        })
    }
}

/// The user and group that `user = "999:999"` means.
pub(in crate::volume) fn user_numbers(text: &str) -> Option<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    Some((user.parse().ok()?, group.parse().ok()?))
}

fn numbers(v: &Spanned<String>) -> Result<(), Wrong> {
    match user_numbers(v.get_ref()) {
        Some((1.., _)) => Ok(()),
        _ => Err(wrong(
            v,
            "database.user",
            "use numbers, such as \"999\" or \"999:999\", not 0: names are the image's own (docker run --rm IMAGE id NAME)",
        )),
    }
}

fn image(v: &Spanned<String>) -> Result<String, Wrong> {
    let text = v.get_ref();
    let good = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good) {
        return Ok(text.clone());
    }
    Err(wrong(v, "database.image", "use an image's name with its tag, such as \"redis:7\" or \"host:5000/team/db:1\""))
}

/// An absolute path without `..`, not the root.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.parent().is_some() && !path.components().any(|c| c == Component::ParentDir)
}

fn inner_path(v: &Spanned<String>, key: &str) -> Result<PathBuf, Wrong> {
    let path = Path::new(v.get_ref());
    if is_plain(path) && !v.get_ref().contains(':') {
        return Ok(path.to_owned());
    }
    Err(wrong(v, key, "use an absolute path in the container, without '..' and ':', such as \"/data\""))
}

fn bind(v: &Spanned<String>) -> Result<Bind, Wrong> {
    let bad = || wrong(v, "database.mounts", "use \"/here:/there\" or \"/here:/there:ro\", absolute and without '..'");
    let mut parts = v.get_ref().split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else { return Err(bad()) };
    let read_only = match (parts.next(), parts.next()) {
        (None, None) => false,
        (Some("ro"), None) => true,
        (Some("rw"), None) => false,
        _ => return Err(bad()),
    };
    let (source, target) = (PathBuf::from(source), PathBuf::from(target));
    if is_plain(&source) && is_plain(&target) { Ok(Bind { source, target, read_only }) } else { Err(bad()) }
}

fn network(v: &Spanned<String>) -> Result<String, Wrong> {
    let text = v.get_ref();
    let good = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if good && text != "none" {
        return Ok(text.clone());
    }
    Err(wrong(v, "database.network", "use \"bridge\", \"host\", or the name of a network that is there"))
}

#[allow(clippy::cast_possible_truncation, reason = "the range is checked before")]
fn cpus(v: &Spanned<f64>) -> Result<i64, Wrong> {
    if (0.01..=4096.0).contains(v.get_ref()) {
        return Ok((v.get_ref() * 1e9) as i64);
    }
    Err(wrong(v, "database.cpus", "use 0.01 to 4096.0 (processors), such as 1.5"))
}

fn registry(v: &Spanned<RegistryTable>) -> Result<Registry, Wrong> {
    let t = v.get_ref();
    match (&t.helper, &t.username, &t.password_file) {
        (Some(helper), None, None) => {
            let text = helper.get_ref();
            if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
                return Ok(Registry::Helper(text.clone()));
            }
            let allowed = "use what follows docker-credential- in the helper's name, such as \"ecr-login\"";
            Err(wrong(helper, "database.registry.helper", allowed))
        }
        (None, Some(username), Some(file)) if Path::new(file.get_ref()).is_absolute() => {
            Ok(Registry::Password { username: username.get_ref().clone(), file: file.get_ref().into() })
        }
        (None, Some(_), Some(file)) => {
            Err(wrong(file, "database.registry.password_file", "use the absolute path of a file"))
        }
        _ => Err(Wrong {
            at: v.span().start,
            key: "database.registry".into(),
            value: "{…}".into(),
            allowed: "use either helper, or username and password_file".into(),
        }),
    }
}

fn pull(v: &Spanned<String>) -> Result<Pull, Wrong> {
    match v.get_ref().as_str() {
        "missing" => Ok(Pull::Missing),
        "always" => Ok(Pull::Always),
        "never" => Ok(Pull::Never),
        _ => Err(wrong(v, "database.pull", "use \"missing\", \"always\" or \"never\"")),
    }
}

fn socket(v: &Spanned<String>) -> Result<PathBuf, Wrong> {
    let path = Path::new(v.get_ref().strip_prefix("unix://").unwrap_or(v.get_ref()));
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(wrong(v, "database.socket", "use the absolute path of Docker's or Podman's socket on this machine"))
}
