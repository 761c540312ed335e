//! Three copies with all their threads, joined by streams in memory, and whatever befalls them by chance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokio::task::JoinHandle;
use trine_protocol::{Epoch, NodeName, SyncSetting};
use trine_volume::{Folder, Ino, Kind, Lineage, Medium, Part, Settings, Sizes, Store, Volume, link, steps};

use crate::cuts::Random;
use crate::leader::empty;
use crate::model::{make, write};
use crate::sim::Sim;

const SIZES: Sizes = Sizes {
    segment: 4096,
    mark_every: 500,
    checkpoint_every: 3000,
    step: 400,
    read: 300,
    later: Duration::from_millis(1),
};
const SETTINGS: Settings = Settings { grade: trine_volume::Grade::Disk, retain: 40_000 };

#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many changes, and at the end an acknowledgement is asked for.
    Work(u8),
    /// Changes of which nobody asks whether they are acknowledged.
    Idle(u8),
    /// A standby gets the log no longer.
    Cut(u8),
    /// It gets it again.
    Join(u8),
    /// A node's power fails, and comes back.
    Power(u8, u64),
    /// The primary is replaced; the node of this number is not asked.
    Election(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (1..12_u8).prop_map(Event::Work),
        3 => (1..12_u8).prop_map(Event::Idle),
        1 => (0..3_u8).prop_map(Event::Cut),
        3 => (0..3_u8).prop_map(Event::Join),
        2 => (0..3_u8, any::<u64>()).prop_map(|(node, seed)| Event::Power(node, seed)),
        2 => (0..3_u8).prop_map(Event::Election),
    ]
}

struct Node {
    name: NodeName,
    sim: Sim,
    volume: Volume,
    tasks: Vec<JoinHandle<()>>,
}

struct Cluster {
    nodes: Vec<Node>,
    primary: Option<usize>,
    epoch: u64,
    /// What was acknowledged, by its number in the log: files with what they must have.
    acked: Arc<Mutex<BTreeMap<u64, u8>>>,
    counter: u8,
}

fn start(sim: &Sim) -> Volume {
    steps::running(Arc::new(sim.clone()), SETTINGS, SIZES).unwrap()
}

/// Where two logs part.
fn common(a: &Volume, b: &Volume) -> u64 {
    let ends = |volume: &Volume, lineage: &Lineage| {
        let next = lineage.begins().iter().skip(1).map(|(_, begin)| *begin).collect::<Vec<_>>();
        next.into_iter().chain([volume.log_end().lsn]).collect::<Vec<_>>()
    };
    let (la, lb) = (a.lineage(), b.lineage());
    let (ea, eb) = (ends(a, &la), ends(b, &lb));
    let same = la.begins().iter().zip(lb.begins()).take_while(|(a, b)| a == b).count();
    ea[same - 1].min(eb[same - 1])
}

impl Cluster {
    fn new() -> Self {
        let node = |name: &str| {
            let sim = Sim::new(empty());
            Node { name: name.parse().unwrap(), volume: start(&sim), sim, tasks: Vec::new() }
        };
        let nodes = vec![node("a"), node("b"), node("c")];
        Self { nodes, primary: None, epoch: 1, acked: Arc::default(), counter: 0 }
    }

    async fn cut(&mut self, node: usize) {
        for task in self.nodes[node].tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }

    /// A standby follows, and gives back first what the primary does not have.
    async fn join(&mut self, node: usize) {
        let Some(primary) = self.primary.filter(|p| *p != node) else { return };
        self.cut(node).await;
        let leader = self.nodes[primary].volume.clone();
        let copied = match leader.first() > self.nodes[node].volume.log_end().lsn {
            true => Some(self.rebuild(primary, node).await),
            false => None,
        };
        let volume = self.nodes[node].volume.clone();
        let upto = common(&leader, &volume);
        if upto < volume.log_end().lsn {
            volume.truncate(upto).unwrap();
        }
        let (here, there) = tokio::io::duplex(700);
        let name = self.nodes[node].name.clone();
        let epoch = Epoch(self.epoch);
        let serve = tokio::spawn(async move {
            let _ = link::serve(&leader, &name, there).await;
        });
        let follow = tokio::spawn(async move {
            let ended = link::follow(&volume, epoch, here, || ()).await;
            drop(ended);
        });
        self.nodes[node].tasks = vec![serve, follow];
        if let Some((upto, _stream)) = copied {
            // Before that it is no copy.
            let mut progress = self.nodes[node].volume.progress();
            let there = progress.wait_for(|p| p.durable >= upto);
            tokio::time::timeout(Duration::from_secs(20), there).await.unwrap().unwrap();
        }
    }

    /// What a standby needs is no longer kept: it gets a new copy, of what it has and what it lacks.
    async fn rebuild(&mut self, primary: usize, node: usize) -> (u64, tokio::io::DuplexStream) {
        let (here, there) = tokio::io::duplex(5000);
        let leader = self.nodes[primary].volume.clone();
        tokio::spawn(async move { link::give(&leader, "it", there).await });
        self.nodes[node].volume.end("it is made anew");
        let new = Sim::default();
        let (taken, stream) = link::take(&new, Some(&self.nodes[node].sim), here, |_| ()).await.unwrap();
        self.nodes[node].volume = start(&new);
        self.nodes[node].sim = new;
        (taken.upto, stream)
    }

    async fn power(&mut self, node: usize, seed: u64) {
        self.cut(node).await;
        if self.primary == Some(node) {
            for other in 0..3 {
                self.cut(other).await;
            }
            self.primary = None;
        }
        let mut random = Random(seed | 1);
        let disk = self.nodes[node].sim.disk();
        self.nodes[node].volume.end("its power is gone");
        let kept: Vec<bool> = (0..disk.unsure()).map(|_| random.below(2) == 0).collect();
        let sim = Sim::new(disk.after(|piece| kept[piece]));
        self.nodes[node].volume = start(&sim);
        self.nodes[node].sim = sim;
    }

    /// Two of the three are asked, and the furthest of them leads; the others go on with it at once, or later.
    async fn elect(&mut self, without: usize) {
        for node in 0..3 {
            self.cut(node).await;
        }
        if let Some(old) = self.primary.take() {
            // As its lease has run out.
            self.nodes[old].volume.end("it is fenced");
            let sim = self.nodes[old].sim.clone();
            self.nodes[old].volume = start(&sim);
        }
        let asked = (0..3).filter(|node| *node != without);
        for node in asked.clone() {
            self.nodes[node].volume.flush().unwrap();
        }
        let winner = asked.max_by_key(|node| self.nodes[*node].volume.position()).unwrap();
        self.epoch = (0..3).map(|node| self.nodes[node].volume.lineage().epoch().0).max().unwrap().max(self.epoch) + 1;
        let standbys = (0..3).filter(|node| *node != winner).map(|node| self.nodes[node].name.clone()).collect();
        self.nodes[winner].volume.lead(Epoch(self.epoch)).unwrap();
        self.nodes[winner].volume.set_sync(&SyncSetting::Any { acks: 1, standbys });
        self.primary = Some(winner);
        let loyal = (0..3).find(|node| *node != winner && *node != without).unwrap();
        self.join(loyal).await;
        self.holds(winner);
    }

    /// What was acknowledged is there.
    fn holds(&self, primary: usize) {
        let volume = &self.nodes[primary].volume;
        for (ino, byte) in self.acked.lock().unwrap().iter() {
            let size = volume.look(|tree| tree.size(Ino(*ino)));
            assert_eq!(size, Some(300), "file {ino} was acknowledged, and is lost");
            let marked = volume.look(|tree| tree.lookup(Ino::ROOT, format!("f{byte}").as_bytes()) == Ok(Ino(*ino)));
            assert!(marked, "file {ino} is another's");
        }
    }

    fn work(&mut self, changes: u8, sync: bool) {
        let Some(primary) = self.primary else { return };
        let volume = self.nodes[primary].volume.clone();
        let mut made = Vec::new();
        for _ in 0..changes {
            let progress = *volume.progress().borrow();
            // Without a standby nothing is acknowledged, and there is an end to what may wait.
            if self.counter == 250 || volume.log_end().lsn > progress.applied + SETTINGS.retain / 2 - 2000 {
                break;
            }
            self.counter += 1;
            let byte = self.counter;
            let name = Box::leak(format!("f{byte}").into_boxed_str());
            let ino = volume.look(trine_volume::Tree::next).0;
            volume.change(|_| Ok((make(ino, name, Kind::File), ()))).unwrap();
            volume.change(|_| Ok((write(ino, 0, byte, 300), ()))).unwrap();
            // What all write over.
            if let Some(first) = made.first().map(|(ino, _)| *ino) {
                volume.change(|_| Ok((write(first, 0, made[0].1, 150), ()))).unwrap();
            }
            made.push((ino, byte));
        }
        if sync {
            let acked = self.acked.clone();
            volume.sync(Box::new(move |done| {
                if done.is_ok() {
                    acked.lock().unwrap().extend(made);
                }
            }));
        }
    }

    fn objects(&self, node: usize) -> Vec<(u64, Vec<u8>)> {
        let sim = &self.nodes[node].sim;
        let mut numbers = sim.list(Folder::Objects).unwrap();
        numbers.sort_unstable();
        let read = |number| {
            let part = Part::Object(Ino(number));
            let mut content = vec![0; usize::try_from(sim.length(part).unwrap().unwrap()).unwrap()];
            sim.read(part, 0, &mut content).unwrap();
            (number, content)
        };
        numbers.into_iter().map(read).collect()
    }

    async fn settle(&mut self) {
        self.elect(0).await;
        for node in 0..3 {
            self.join(node).await;
        }
        let primary = self.primary.unwrap();
        self.work(3, true);
        let end = self.nodes[primary].volume.log_end();
        for node in 0..3 {
            // As an agent does: a stream that has ended, because the log is kept no longer, is begun again.
            let mut tries = 0;
            loop {
                let mut progress = self.nodes[node].volume.progress();
                let there = progress.wait_for(|p| p.applied == end.lsn);
                if tokio::time::timeout(Duration::from_millis(200), there).await.is_ok() {
                    break;
                }
                tries += 1;
                assert!(tries < 100, "{node} is at {:?} of {end:?}", *self.nodes[node].volume.progress().borrow());
                if self.nodes[node].tasks.iter().any(JoinHandle::is_finished) {
                    self.join(node).await;
                }
            }
            assert_eq!(self.nodes[node].volume.log_end(), end);
        }
        self.holds(primary);
        let objects = self.objects(primary);
        for (ino, byte) in self.acked.lock().unwrap().iter() {
            let found = objects.iter().find(|(number, _)| number == ino).unwrap();
            assert_eq!(found.1, vec![*byte; 300]);
        }
        for node in 0..3 {
            assert!(self.objects(node) == objects, "the copies differ");
        }
        for node in 0..3 {
            self.cut(node).await;
            self.nodes[node].volume.end("done");
        }
    }
}

/// The same histories in each run; `PROPTEST_CASES` sets another number, of histories that nobody has seen before.
fn config() -> ProptestConfig {
    let default = ProptestConfig { max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var("PROPTEST_CASES") {
        Ok(_) => default,
        Err(_) => ProptestConfig { cases: 120, rng_seed: RngSeed::Fixed(1), ..default },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_befalls_three_copies_nothing_acknowledged_is_lost(events in prop::collection::vec(event(), 5..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut cluster = Cluster::new();
            cluster.elect(2).await;
            for event in events {
                match event {
                    Event::Work(changes) => {
                        cluster.work(changes, true);
                        tokio::time::sleep(Duration::from_millis(4)).await;
                    }
                    Event::Idle(changes) => cluster.work(changes, false),
                    Event::Cut(node) => cluster.cut(node.into()).await,
                    Event::Join(node) => cluster.join(node.into()).await,
                    Event::Power(node, seed) => cluster.power(node.into(), seed).await,
                    Event::Election(without) => cluster.elect(without.into()).await,
                }
            }
            cluster.settle().await;
        });
    }
}
