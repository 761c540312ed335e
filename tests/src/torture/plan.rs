//! Which faults, in which order, on whom, and for how long: drawn from a seed.
//!
//! A seed gives one plan, bit for bit, on every machine and in every build. What the faults meet is not so: real processes and
//! real time are as they are, so the same seed need not find the same thing twice.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::kind::{Kind, OF_ALL, OF_ONE_NODE, ORDERS, Role};

/// One fault of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// What happens.
    pub kind: Kind,
    /// Decides whatever is left open: which process, which peer, how many packets.
    pub salt: u32,
}

/// Faults that are there at the same time. Those that strike a node strike the same one, so that a majority lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Whom they strike.
    pub on: Role,
    /// Decides which standby.
    pub salt: u32,
    /// What happens, in this order.
    pub faults: Vec<Planned>,
    /// How long it lasts, in milliseconds.
    pub hold_ms: u64,
    /// How long the cluster is then left alone, in milliseconds.
    pub rest_ms: u64,
    /// The next step waits until the cluster is healthy. Otherwise only until clients write again, so the next fault meets
    /// a cluster that is still being repaired.
    pub until_healthy: bool,
}

/// The steps of a seed, without end.
#[derive(Clone, Debug)]
pub struct Plan {
    engine: Engine,
    random: ChaCha8Rng,
    /// What is dealt out next: every kind on every role comes once before any comes again.
    deck: Vec<(Kind, Role)>,
}

impl Plan {
    /// The plan of this seed for a cluster of this engine.
    #[must_use]
    pub fn new(seed: u64, engine: Engine) -> Self {
        Self { engine, random: ChaCha8Rng::seed_from_u64(seed), deck: Vec::new() }
    }

    /// Steps with together this many faults, or one or two more.
    #[must_use]
    pub fn faults(self, number: usize) -> Vec<Step> {
        let mut planned = 0;
        self.take_while(|step| {
            let wanted = planned < number;
            planned += step.faults.len();
            wanted
        })
        .collect()
    }

    /// A number below `limit`. The few that are a little more likely do no harm here, and it never changes with a library.
    fn below(&mut self, limit: u64) -> u64 {
        self.random.next_u64() % limit.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.below(from.len() as u64);
        from[usize::try_from(at).unwrap_or(0)]
    }

    fn deal(&mut self) -> (Kind, Role) {
        if self.deck.is_empty() {
            let on_one = OF_ONE_NODE.iter().flat_map(|k| [(*k, Role::Primary), (*k, Role::Standby)]);
            let orders = ORDERS.iter().map(|k| (*k, Role::Cluster));
            let of_all = OF_ALL.iter().map(|k| (*k, Role::Cluster));
            let engine = self.engine;
            self.deck = on_one.filter(|(k, on)| engine.strikes(*k, *on)).chain(orders).chain(of_all).collect();
            for at in (1..self.deck.len()).rev() {
                let other = usize::try_from(self.below(at as u64 + 1)).unwrap_or(0);
                self.deck.swap(at, other);
            }
        }
        self.deck.pop().unwrap_or((Kind::Switchover, Role::Cluster))
    }

    /// What else happens at the same time.
    fn company(&mut self, first: Kind, on: Role) -> Vec<Kind> {
        let mut others = Vec::new();
        // A rolling restart waits for health between the nodes: nothing else may keep it from that.
        if first == Kind::RollingRestart || !self.one_in(3) {
            return others;
        }
        let more = 1 + self.below(2);
        for _ in 0..more {
            let kind = if on == Role::Cluster || self.one_in(3) {
                self.pick(&[Kind::Switchover, Kind::Failover, Kind::Rebuild])
            } else {
                let possible: Vec<Kind> = OF_ONE_NODE.into_iter().filter(|k| self.engine.strikes(*k, on)).collect();
                self.pick(&possible)
            };
            if kind != first && !others.contains(&kind) && !(first.is_order() && kind.is_order()) {
                others.push(kind);
            }
        }
        others
    }

    /// Shorter and longer than each of the cluster's own deadlines: the lease (1 s), a hung disk (5 s), the sync rule's grace (10 s).
    fn hold_ms(&mut self, kinds: &[Kind]) -> u64 {
        if kinds == [Kind::RollingRestart] {
            return 0;
        }
        let lengths = [200, 400, 800, 1500, 2500, 4000, 7000, 11_000];
        let long = kinds.iter().any(|k| matches!(k, Kind::DiskHangs | Kind::NodeLost | Kind::Isolated));
        self.pick(&lengths[..if long { 8 } else { 7 }]) + self.below(300)
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let (first, on) = self.deal();
        let mut kinds = vec![first];
        kinds.extend(self.company(first, on));
        // Half of the orders are given to a cluster that is in trouble already, the others just before it is.
        if self.one_in(2) {
            kinds.sort_by_key(|k| k.is_order());
        } else {
            kinds.sort_by_key(|k| !k.is_order());
        }
        let hold_ms = self.hold_ms(&kinds);
        let faults = kinds.into_iter().map(|kind| Planned { kind, salt: self.random.next_u32() }).collect();
        let (salt, rest_ms) = (self.random.next_u32(), self.below(1000));
        Some(Step { on, salt, faults, hold_ms, rest_ms, until_healthy: !self.one_in(8) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_plan() {
        let steps = |seed| Plan::new(seed, Engine::Postgres).take(200).collect::<Vec<_>>();
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }

    /// A recorded run can be planned again years later only if this never changes.
    #[test]
    fn the_plan_of_a_seed_is_the_same_in_every_build() {
        let first: Vec<String> =
            Plan::new(1, Engine::Postgres).take(3).map(|s| serde_json::to_string(&s).unwrap()).collect();
        assert_eq!(first, FIRST_OF_SEED_1);
    }

    const FIRST_OF_SEED_1: [&str; 3] = [
        r#"{"on":"cluster","salt":4278632673,"faults":[{"kind":"two_lost","salt":4287313479}],"hold_ms":7046,"rest_ms":32,"until_healthy":false}"#,
        r#"{"on":"cluster","salt":279800849,"faults":[{"kind":"failover","salt":3439490093}],"hold_ms":4111,"rest_ms":59,"until_healthy":true}"#,
        r#"{"on":"primary","salt":1640145844,"faults":[{"kind":"mute","salt":3623157048},{"kind":"failover","salt":929662623}],"hold_ms":1028,"rest_ms":162,"until_healthy":true}"#,
    ];

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        for (engine, of_one_node) in [(Engine::Postgres, 44), (Engine::Redis, 35)] {
            let cards = of_one_node + ORDERS.len() + OF_ALL.len();
            let mut dealt = Plan::new(3, engine);
            let mut first: Vec<_> = (0..cards).map(|_| dealt.deal()).collect();
            first.sort();
            first.dedup();
            assert_eq!(first.len(), cards, "{engine:?}");
        }
    }

    #[test]
    fn a_majority_lives_unless_the_fault_is_its_loss() {
        for step in Plan::new(4, Engine::Redis).take(2000) {
            let of_all = step.faults.iter().filter(|f| !f.kind.leaves_a_majority()).count();
            let of_one = step.faults.iter().filter(|f| OF_ONE_NODE.contains(&f.kind)).count();
            assert!(of_all == 0 || of_one == 0, "{step:?}");
            assert!(of_all <= 1 && step.faults.len() <= 3, "{step:?}");
            assert!(of_one == 0 || step.on != Role::Cluster, "{step:?}");
        }
    }

    #[test]
    fn nothing_is_planned_that_cannot_be() {
        for step in Plan::new(6, Engine::Redis).take(2000) {
            assert!(step.faults.iter().all(|f| Engine::Redis.strikes(f.kind, step.on)), "{step:?}");
        }
    }

    #[test]
    fn as_many_faults_as_were_asked_for() {
        for n in [1, 20, 300] {
            let planned: usize = Plan::new(5, Engine::Postgres).faults(n).iter().map(|s| s.faults.len()).sum();
            assert!((n..n + 3).contains(&planned), "{planned} of {n}");
        }
    }
}
