//! `secrets.toml`: what nobody but the owner may read.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ConfigError, check};

/// The name of the secrets file in a node's folder.
pub const SECRETS_FILE: &str = "secrets.toml";

/// Passwords and tokens, the same on every node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Who has it may change the cluster through the API.
    pub api_token: String,
    /// Of the agent's own database role, `trine`.
    pub superuser_password: String,
    /// Of the clients' role `app`, which owns the database `app`.
    pub app_password: String,
}

impl Secrets {
    /// Reads a secrets file.
    ///
    /// # Errors
    /// [`ConfigError`]: it can't be read, others can read it too, or a key is missing, unknown or too short.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source: io::Error| ConfigError::Read { path: path.to_owned(), source };
        let mut file = fs::File::open(path).map_err(failed)?;
        // The mode of the file that is open, not of whatever has its name a moment later.
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(ConfigError::Open { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let secrets: Self = toml::from_str(&text).map_err(|e| check::syntax(path, &text, &e))?;
        for (key, value) in [
            ("api_token", &secrets.api_token),
            ("superuser_password", &secrets.superuser_password),
            ("app_password", &secrets.app_password),
        ] {
            if value.len() < 8 || value.chars().any(char::is_control) {
                return Err(ConfigError::Value {
                    path: path.to_owned(),
                    line: text.lines().position(|l| l.trim_start().starts_with(key)).map_or(1, |n| n + 1),
                    key: key.to_owned(),
                    value: "…".to_owned(),
                    allowed: "use at least 8 characters, none of them a control character".to_owned(),
                });
            }
        }
        Ok(secrets)
    }

    /// Writes a new secrets file that only its owner can read. An existing one is left alone.
    ///
    /// # Errors
    /// What the operating system says; `AlreadyExists` when there is one.
    pub fn create(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(b"# Keep this file to its owner (mode 0600). The same on every node of the cluster.\n")?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

/// Says nothing.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}
