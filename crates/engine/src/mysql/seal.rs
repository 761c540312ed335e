//! Cutting a standby off from its primary, for good, and how far its log reaches.

use std::time::Duration;

use tokio::time::sleep;
use trine_protocol::{Epoch, Position};

use super::place::{self, Place};
use super::session::{Session, column};
use super::state::Mysql;
use crate::{CopyId, EngineError, Fork, History};

/// How often a standby is looked at that comes to the end of what it has received.
const LOOK: Duration = Duration::from_millis(2);

/// What a standby says of its receiver and its applier.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Slave {
    /// `Yes`, `No`, `Connecting`, …
    pub(super) receiver: String,
    pub(super) applies: bool,
    /// Up to where it has received whole transactions.
    pub(super) received: Place,
    pub(super) receiver_error: Option<String>,
    pub(super) applier_error: Option<String>,
    /// How far it is behind, in seconds.
    pub(super) behind: Option<u64>,
}

impl Mysql {
    pub(super) async fn seal(&self) -> Result<Position, EngineError> {
        let _turn = self.turn.lock().await;
        self.must_be_standby("seal it")?;
        self.complete_log().await?;
        let mut session = self.session().await?;
        self.cut(&mut session).await?;
        let last = self.apply_all(&mut session).await?;
        if let Some(why) = self.errant(&mut session).await? {
            return Err(EngineError::NeedsRebuild(why));
        }
        self.give_back(session);
        Ok(place::position(last.number))
    }

    /// Ends the flow of the log into this copy. It can't begin again: what the receiver connects to is this engine's.
    pub(super) async fn cut(&self, session: &mut Session) -> Result<(), EngineError> {
        self.cut_feed().await;
        self.running().following = None;
        let slave = self.slave(session).await?;
        if let Some(slave) = &slave
            && !slave.applies
            && slave.applier_error.is_none()
            && slave.receiver != "No"
        {
            // With both of them stopped, the next start of either would throw the received log away.
            session.run("go on applying what it has received", self.words().start_applier).await?;
        }
        if slave.is_some() {
            session.run("stop its receiver", self.words().stop_receiver).await?;
            while self.slave(session).await?.is_some_and(|s| s.receiver != "No") {
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Waits until everything that was received is applied, and says how far that is. Nothing may be coming in.
    pub(super) async fn apply_all(&self, session: &mut Session) -> Result<Place, EngineError> {
        loop {
            let slave = self.slave(session).await?.unwrap_or_default();
            let reached = self.place(session).await?;
            if reached.number >= slave.received.number {
                return Ok(reached);
            }
            if let Some(why) = slave.applier_error {
                return Err(EngineError::NeedsRebuild(format!("it can't apply what it has received: {why}")));
            }
            if !slave.applies {
                return Err(EngineError::NeedsRebuild("somebody has stopped its applier".into()));
            }
            sleep(LOOK).await;
        }
    }

    /// The descent of a log that ends at `last`, up to the beginning of the epoch `before`.
    pub(super) async fn descent(
        &self,
        session: &mut Session,
        last: u64,
        before: Option<Epoch>,
    ) -> Result<History, EngineError> {
        let before = before.map_or(u64::MAX, |e| e.0);
        let asked = format!("select previous from trine.epoch where epoch < {before} order by epoch");
        let rows = session.rows("tell its history", &asked).await?;
        let ends = rows.iter().filter_map(|row| column::<u64>(row, 0));
        let forks = ends.map(|end| Fork { epoch: place::epoch_of(end), end }).collect();
        let identity = self.identity()?.unwrap_or(CopyId(0));
        Ok(History { identity, forks, epoch: place::epoch_of(last), end: last, rewind_ready: true })
    }
}
