//! Single values of `[database]`: each as it may be, or what is allowed.

use std::ops::RangeInclusive;
use std::path::{Component, Path};
use std::time::Duration;

use rustix::process::Signal;
use toml::Spanned;

use super::super::template::{Template, Use};
use super::{ListenText, Wrong, wrong};

pub(super) fn template(v: &Spanned<String>, key: &str, at: Use) -> Result<Template, Wrong> {
    Template::parse(v.get_ref(), at).map_err(|e| wrong(v, key, e.to_string()))
}

pub(super) fn words(list: Option<&[Spanned<String>]>, key: &str) -> Result<Option<Vec<Template>>, Wrong> {
    list.map(|l| l.iter().map(|v| template(v, key, Use::Argument)).collect()).transpose()
}

/// A path that is absolute once it is filled in.
pub(super) fn absolute(v: &Spanned<String>, key: &str) -> Result<Template, Wrong> {
    let path = template(v, key, Use::Argument)?;
    let from_root = ["/", "{data}", "{dir}", "{run}", "{log}"].iter().any(|b| v.get_ref().starts_with(b));
    let up = Path::new(v.get_ref()).components().any(|c| c == Component::ParentDir);
    if from_root && !up {
        return Ok(path);
    }
    Err(wrong(v, key, "use an absolute path without '..', beginning with /, {data}, {dir}, {run} or {log}"))
}

pub(super) fn listen(v: &Spanned<String>) -> Result<ListenText, Wrong> {
    if v.get_ref() == "tcp" {
        return Ok(ListenText::Tcp);
    }
    absolute(v, "database.listen").map(ListenText::Unix).map_err(|w| Wrong {
        allowed: "use \"tcp\" (ports.database on a loopback address) or the path of a unix socket, such as \
                  \"{run}/db.sock\""
            .into(),
        ..w
    })
}

pub(super) fn uri(v: &Spanned<String>) -> Result<Template, Wrong> {
    use super::super::template::Placeholder::{Host, Hosts};
    let text = template(v, "database.uri", Use::Uri)?;
    let named = text.has(Host) || text.has(Hosts);
    if named && text.begins().contains("://") && !v.get_ref().chars().any(char::is_whitespace) {
        return Ok(text);
    }
    Err(wrong(v, "database.uri", "use such as \"redis://:{password}@{host}:{port}\", or {hosts} for all nodes at once"))
}

/// A folder in which programs are looked for; one part of it may be `*`.
pub(super) fn folder_pattern(v: &Spanned<String>) -> Result<(), Wrong> {
    let text = v.get_ref();
    let stars = text.matches('*').count();
    let whole = text.split('/').filter(|part| *part == "*" || part.ends_with("-*")).count();
    if text.starts_with('/') && stars <= 1 && stars == whole {
        return Ok(());
    }
    Err(wrong(v, "database.path", "use an absolute folder; one part of it may be '*', for any version"))
}

/// A file in the data directory.
pub(super) fn inside(v: &Spanned<String>) -> Result<(), Wrong> {
    // No folders: one of them could be a link that leads out of the volume.
    let mut parts = Path::new(v.get_ref()).components();
    if matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !v.get_ref().contains(['/', '\0'])
    {
        return Ok(());
    }
    Err(wrong(v, "database.remove", "use names of files in {data}, such as \"postmaster.pid\", without '/'"))
}

pub(super) fn signal(v: &Spanned<String>) -> Result<Signal, Wrong> {
    let name = v.get_ref();
    match name.strip_prefix("SIG").unwrap_or(name) {
        "TERM" => Ok(Signal::TERM),
        "INT" => Ok(Signal::INT),
        "QUIT" => Ok(Signal::QUIT),
        "HUP" => Ok(Signal::HUP),
        "USR1" => Ok(Signal::USR1),
        "USR2" => Ok(Signal::USR2),
        _ => Err(wrong(v, "database.stop_signal", "use TERM, INT, QUIT, HUP, USR1 or USR2")),
    }
}

pub(super) fn millis(
    v: Option<&Spanned<i64>>,
    key: &str,
    bounds: RangeInclusive<i64>,
) -> Result<Option<Duration>, Wrong> {
    Ok(number::<u64>(v, key, bounds, " (milliseconds)")?.map(Duration::from_millis))
}

pub(super) fn number<T: TryFrom<i64>>(
    v: Option<&Spanned<i64>>,
    key: &str,
    bounds: RangeInclusive<i64>,
    unit: &str,
) -> Result<Option<T>, Wrong> {
    let Some(v) = v else { return Ok(None) };
    let fits = if bounds.contains(v.get_ref()) { T::try_from(*v.get_ref()).ok() } else { None };
    match fits {
        Some(n) => Ok(Some(n)),
        None => Err(wrong(v, key, format!("use {} to {}{unit}", bounds.start(), bounds.end()))),
    }
}
