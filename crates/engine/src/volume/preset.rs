//! Descriptions that come along.

use super::table::{DatabaseTable, Part};

/// Each preset's name, and its file.
const FILES: [(&str, &str); 5] = [
    ("redis", include_str!("presets/redis.toml")),
    ("postgres", include_str!("presets/postgres.toml")),
    ("mariadb", include_str!("presets/mariadb.toml")),
    ("firebird", include_str!("presets/firebird.toml")),
    ("sqlite", include_str!("presets/sqlite.toml")),
];

/// The names of the presets.
pub const PRESETS: [&str; 5] = {
    let [(a, _), (b, _), (c, _), (d, _), (e, _)] = FILES;
    [a, b, c, d, e]
};

/// What a preset says; `None`: there is none of this name.
#[must_use]
pub fn preset(name: &str) -> Option<Part> {
    let (_, text) = FILES.into_iter().find(|(n, _)| *n == name)?;
    // The files are part of the program: a test reads each of them.
    DatabaseTable::parse(text).ok()?.part().ok().map(Part::into_preset)
}
