//! How a command ends when it does not end well: one line of what was wrong, one of what to do, and an exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use trine_agent::ConfigError;
use trine_api::{ClientError, RefusedCode};

/// A command's result.
pub(crate) type Done<T = ()> = Result<T, Failure>;

/// Exit codes of the contract; 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    WrongUse = 2,
    Unsafe = 3,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into(), hint: None }
    }

    pub(crate) fn wrong_use(message: impl Into<String>) -> Self {
        Self { exit: Exit::WrongUse, message: message.into(), hint: None }
    }

    pub(crate) fn not_safe(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unsafe, message: message.into(), hint: None }
    }

    /// It failed because of an error; what was being done comes first.
    pub(crate) fn because(doing: impl std::fmt::Display, error: &(dyn Error + 'static)) -> Self {
        Self::failed(format!("{doing}: {}", chain(error)))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells the person on stderr, and the caller by the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = format!("trine: {}\n", self.message);
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "  hint: {hint}");
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.exit as u8)
    }
}

/// The words of an error and of what caused it, each once, without the operating system's numbers.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        next = cause.source();
    }
    trine_platform::plain(&text)
}

/// The words of a panic.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self::wrong_use(chain(&e))
    }
}

/// What to do about a request of which nobody knows what became.
const TAKEN: Option<&str> = Some("`trine events` shows whether it was taken");

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        let exit = match &e {
            ClientError::Refused(r) => match r.code {
                RefusedCode::Failed | RefusedCode::Unknown | RefusedCode::Unauthorized => Exit::Failed,
                RefusedCode::WrongUse => Exit::WrongUse,
                RefusedCode::Unsafe | RefusedCode::NoMajority => Exit::Unsafe,
            },
            ClientError::BadUrl { .. } | ClientError::NoUrl | ClientError::NoCa { .. } => Exit::WrongUse,
            _ => Exit::Failed,
        };
        let hint = match &e {
            ClientError::NoAnswer { .. } => Some("are the agents running?"),
            ClientError::NoCa { .. } => Some("give --ca with the cluster's ca.pem"),
            ClientError::Refused(r) if r.code == RefusedCode::Unauthorized => {
                Some("give --token-file with a node's secrets.toml, or set TRINE_TOKEN")
            }
            ClientError::Refused(r) if r.code == RefusedCode::NoMajority => Some(
                "bring another node back; if those that are missing are gone for good: trine failover --accept-data-loss",
            ),
            ClientError::Unknown { .. } => TAKEN,
            ClientError::Refused(r) if r.code == RefusedCode::Unknown => TAKEN,
            _ => None,
        };
        Self { exit, message: chain(&e), hint: hint.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_and_without_numbers() {
        let error = ConfigError::Read { path: "/etc/x".into(), source: std::io::Error::from_raw_os_error(2) };
        assert_eq!(chain(&error), "can't read /etc/x: No such file or directory");
    }
}
