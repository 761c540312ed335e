//! The sync rule: after which standbys have it a commit is acknowledged, and which nodes can prove what was.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// (S, n) under a primary: a commit is acknowledged once `acks` of `standbys` have it durably, and the primary too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SyncRule {
    /// Whose commits the rule is about.
    pub primary: NodeName,
    /// The standbys that may acknowledge.
    pub standbys: BTreeSet<NodeName>,
    /// How many of them must. 0 with no standbys: the primary's own disk is enough, so only it can be elected next.
    pub acks: usize,
}

impl SyncRule {
    /// A rule under which the primary alone holds the data.
    #[must_use]
    pub fn alone(primary: NodeName) -> Self {
        Self { primary, standbys: BTreeSet::new(), acks: 0 }
    }

    /// Is everything that can have been acknowledged under this rule on some node of `sealed`?
    ///
    /// True when the primary is among them, or when fewer than `acks` of the standbys are missing: then any set of
    /// standbys that acknowledged a commit meets `sealed`.
    #[must_use]
    pub fn is_safe(&self, sealed: &BTreeSet<NodeName>) -> bool {
        sealed.contains(&self.primary) || self.missing(sealed).count() < self.acks
    }

    /// The standbys that are not in `sealed`.
    pub fn missing<'a>(&'a self, sealed: &'a BTreeSet<NodeName>) -> impl Iterator<Item = &'a NodeName> {
        self.standbys.difference(sealed)
    }

    /// Every node that the rule names.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        std::iter::once(&self.primary).chain(&self.standbys)
    }
}
