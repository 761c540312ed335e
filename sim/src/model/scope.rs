//! What a search covers.

use std::fmt;
use std::str::FromStr;

use trine_protocol::Durability;

macro_rules! budget {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// How often each thing may still happen.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct Budget {
            $($(#[$doc])* pub $field: u8,)*
        }

        impl Budget {
            /// Nothing may happen.
            pub const NOTHING: Self = Self { $($field: 0,)* };

            /// What can be in a budget.
            pub const NAMES: &[&str] = &[$(stringify!($field)),*];

            fn get(&self) -> Vec<(&'static str, u8)> {
                vec![$((stringify!($field), self.$field)),*]
            }

            fn set(&mut self, name: &str, count: u8) -> bool {
                match name {
                    $(stringify!($field) => self.$field = count,)*
                    _ => return false,
                }
                true
            }
        }
    };
}

budget! {
    /// Entries that clients write.
    writes,
    /// Epochs that begin because the primary is suspected, at any time and for no reason.
    epochs,
    /// Machines that crash, with or without what was not flushed.
    crashes,
    /// Agents that end and start again while their database goes on.
    agents,
    /// Databases that end while their agent goes on.
    databases,
    /// Copies that are lost.
    losses,
    /// Copies that lose half of what they have, and can't be trusted.
    tears,
    /// Machines that lose all that they ever wrote.
    wipes,
    /// Changes of the sync rule, to any other.
    rules,
    /// Switchovers.
    switchovers,
    /// Rebuilds that a person asks for.
    rebuilds,
    /// Failovers for which a person accepts loss.
    gambles,
    /// Elections that leave a copy out, whoever's it is.
    left_out,
    /// Rounds in which the primary asks for its lease.
    renewals,
    /// Times that time passes: to the next moment at which a lease ends somewhere, or by half a lease.
    waits,
}

/// `writes=1,epochs=2`
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.get().into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}"));
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut budget = Self::NOTHING;
        for part in text.split(',') {
            let (name, count) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=COUNT"))?;
            let count = count.parse().map_err(|_| format!("{count:?} is no number up to 255"))?;
            if !budget.set(name, count) {
                return Err(format!("there is no {name:?}; there are {}", Self::NAMES.join(", ")));
            }
        }
        Ok(budget)
    }
}

/// A cluster, and what may happen to it.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// What it is there for.
    pub about: &'static str,
    /// How many nodes, all of them voters.
    pub nodes: usize,
    /// How many standbys must have a commit.
    pub acks: usize,
    /// What happens when too few are left.
    pub durability: Durability,
    /// How often each thing may happen.
    pub budget: Budget,
    /// How much faster than true time each node's clock runs, in parts of a million. Empty: leases are granted by all and
    /// never end, so nothing that holds rests on a clock.
    pub clocks: &'static [i64],
    /// Is it also checked that a majority comes back from each state?
    pub recovery: bool,
    /// The safeguard that is taken away.
    pub mutant: Mutant,
}

/// A safeguard that is taken away, to see that the search would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// None.
    None,
    /// A position is read before replication is cut.
    PositionBeforeCut,
    /// A voter counts for an election while a lease that it granted still runs.
    LeaseNotWaitedOut,
    /// A new sync rule replaces the old one at once.
    OldRuleDroppedAtOnce,
    /// The rules of the last open epoch are forgotten when the next one has its primary.
    GuardingForgotten,
    /// A torn copy counts as one that is there.
    IncompleteCounts,
    /// An epoch opens with its promotion.
    OpenWithoutBarrier,
    /// The longest log wins, whatever its epoch.
    DataEpochIgnored,
    /// A barrier that began before the rule changed settles the change.
    BarrierBeforeSetting,
    /// The old copy takes entries while a new one is made.
    FollowWhileRebuilding,
    /// A database that ended starts again as the primary of the same epoch.
    PrimaryRestartedInPlace,
    /// A promise is not on disk.
    PromiseNotOnDisk,
    /// A standby acknowledges what it has not flushed.
    AcksBeforeFlush,
    /// A node leads although it has less than when it was elected.
    LeadsWithLess,
    /// A wiped voter does not ask what it may have promised.
    WipedVoterDoesNotAsk,
    /// A voter that starts assumes that it has granted nothing.
    RestartForgetsLeases,
    /// The lease is released before the database has ended.
    ReleaseWhileServing,
    /// A copy that is needed to open is never rebuilt.
    NoRebuildWhenStuck,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_in_words() {
        let budget: Budget = "writes=1,epochs=2".parse().unwrap();
        assert_eq!(budget, Budget { writes: 1, epochs: 2, ..Budget::NOTHING });
        assert_eq!(budget.to_string(), "writes=1,epochs=2");
        assert!("writes".parse::<Budget>().unwrap_err().contains("NAME=COUNT"));
        assert!("writes=x".parse::<Budget>().unwrap_err().contains("no number"));
        assert!("wishes=1".parse::<Budget>().unwrap_err().contains("there are writes, epochs"));
    }
}
