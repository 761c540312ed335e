//! One client's session with a simulated database: a line for each request, a line for each answer.
//!
//! | request | answer |
//! |---|---|
//! | `append V` | `done` once the sync rule is met |
//! | `list` | `list LENGTH LAST`, of what readers see |
//! | `write K V` | `done` |
//! | `read K` | `value V` |
//!
//! `refused WHY`: certainly not done. `perhaps …` in front of a read: somebody has cancelled a wait, so PostgreSQL shows what
//! the standbys may not have. A session that just ends leaves it open.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::time::sleep;
use trine_engine::Role;

use super::database::Kind;
use super::world::{Shared, World, lock};

/// What a request comes to.
enum Step {
    Answer(String),
    /// The commit stands at this place of the log.
    Wait(usize),
    /// It has to wait: the database does not move.
    Hung,
    /// The session is over.
    Over,
}

/// Serves until the client or the database goes.
pub(super) async fn serve(world: Shared, i: usize, life: u64, stream: DuplexStream) {
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => line,
                _ => return,
            },
            () = ended(&world, i, life) => return,
        };
        let Some(answer) = answer(&world, i, life, &line).await else { return };
        if write.write_all(answer.as_bytes()).await.is_err() || write.write_all(b"\n").await.is_err() {
            return;
        }
    }
}

async fn ended(world: &Shared, i: usize, life: u64) {
    let mut process = lock(world).machine(i).db.process.subscribe();
    while lock(world).machine(i).db.life == life {
        if process.changed().await.is_err() {
            return;
        }
    }
}

async fn answer(world: &Shared, i: usize, life: u64, line: &str) -> Option<String> {
    let place = loop {
        let step = step(&mut lock(world), i, life, line);
        match step {
            Step::Answer(answer) => return Some(answer),
            Step::Wait(place) => break place,
            Step::Over => return None,
            Step::Hung => sleep(Duration::from_millis(1)).await,
        }
    };
    loop {
        {
            let mut world = lock(world);
            let db = &world.machine(i).db;
            if db.life != life {
                return None;
            }
            if db.released >= place {
                return Some("done".to_owned());
            }
            if db.shown >= place {
                // Its wait was cancelled: the endpoint does not let the answer pass.
                return None;
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
}

fn step(world: &mut World, i: usize, life: u64, line: &str) -> Step {
    let db = &world.machine(i).db;
    if db.life != life || !db.runs() || db.stopping {
        return Step::Over;
    }
    if db.habits.hung {
        return Step::Hung;
    }
    let perhaps = if db.shows_too_much() { "perhaps " } else { "" };
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    let kind = match words.first() {
        Some(&"list") => {
            let (length, last) = db.list();
            return Step::Answer(format!("{perhaps}list {length} {}", last.unwrap_or(0)));
        }
        Some(&"read") => {
            return Step::Answer(format!("{perhaps}value {}", db.register(number(1)).unwrap_or(0)));
        }
        Some(&"append") => Kind::Append(number(1)),
        Some(&"write") => Kind::Write { key: number(1), value: number(2) },
        _ => return Step::Answer("refused what is that?".to_owned()),
    };
    if db.role != Role::Primary {
        return Step::Answer("refused it is a standby".to_owned());
    }
    let semisync = world.product.is_semisync();
    let db = &world.machine(i).db;
    if semisync && !db.semi.open {
        return Step::Answer("refused it takes no writes yet".to_owned());
    }
    if db.habits.full && !semisync {
        // PostgreSQL panics when its log can't be written.
        world.machine(i).db.kill();
        let text = format!("the database of {} dies: its disk is full", world.name(i));
        world.tell(text);
        return Step::Over;
    }
    Step::Wait(world.append(i, kind))
}
