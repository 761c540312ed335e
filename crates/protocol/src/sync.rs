//! The sync rule: after which standbys have it a commit is acknowledged, and which nodes can prove what was.

use std::collections::BTreeSet;
use std::fmt;

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

/// For people: what a commit waits for. The primary's name is part of it only where nobody else is.
impl fmt::Display for SyncRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.standbys.is_empty() {
            return write!(f, "{} alone", self.primary);
        }
        let names: Vec<&str> = self.standbys.iter().map(NodeName::as_str).collect();
        write!(f, "{} of ({})", self.acks, names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes whose bit is set.
    fn subset(nodes: &[NodeName], bits: u32) -> BTreeSet<NodeName> {
        nodes.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, n)| n.clone()).collect()
    }

    #[test]
    fn safe_means_that_every_way_to_acknowledge_meets_the_sealed_nodes() {
        let nodes: Vec<NodeName> = (1..=5).map(|i| format!("n{i}").parse().unwrap()).collect();
        let (primary, standbys) = (nodes[0].clone(), nodes[1..].to_vec());
        for (s, acks) in (1..16u32).flat_map(|s| (1..=s.count_ones()).map(move |acks| (s, acks))) {
            let rule = SyncRule { primary: primary.clone(), standbys: subset(&standbys, s), acks: acks as usize };
            for x in 0..32u32 {
                let sealed = subset(&nodes, x);
                let acknowledging = (0..16u32).filter(|a| a & !s == 0 && a.count_ones() == acks);
                let meets = |a: u32| {
                    let mut holders = subset(&standbys, a);
                    holders.insert(primary.clone());
                    !holders.is_disjoint(&sealed)
                };
                assert_eq!(rule.is_safe(&sealed), acknowledging.clone().all(meets), "{rule:?} {sealed:?}");
            }
        }
    }

    #[test]
    fn alone_only_the_primary_proves_anything() {
        let nodes: Vec<NodeName> = (1..=3).map(|i| format!("n{i}").parse().unwrap()).collect();
        let rule = SyncRule::alone(nodes[0].clone());
        assert!(!rule.is_safe(&subset(&nodes, 0b110)));
        assert!(rule.is_safe(&subset(&nodes, 0b001)));
    }
}
