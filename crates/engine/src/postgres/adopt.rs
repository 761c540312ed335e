//! Taking an existing data directory as a cluster's first copy.

use std::fs;
use std::path::{Path, PathBuf};

use super::Postgres;
use super::binaries::{Binaries, OLDEST, data_major};
use super::config::is_managed;
use super::control::Control;
use super::paths::remove_tree;
use super::setup::Private;
use crate::adoption::{Adoption, check_owner};
use crate::{Adopted, EngineError};

impl Postgres {
    pub(super) async fn adopt(&self, from: &Path) -> Result<Adopted, EngineError> {
        let _turn = self.turn.lock().await;
        let adoption = match Adoption::resume(from, &self.paths.adopting, (&self.copy(), &self.paths.data))? {
            Some(cut_off) => cut_off,
            None => {
                self.check_adoptable(from).await?;
                Adoption::begin(&self.account, from, &self.paths.adopting, &self.paths.fresh)?
            }
        };
        match self.finish_adoption(&adoption).await {
            Ok(adopted) => Ok(adopted),
            Err(e) => {
                adoption.put_back();
                Err(e)
            }
        }
    }

    async fn check_adoptable(&self, from: &Path) -> Result<(), EngineError> {
        let refuse = |why: String| Err(EngineError::AdoptRefused { path: from.to_owned(), why });
        let Some(major) = data_major(from) else {
            return refuse("it is no data directory of PostgreSQL (it has no PG_VERSION)".into());
        };
        if major < OLDEST {
            return refuse(format!(
                "it is of PostgreSQL {major}, {OLDEST} is the oldest that can be run: upgrade it first"
            ));
        }
        let binaries = match Binaries::find(self.config.bin_dir.as_deref(), Some(major)) {
            Ok(binaries) => binaries,
            Err(e) => return refuse(e.to_string()),
        };
        check_owner(&self.account, from)?;
        if from.join("postmaster.pid").exists() {
            return refuse(
                "its PostgreSQL runs, or did not end cleanly (postmaster.pid is there): stop it first".into(),
            );
        }
        if ["standby.signal", "recovery.signal", "backup_label"].iter().any(|f| from.join(f).exists()) {
            return refuse("it is a standby or a backup: adopt the primary's directory".into());
        }
        let spaces = from.join("pg_tblspc");
        let mut entries = fs::read_dir(&spaces).map_err(EngineError::io("read", spaces))?;
        if entries.next().is_some() {
            return refuse(
                "it has tablespaces elsewhere, which can't be replicated: move their tables to pg_default".into(),
            );
        }
        if from.join("pg_wal").is_symlink() {
            return refuse("its pg_wal is a link: put the folder itself in its place".into());
        }
        let control = Control::read(&binaries, &self.account, from).await?;
        if control.state != "shut down" {
            return refuse(format!("it was not shut down cleanly (it is {}): start and stop it first", control.state));
        }
        Ok(())
    }

    async fn finish_adoption(&self, adoption: &Adoption) -> Result<Adopted, EngineError> {
        let data = &adoption.at;
        let binaries = Binaries::find(self.config.bin_dir.as_deref(), data_major(data))?;
        let control = Control::read(&binaries, &self.account, data).await?;
        let private = Private {
            binaries: &binaries,
            account: &self.account,
            data,
            place: self.paths.private(),
            settings: &control.floor,
        };
        let notes = own_settings(data);
        private.make_superuser().await?;
        private.set_up(&self.config.superuser_password, &self.config.app_password).await?;
        remove_tree(&private.place)?;
        adoption.complete(&self.paths.data)?;
        Ok(Adopted { identity: control.identity, timeline: control.timeline, notes })
    }
}

/// What its own settings files say that will not hold any more.
fn own_settings(data: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    let path: PathBuf = data.join("postgresql.conf");
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        // initdb writes these itself.
        if ["datestyle", "default_text_search_config", "dynamic_shared_memory_type", "log_timezone", "timezone"]
            .contains(&key.as_str())
            || key.starts_with("lc_")
        {
            continue;
        }
        notes.push(if is_managed(&key) {
            format!("postgresql.conf: {key} = {value} is not taken over: the cluster decides it")
        } else {
            format!("postgresql.conf: {key} = {value} is not taken over: write it to [engine.parameters] to keep it")
        });
    }
    let hba = fs::read_to_string(data.join("pg_hba.conf")).unwrap_or_default();
    let lines = hba.lines().filter(|l| !l.trim().is_empty() && !l.trim().starts_with('#')).count();
    if lines > 0 {
        notes.push(format!("pg_hba.conf: its {lines} lines are not taken over: write local ones to engine.hba"));
    }
    notes
}
