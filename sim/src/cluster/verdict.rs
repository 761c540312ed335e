//! What must be so at the end.

use trine_engine::DataCopy;
use trine_history::{list, register};

use super::client::Notes;
use super::database::{Database, Kind};
use super::fault::{Fault, Plan};
use super::product::Product;
use super::world::World;

/// Everything that is not as it must be.
pub(super) fn judge(world: &World, notes: &Notes, plan: &Plan) -> Vec<String> {
    let mut failures = world.violations.clone();
    let Some(primary) = primary(world) else { return vec!["there is no primary".to_owned()] };
    let list: Vec<u64> = primary
        .log
        .iter()
        .filter_map(|e| match e.kind {
            Kind::Append(value) => Some(value),
            _ => None,
        })
        .collect();
    failures.extend(list::check(&notes.appends, &notes.reads, &list).iter().take(5).map(ToString::to_string));
    for (key, operations) in &notes.registers {
        failures.extend(register::check(operations).err().map(|f| format!("register {key}: {f}")));
    }
    // With more acknowledgements asked for than one, a standby shows commits that are not acknowledged yet: PostgreSQL's own
    // habit. And who cancels a wait gets what he asks for.
    let cancelled = plan.steps.iter().any(|s| s.fault == Fault::WaitsCancelled) && plan.product != Product::MySql;
    if plan.acks == 1 && !cancelled {
        let dirty = notes.standby_reads.iter().filter(|r| match r.length.checked_sub(1) {
            None => r.last.is_some(),
            Some(at) => list.get(at).copied() != r.last,
        });
        failures.extend(dirty.take(3).map(|r| format!("a standby showed what was taken back: {r:?}")));
    }
    failures
}

/// The node whose database is the newest primary.
fn newest(world: &World) -> Option<usize> {
    let leading = world.machines.iter().enumerate().filter(|(_, m)| m.db.leads());
    leading.max_by_key(|(_, m)| m.db.epoch).map(|(i, _)| i)
}

fn primary(world: &World) -> Option<&Database> {
    world.machines.get(newest(world)?).map(|m| &m.db)
}

/// One primary, and all others stream from it.
pub(super) fn is_whole(world: &World) -> bool {
    let Some(primary) = primary(world) else { return false };
    let follows = |db: &Database| db.runs() && db.copy == DataCopy::Complete && db.streams();
    let follows = world.machines.iter().filter(|m| follows(&m.db)).count();
    let takers = match world.product.is_semisync() {
        true => newest(world).map_or(0, |i| world.takers(i)),
        false => primary.confirmed.len(),
    };
    follows + 1 == world.machines.len() && takers + 1 == world.machines.len()
}

/// All copies are the same.
pub(super) fn is_equal(world: &World) -> bool {
    let Some(primary) = primary(world) else { return false };
    let all = primary.flushed == primary.log.len() && primary.visible() == primary.log.len();
    let all = all && primary.semi.pending.is_empty();
    all && world.machines.iter().all(|m| m.db.flushed == m.db.log.len() && m.db.log == primary.log)
}

/// How things are, for whoever wonders why it is not well.
pub(super) fn condition(world: &World) -> String {
    let machine = |m: &super::world::Machine| {
        let db = &m.db;
        let what = match (db.runs(), db.leads(), &db.receiver) {
            (false, ..) => "stopped".to_owned(),
            (true, true, _) => format!("primary of {} under {:?}, confirmed {:?}", db.epoch, db.settings, db.confirmed),
            (true, false, Some(r)) => format!("follows n{} in {} ({:?})", r.upstream + 1, r.epoch, r.link),
            (true, false, None) => "sealed".to_owned(),
        };
        let (name, log, flushed) = (&m.name, db.log.len(), db.flushed);
        if world.product.is_semisync() {
            let (applied, semi) = (db.replayed, db.semi.condition());
            return format!("{name} {what}, {:?}, {flushed} of {log} on disk, {applied} applied, {semi}", db.copy);
        }
        format!("{name} {what}, {:?}, {flushed} of {log} on disk, timeline {}", db.copy, db.timeline())
    };
    world.machines.iter().map(machine).collect::<Vec<_>>().join("; ")
}
