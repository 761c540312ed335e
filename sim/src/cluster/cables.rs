//! The cables: which of them are cut or stand still, told to turmoil.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use turmoil::Sim;

/// What a pair of hosts is to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cable {
    #[default]
    Whole,
    /// What is sent arrives when it goes on.
    Still,
    /// What is sent is lost: from the first to the second, and back.
    Cut(bool, bool),
}

/// All cables, as turmoil has been told.
#[derive(Debug, Default)]
pub(super) struct Cables {
    told: BTreeMap<(IpAddr, IpAddr), Cable>,
}

impl Cables {
    /// Tells turmoil what has changed: `cut` from whom to whom, and who of them stands `still`.
    pub(super) fn set(
        &mut self,
        sim: &Sim<'_>,
        hosts: &[IpAddr],
        cut: &BTreeSet<(IpAddr, IpAddr)>,
        still: &BTreeSet<IpAddr>,
    ) {
        for (k, a) in hosts.iter().enumerate() {
            for b in hosts.iter().skip(k + 1) {
                let (there, back) = (cut.contains(&(*a, *b)), cut.contains(&(*b, *a)));
                let wanted = match (there || back, still.contains(a) || still.contains(b)) {
                    (true, false) => Cable::Cut(there, back),
                    (true, true) => Cable::Cut(true, true),
                    (false, true) => Cable::Still,
                    (false, false) => Cable::Whole,
                };
                let told = self.told.entry((*a, *b)).or_default();
                if *told == wanted {
                    continue;
                }
                if *told == Cable::Still {
                    sim.release(*a, *b);
                }
                match wanted {
                    Cable::Whole => sim.repair(*a, *b),
                    Cable::Still => sim.hold(*a, *b),
                    Cable::Cut(there, back) => {
                        sim.repair(*a, *b);
                        if there {
                            sim.partition_oneway(*a, *b);
                        }
                        if back {
                            sim.partition_oneway(*b, *a);
                        }
                    }
                }
                *told = wanted;
            }
        }
    }

    /// Mends what packet loss has broken.
    pub(super) fn mend(&self, sim: &Sim<'_>) {
        for ((a, b), _) in self.told.iter().filter(|(_, cable)| **cable == Cable::Whole) {
            sim.repair(*a, *b);
        }
    }
}
