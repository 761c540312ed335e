//! What goes wrong in a run begins, lasts and is over.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use trine_api::Request;

use super::fault::{Fault, Step, Who};
use super::node::{address, name};
use super::product::Product;
use super::simulation::Simulation;
use super::world::{MS, lock};

impl Simulation<'_> {
    fn who(&self, who: Who) -> usize {
        let world = lock(&self.world);
        let leading = world.machines.iter().enumerate().filter(|(_, m)| m.db.leads());
        let primary = leading.max_by_key(|(_, m)| m.db.epoch).map_or(0, |(i, _)| i);
        match who {
            Who::Node(i) => i,
            Who::Primary => primary,
            Who::Standby(k) => (primary + 1 + k % (self.plan.nodes - 1)) % self.plan.nodes,
        }
    }

    pub(super) fn begin(&mut self, step: Step) {
        use Fault::{
            AgentFrozen, AgentKilled, AgentsCut, AllOff, DatabaseHangs, DatabaseKilled, Deaf, DiskFull, DiskHangs,
            DiskSlow, Failover, Isolated, Lossy, MachineFrozen, Mute, OneWay, Pair, Paused, PowerOff, Rebuild,
            RefusesStart, ReplicationCut, SlowNetwork, SlowReplay, Switchover, WaitsCancelled, WallClock, Wiped,
        };
        let i = match step.fault {
            PowerOff(who)
            | Wiped(who)
            | AgentKilled(who)
            | AgentFrozen(who)
            | MachineFrozen(who)
            | DatabaseKilled(who)
            | DatabaseHangs(who)
            | DiskSlow(who, _)
            | DiskHangs(who)
            | DiskFull(who)
            | SlowReplay(who)
            | RefusesStart(who, _)
            | WallClock(who, _)
            | Isolated(who)
            | Deaf(who)
            | Mute(who)
            | AgentsCut(who)
            | ReplicationCut(who) => self.who(who),
            // With PostgreSQL it has been the first node in all recorded seeds, which stay what they are.
            AllOff(who, _) if self.plan.product.is_semisync() => self.who(who),
            _ => 0,
        };
        let text = format!("FAULT for {} ms: {:?} (n{})", step.lasts, step.fault, i + 1);
        let now = {
            let world = lock(&self.world);
            world.tell(text);
            world.now
        };
        match step.fault {
            PowerOff(_) | Wiped(_) => self.power_off(i),
            AllOff(last, later) => {
                (0..self.plan.nodes).for_each(|i| self.power_off(i));
                // The last one is as if its own power had gone off for longer.
                let step = Step { lasts: step.lasts + later, fault: PowerOff(last), ..step };
                self.active.push((now + step.lasts * MS, step, i));
            }
            AgentKilled(_) => self.agent_down(i),
            DatabaseKilled(_) => lock(&self.world).machine(i).db.kill(),
            RefusesStart(_, times) => {
                let mut world = lock(&self.world);
                let db = &mut world.machine(i).db;
                db.habits.refuses = times;
                db.kill();
            }
            // MySQL goes on waiting.
            WaitsCancelled if self.plan.product == Product::MySql => {}
            WaitsCancelled => {
                for machine in &mut lock(&self.world).machines {
                    machine.db.shown = machine.db.log.len();
                }
            }
            WallClock(_, by) => lock(&self.world).machine(i).clock.set_wall(by),
            Lossy(permille) => self.sim.set_fail_rate(f64::from(permille) / 1000.0),
            Switchover(to) => self.ask(Request::Switchover { to: to.and_then(name) }),
            Failover => self.ask(Request::Failover { to: None }),
            Rebuild(node) => {
                if let Some(node) = name(node) {
                    self.ask(Request::Rebuild { node });
                }
            }
            Paused => self.ask(Request::Pause { reason: "a simulation".to_owned() }),
            AgentFrozen(_) | MachineFrozen(_) | DatabaseHangs(_) | DiskSlow(..) | DiskHangs(_) | DiskFull(_)
            | SlowReplay(_) | Isolated(_) | Deaf(_) | Mute(_) | AgentsCut(_) | ReplicationCut(_) | Pair(..)
            | OneWay(..) | SlowNetwork(_) => {}
        }
        self.active.push((now + step.lasts * MS, step, i));
        self.settle();
    }

    fn ask(&self, request: Request) {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner).push_back(request);
    }

    /// What has lasted long enough ends.
    pub(super) fn over(&mut self, now: u64) {
        let (over, active): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.active).into_iter().partition(|(u, ..)| *u <= now);
        self.active = active;
        if over.is_empty() {
            return;
        }
        for (_, step, i) in over {
            lock(&self.world).tell(format!("over: {:?} (n{})", step.fault, i + 1));
            match step.fault {
                Fault::PowerOff(_) => self.power_on(i),
                Fault::Wiped(_) => {
                    let wiped = {
                        let mut world = lock(&self.world);
                        let machine = world.machine(i);
                        // Somebody else may have switched it on meanwhile.
                        let off = !machine.on;
                        if off {
                            machine.disk.wipe();
                            machine.db.wipe();
                        }
                        off
                    };
                    if wiped {
                        self.power_on(i);
                    }
                }
                Fault::AllOff(..) => (0..self.plan.nodes).filter(|k| *k != i).for_each(|i| self.power_on(i)),
                Fault::AgentKilled(_) => self.agent_up(i),
                Fault::Lossy(_) => {
                    self.sim.set_fail_rate(0.0);
                    self.cables.mend(&self.sim);
                }
                Fault::RefusesStart(..) => lock(&self.world).machine(i).db.habits.refuses = 0,
                Fault::Paused => self.ask(Request::Resume),
                _ => {}
            }
        }
        self.settle();
    }

    /// What lasts is as what is active says.
    fn settle(&mut self) {
        let mut world = lock(&self.world);
        let faults: Vec<(Fault, usize)> = self.active.iter().map(|(_, s, i)| (s.fault, *i)).collect();
        let any = |i: usize, is: fn(Fault) -> bool| faults.iter().any(|(f, k)| *k == i && is(*f));
        let mut still = BTreeSet::new();
        for i in 0..self.plan.nodes {
            let agent = any(i, |f| matches!(f, Fault::AgentFrozen(_)));
            let machine = any(i, |f| matches!(f, Fault::MachineFrozen(_)));
            let hung = any(i, |f| matches!(f, Fault::DatabaseHangs(_) | Fault::DiskHangs(_)));
            let full = any(i, |f| matches!(f, Fault::DiskFull(_)));
            let slow = faults.iter().filter_map(|(f, k)| match f {
                Fault::DiskSlow(_, ms) if *k == i => Some(*ms),
                _ => None,
            });
            let slow = slow.max().unwrap_or(1);
            let m = world.machine(i);
            if (agent || machine) != (m.agent_frozen || m.frozen) {
                m.clock.freeze(agent || machine);
            }
            (m.agent_frozen, m.frozen) = (agent, machine);
            m.db.habits.hung = hung;
            m.db.habits.full = full;
            m.db.habits.slow_replay = any(i, |f| matches!(f, Fault::SlowReplay(_)));
            m.db.slow_flush = slow.max(self.plan.sync);
            m.disk.set_full(full);
            m.disk.set_slowness(if any(i, |f| matches!(f, Fault::DiskHangs(_))) { None } else { Some(slow) });
            if agent || machine {
                still.insert(address(i));
            }
        }
        let nodes = self.plan.nodes;
        let mut cut: BTreeSet<(usize, usize)> = BTreeSet::new();
        // Between the agents only.
        let mut apart: BTreeSet<(usize, usize)> = BTreeSet::new();
        // Between the databases only.
        let mut streams: BTreeSet<(usize, usize)> = BTreeSet::new();
        // Clients are behind the same cables as the other nodes.
        let all = 0..self.hosts.len();
        for (fault, i) in &faults {
            match *fault {
                Fault::Isolated(_) => {
                    cut.extend(all.clone().filter(|k| k != i).flat_map(|k| [(*i, k), (k, *i)]));
                }
                Fault::Deaf(_) => cut.extend(all.clone().filter(|k| k != i).map(|k| (k, *i))),
                Fault::Mute(_) => cut.extend(all.clone().filter(|k| k != i).map(|k| (*i, k))),
                Fault::AgentsCut(_) => apart.extend((0..nodes).filter(|k| k != i).flat_map(|k| [(*i, k), (k, *i)])),
                Fault::ReplicationCut(_) => {
                    streams.extend((0..nodes).filter(|k| k != i).flat_map(|k| [(*i, k), (k, *i)]));
                }
                Fault::Pair(a, b) => cut.extend([(a, b), (b, a)]),
                Fault::OneWay(a, b) => cut.extend([(a, b)]),
                _ => {}
            }
        }
        let host = |k: usize| self.hosts.get(k).copied();
        let wires = cut.iter().chain(&apart).filter_map(|(a, b)| Some((host(*a)?, host(*b)?))).collect();
        world.apart = apart;
        world.cut = cut.into_iter().chain(streams).filter(|(a, b)| *a < nodes && *b < nodes).collect();
        let slowest = faults.iter().filter_map(|(f, _)| match f {
            Fault::SlowNetwork(ms) => Some(*ms),
            _ => None,
        });
        let slowest = slowest.max().unwrap_or(2);
        world.slowest = slowest * 1000;
        drop(world);
        self.sim.set_max_message_latency(Duration::from_millis(slowest));
        self.cables.set(&self.sim, &self.hosts, &wires, &still);
    }

    fn power_off(&mut self, i: usize) {
        self.agent_down(i);
        lock(&self.world).power_off(i);
    }

    fn power_on(&mut self, i: usize) {
        lock(&self.world).machine(i).on = true;
        self.agent_up(i);
    }

    fn agent_down(&mut self, i: usize) {
        if self.down.insert(i) {
            lock(&self.world).machine(i).agent_up = false;
            self.sim.crash(address(i));
        }
    }

    fn agent_up(&mut self, i: usize) {
        let on = lock(&self.world).machine(i).on;
        if on && self.down.remove(&i) {
            lock(&self.world).machine(i).agent_up = true;
            self.sim.bounce(address(i));
        }
    }
}
