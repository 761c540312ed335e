//! What belongs to a database that trine does not know: `preset`, `[database]`, `[volume]`.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use trine_engine::volume::{Database, DatabaseTable, PRESETS, Part, Wrong, preset};

use super::check::{Check, EngineTable};
use super::{ConfigError, Grade, VolumeConfig};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VolumeTable {
    grade: Option<Grade>,
    journal_mb: Option<Spanned<i64>>,
    verify_every_h: Option<Spanned<i64>>,
    verify_mb_s: Option<Spanned<i64>>,
}

impl Check<'_> {
    /// `[engine]` of a volume has `kind` alone.
    pub(super) fn nothing_of_postgres(&self, t: &EngineTable) -> Result<(), ConfigError> {
        const INSTEAD: &str = "is for engine.kind = \"postgres\"; with \"volume\"";
        if let Some(dir) = &t.bin_dir {
            let allowed = format!("{INSTEAD} use an absolute path in database.command, or database.path");
            return Err(self.refuse(dir, "engine.bin_dir", dir.get_ref(), allowed));
        }
        if let Some(user) = &t.user {
            return Err(self.refuse(user, "engine.user", user.get_ref(), format!("{INSTEAD} use database.user")));
        }
        if let Some((name, value)) = t.parameters.first_key_value() {
            let allowed = format!("{INSTEAD} use database.args or a file of [database.files]");
            return Err(self.refuse(value, &format!("engine.parameters.{name}"), value.get_ref(), allowed));
        }
        match t.hba.first() {
            Some(line) => {
                let allowed = format!("{INSTEAD} use a file of [database.files]");
                Err(self.refuse(line, "engine.hba", line.get_ref(), allowed))
            }
            None => Ok(()),
        }
    }

    /// What is run and how it is replicated; `None` with another engine.
    pub(super) fn volume(
        &self,
        kind: &Spanned<String>,
        named: Option<&Spanned<String>>,
        database: Option<&Spanned<DatabaseTable>>,
        volume: Option<&Spanned<VolumeTable>>,
    ) -> Result<Option<VolumeConfig>, ConfigError> {
        if kind.get_ref() != "volume" {
            const ALLOWED: &str = "is only for engine.kind = \"volume\"";
            if let Some(named) = named {
                return Err(self.refuse(named, "preset", named.get_ref(), ALLOWED));
            }
            let tables = [("database", database.map(Spanned::span)), ("volume", volume.map(Spanned::span))];
            return match tables.into_iter().find_map(|(key, span)| Some((key, span?))) {
                Some((key, span)) => {
                    Err(self.refuse_at(span.start, key.to_owned(), "{…}".to_owned(), ALLOWED.to_owned()))
                }
                None => Ok(None),
            };
        }
        let default = VolumeTable::default();
        let table = volume.map_or(&default, Spanned::get_ref);
        let journal_mb: u64 =
            self.number(table.journal_mb.as_ref(), "volume.journal_mb", 1024, 16..=1_048_576, " (MiB)")?;
        let every: u64 =
            self.number(table.verify_every_h.as_ref(), "volume.verify_every_h", 168, 0..=87_600, " (hours; 0: never)")?;
        let pace: u64 = self.number(table.verify_mb_s.as_ref(), "volume.verify_mb_s", 16, 1..=100_000, " (MiB/s)")?;
        Ok(Some(VolumeConfig {
            preset: named.map(|n| n.get_ref().clone()),
            database: self.database(kind, named, database)?,
            grade: table.grade.unwrap_or_default(),
            journal_bytes: journal_mb << 20,
            verify_every: (every > 0).then(|| Duration::from_secs(every * 3600)),
            verify_pace: pace << 20,
        }))
    }

    fn database(
        &self,
        kind: &Spanned<String>,
        named: Option<&Spanned<String>>,
        table: Option<&Spanned<DatabaseTable>>,
    ) -> Result<Database, ConfigError> {
        let below = match named {
            None => Part::default(),
            Some(named) => preset(named.get_ref()).ok_or_else(|| {
                let allowed = format!("use one of {}, or none and database.command", PRESETS.join(", "));
                self.refuse(named, "preset", named.get_ref(), allowed)
            })?,
        };
        let own = table.map_or_else(|| Ok(Part::default()), |t| t.get_ref().check());
        let own = own.map_err(|Wrong { at, key, value, allowed }| self.refuse_at(at, key, value, allowed))?;
        own.over(below).complete().ok_or_else(|| {
            let allowed = format!(
                "needs to know which database: use preset = \"NAME\" ({}), or database.command",
                PRESETS.join(", ")
            );
            self.refuse(kind, "engine.kind", kind.get_ref(), allowed)
        })
    }
}
