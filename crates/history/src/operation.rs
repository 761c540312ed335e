//! A question and its answer.

use serde::{Deserialize, Serialize};

/// When something was asked, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// When the question was sent.
    pub asked: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was answered, at this time.
    Answered(u64),
    /// Nobody knows: no answer came, or one that leaves it open. It may take effect at any time from the question on.
    Unknown,
    /// It was refused, and certainly had no effect.
    Refused,
}

impl Span {
    /// Asked and answered.
    #[must_use]
    pub const fn answered(asked: u64, at: u64) -> Self {
        Self { asked, outcome: Outcome::Answered(at) }
    }

    /// Asked, and no answer.
    #[must_use]
    pub const fn unknown(asked: u64) -> Self {
        Self { asked, outcome: Outcome::Unknown }
    }

    /// When it had taken effect at the latest: never, if nobody knows.
    #[must_use]
    pub const fn done(&self) -> u64 {
        match self.outcome {
            Outcome::Answered(at) => at,
            Outcome::Unknown | Outcome::Refused => u64::MAX,
        }
    }

    /// Was it answered?
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Answered(_))
    }
}
