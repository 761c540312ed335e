//! What a look at a database finds that its users would want to change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a look may take in all. A database that does not answer must not hold up whoever asks.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// How long the database itself lets one of the look's statements run, in seconds: it goes on with one whose client has left.
pub(crate) const STATEMENT_S: u32 = 8;

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something can be lost, or will take long, when a node is lost.
    Warning,
    /// It may be wanted as it is; who did not know it should.
    Note,
}

/// Something of one kind, and everywhere that it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, in a few words.
    pub what: String,
    /// The tables, settings or accounts: the first [`Finding::SHOWN`] of them.
    pub places: Vec<String>,
    /// How many more there are.
    pub more: u64,
    /// What comes of it.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// So many places are told one by one: a schema that was made without keys has thousands of tables.
    pub const SHOWN: usize = 20;

    /// A warning; none without a place.
    pub(crate) fn warning(what: &str, places: Vec<String>, why: &str, remedy: &str) -> Option<Self> {
        Self::at(Severity::Warning, what, places, why, remedy)
    }

    /// A note; none without a place.
    pub(crate) fn note(what: &str, places: Vec<String>, why: &str, remedy: &str) -> Option<Self> {
        Self::at(Severity::Note, what, places, why, remedy)
    }

    fn at(severity: Severity, what: &str, mut places: Vec<String>, why: &str, remedy: &str) -> Option<Self> {
        if places.is_empty() {
            return None;
        }
        let more = places.len().saturating_sub(Self::SHOWN) as u64;
        places.truncate(Self::SHOWN);
        Some(Self { severity, what: what.into(), places, more, why: why.into(), remedy: remedy.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_places_are_one_finding() {
        assert_eq!(Finding::warning("w", Vec::new(), "", ""), None);
        let places = (0..1000).map(|n| format!("t{n}")).collect();
        let found = Finding::warning("w", places, "", "").unwrap();
        assert_eq!((found.places.len(), found.more), (20, 980));
        assert!(Severity::Warning < Severity::Note, "warnings come first");
    }
}
