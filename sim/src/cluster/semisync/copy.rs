//! A new copy of the primary's data, made beside the old one.

use tokio::sync::watch;
use tokio::time::sleep;
use trine_engine::{CopyId, EngineError, Progress, Upstream};

use super::super::database::Entry;
use super::super::handle::{Handle, LOOK};
use super::super::product::Product;
use super::super::world::MS;

/// How long a standby whose copy is good may take to come back, which ends a wait of commits in the best way.
const BACK: u64 = 15_000 * MS;

fn failed(output: String) -> EngineError {
    EngineError::Tool { tool: "copy", output }
}

/// May the data be copied from there now? Which node it is, and which life of its database.
fn source(hand: &Handle, upstream: &Upstream) -> Result<(usize, u64), EngineError> {
    hand.with(|w, i| {
        let up = w.index(&upstream.node).ok_or_else(|| failed(format!("{} is unknown", upstream.node)))?;
        if !w.reaches(up, i) {
            return Err(failed(format!("{} can't be reached", upstream.node)));
        }
        let db = &w.machine(up).db;
        if !db.leads() || db.habits.hung {
            return Err(failed(format!("{} is not the primary", upstream.node)));
        }
        Ok((up, db.life))
    })
}

/// Nothing can be copied while commits wait, and they may wait for what would come of the copy: a primary of which nobody has been
/// there to acknowledge them for long begins anew.
#[derive(Default)]
struct Stuck {
    since: Option<u64>,
}

impl Stuck {
    /// Whether it is so now; an error once it was so for long.
    fn look(&mut self, hand: &Handle, upstream: &Upstream) -> Result<bool, EngineError> {
        let (up, _) = source(hand, upstream)?;
        let (stuck, now) = hand.with(|w, _| (!w.is_acknowledged(up) && w.commits_wait(up), w.now));
        if !stuck {
            self.since = None;
            return Ok(false);
        }
        if now - *self.since.get_or_insert(now) < BACK {
            return Ok(true);
        }
        hand.with(|w, _| {
            w.tell(format!("commits of {} wait for nobody: its database is ended, to be copied", w.name(up)));
            w.machine(up).db.kill();
        });
        Err(failed("commits wait for a standby; it starts anew, to be copied".to_owned()))
    }
}

async fn wait_while_stuck(hand: &Handle, upstream: &Upstream) -> Result<(), EngineError> {
    let mut stuck = Stuck::default();
    while stuck.look(hand, upstream)? {
        sleep(LOOK * 100).await;
    }
    Ok(())
}

/// What the primary has committed, once nothing that it had written waits any more.
async fn committed(hand: &Handle, upstream: &Upstream) -> Result<Vec<Entry>, EngineError> {
    let began = source(hand, upstream)?;
    let written = hand.with(|w, _| w.machine(began.0).db.log.len());
    let mut stuck = Stuck::default();
    loop {
        let (up, life) = source(hand, upstream)?;
        if life != began.1 {
            return Err(failed("the primary has restarted".to_owned()));
        }
        let found = hand.with(|w, _| {
            let (now, product) = (w.now, w.product);
            let db = &mut w.machine(up).db;
            if product == Product::MariaDb {
                db.semi.held_up = now + 5 * MS;
            }
            let visible = db.visible();
            (visible >= written).then(|| db.log.get(..visible).unwrap_or_default().to_vec())
        });
        match found {
            Some(found) => return Ok(found),
            None => sleep(LOOK).await,
        }
        stuck.look(hand, upstream)?;
    }
}

/// Makes it, and puts it in the old one's place.
pub(super) async fn copy_from(
    hand: &Handle,
    upstream: &Upstream,
    identity: Option<CopyId>,
    progress: &watch::Sender<Progress>,
) -> Result<(), EngineError> {
    wait_while_stuck(hand, upstream).await?;
    let (up, life) = source(hand, upstream)?;
    let id = hand.with(|w, _| w.machine(up).db.id);
    if let Some(expected) = identity.filter(|e| Some(e.0) != id) {
        let found = CopyId(id.unwrap_or(0));
        return Err(EngineError::OtherCluster { what: "the primary".to_owned(), found, expected });
    }
    let parts = hand.with(|w, _| w.between(2, 8));
    for part in 0..parts {
        let phase = "copying".to_owned();
        progress.send_replace(Progress { phase, done: part * 1000, total: Some(parts * 1000) });
        hand.works(10, 60).await;
        if hand.with(|w, i| w.machine(i).db.habits.full) {
            return Err(hand.full());
        }
        if source(hand, upstream)?.1 != life {
            return Err(failed("the primary has restarted".to_owned()));
        }
    }
    let log = committed(hand, upstream).await?;
    hand.with(|w, i| {
        let db = &mut w.machine(i).db;
        db.kill();
        db.replace(log);
        db.replayed = db.log.len();
        db.id = id;
        w.tell(format!("{} has a new copy of the data of {}", w.name(i), w.name(up)));
    });
    Ok(())
}
