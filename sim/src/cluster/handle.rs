//! One node's simulated database in the agent's hand: what every product's engine does alike.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use trine_engine::{CopyId, DataCopy, EngineError, Inspection, Process, Role};
use trine_platform::BoxStream;
use trine_protocol::Moment;

use super::session;
use super::world::{Shared, World, lock};

/// How often something that takes its time is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// What an inspection takes at most, as the trait says.
const INSPECTION: Duration = Duration::from_millis(300);

/// One node's database.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) world: Shared,
    /// Whose.
    pub(super) i: usize,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.i)
    }
}

impl Handle {
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut World, usize) -> T) -> T {
        f(&mut lock(&self.world), self.i)
    }

    /// Something takes so long, in milliseconds, and longer while the agent or its machine stands still.
    pub(super) async fn takes(&self, least: u64, most: u64) {
        let time = self.with(|w, _| w.between(least, most));
        sleep(Duration::from_millis(time)).await;
        while self.with(|w, i| w.machine(i).agent_frozen || w.machine(i).frozen) {
            sleep(LOOK).await;
        }
    }

    /// The same, and it needs the disk.
    pub(super) async fn works(&self, least: u64, most: u64) {
        self.takes(least, most).await;
        while self.with(|w, i| w.machine(i).db.habits.hung) {
            sleep(LOOK).await;
        }
    }

    /// It must run, as this.
    pub(super) fn running_as(&self, needed: Role, operation: &'static str) -> Result<u64, EngineError> {
        self.with(|w, i| {
            let db = &w.machine(i).db;
            match db.runs() {
                false => Err(EngineError::NotRunning),
                true if db.role != needed => Err(EngineError::WrongRole { operation, found: db.role, needed }),
                true => Ok(db.life),
            }
        })
    }

    /// Waits until `done` says something; an end of the database's life ends the wait.
    pub(super) async fn wait<T>(
        &self,
        life: u64,
        mut done: impl FnMut(&mut World, usize) -> Option<T>,
    ) -> Result<T, EngineError> {
        loop {
            let found = self.with(|w, i| {
                if w.machine(i).db.life != life {
                    return Err(EngineError::NotRunning);
                }
                Ok(done(w, i))
            })?;
            match found {
                Some(found) => return Ok(found),
                None => sleep(LOOK).await,
            }
        }
    }

    pub(super) async fn inspect(&self, look: impl FnOnce(&mut World, usize) -> Inspection) -> Inspection {
        self.takes(0, 2).await;
        if self.with(|w, i| w.machine(i).db.runs() && w.machine(i).db.habits.hung) {
            sleep(INSPECTION).await;
        }
        self.with(look)
    }

    pub(super) async fn identity(&self) -> Option<CopyId> {
        self.takes(0, 2).await;
        self.with(|w, i| w.machine(i).db.id.map(CopyId))
    }

    pub(super) async fn bootstrap(&self) -> CopyId {
        self.works(20, 100).await;
        self.with(|w, i| {
            let id = w.between(1, u64::MAX - 1);
            let db = &mut w.machine(i).db;
            if db.copy == DataCopy::Missing {
                db.replace(Vec::new());
                db.id = Some(id);
                w.tell(format!("{} has made the first copy", w.name(i)));
            }
            CopyId(w.machine(i).db.id.unwrap_or(id))
        })
    }

    pub(super) fn kill(&self) {
        self.with(|w, i| {
            let machine = w.machine(i);
            if machine.agent_frozen || machine.frozen {
                // It is done when the agent runs again.
                machine.late_kill = true;
            } else {
                machine.db.kill();
            }
        });
    }

    pub(super) fn push(&self, deadline: Moment) {
        self.with(|w, i| {
            let machine = w.machine(i);
            let clock = machine.clock.read();
            let guard = &mut machine.db.guard;
            // One that has passed can't be taken back.
            if guard.is_none_or(|g| g > clock) {
                *guard = Some(guard.unwrap_or(0).max(deadline.as_nanos()));
            }
        });
    }

    pub(super) fn process(&self) -> watch::Receiver<Process> {
        self.with(|w, i| w.machine(i).db.process.subscribe())
    }

    pub(super) async fn connect(&self) -> io::Result<BoxStream> {
        self.takes(0, 2).await;
        let life = self.with(|w, i| {
            let db = &w.machine(i).db;
            db.runs().then_some(db.life)
        });
        let life = life.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(session::serve(self.world.clone(), self.i, life, far));
        Ok(Box::new(near))
    }

    /// What has to be so before a database starts. False: it runs already.
    pub(super) fn may_start(&self) -> Result<bool, EngineError> {
        self.with(|w, i| {
            let db = &mut w.machine(i).db;
            match &db.copy {
                DataCopy::Missing => return Err(EngineError::NoCopy("data".into())),
                DataCopy::Incomplete(why) => {
                    return Err(EngineError::IncompleteCopy { path: "data".into(), why: why.clone() });
                }
                DataCopy::Complete => {}
            }
            if db.runs() {
                return Ok(false);
            }
            if db.habits.refuses > 0 {
                db.habits.refuses -= 1;
                return Err(EngineError::StartFailed { why: "it refuses".to_owned(), log: String::new() });
            }
            Ok(true)
        })
    }

    pub(super) fn full(&self) -> EngineError {
        EngineError::DiskFull { path: "data".into(), what: "copying".to_owned() }
    }
}
