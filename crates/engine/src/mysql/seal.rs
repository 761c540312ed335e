//! Cutting a standby off from its primary, for good, and how far its log reaches.

use std::time::Duration;

use tokio::time::sleep;
use trine_protocol::Position;

use super::gtid::{self, Gtid};
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
    pub(super) received: Option<Gtid>,
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
        self.give_back(session);
        Ok(gtid::position(gtid::number(last)))
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
            session.run("go on applying what it has received", "start slave sql_thread").await?;
        }
        if slave.is_some() {
            session.run("stop its receiver", "stop slave io_thread").await?;
            while self.slave(session).await?.is_some_and(|s| s.receiver != "No") {
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Waits until everything that was received is applied, and says how far that is. Nothing may be coming in.
    pub(super) async fn apply_all(&self, session: &mut Session) -> Result<Option<Gtid>, EngineError> {
        loop {
            let slave = self.slave(session).await?.unwrap_or_default();
            let (applied, written) = self.places(session).await?;
            let reached = gtid::further(applied, written);
            if gtid::number(reached) >= gtid::number(slave.received) {
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

    /// Where the last transaction is that came from a primary, and the last one in the own log.
    pub(super) async fn places(&self, session: &mut Session) -> Result<(Option<Gtid>, Option<Gtid>), EngineError> {
        const ACTION: &str = "say how far it has applied the log";
        let row = session.row(ACTION, "select @@global.gtid_slave_pos, @@global.gtid_binlog_pos").await?;
        let place = |at: usize| -> Result<Option<Gtid>, EngineError> {
            let text: Option<String> = row.as_ref().and_then(|r| column(r, at));
            let text = text.ok_or(EngineError::Unreadable { action: ACTION })?;
            gtid::last_in(&text).map_err(|_| EngineError::Unreadable { action: ACTION })
        };
        Ok((place(0)?, place(1)?))
    }

    /// `None`: it was never told to follow anybody.
    pub(super) async fn slave(&self, session: &mut Session) -> Result<Option<Slave>, EngineError> {
        const ACTION: &str = "say how it follows";
        let Some(row) = session.row(ACTION, "show slave status").await? else { return Ok(None) };
        let text = |name: &str| column::<String>(&row, name).filter(|t| !t.is_empty());
        let received = text("Gtid_IO_Pos").unwrap_or_default();
        Ok(Some(Slave {
            receiver: text("Slave_IO_Running").ok_or(EngineError::Unreadable { action: ACTION })?,
            applies: text("Slave_SQL_Running").is_some_and(|r| r == "Yes"),
            received: gtid::last_in(&received).map_err(|_| EngineError::Unreadable { action: ACTION })?,
            receiver_error: text("Last_IO_Error"),
            applier_error: text("Last_SQL_Error"),
            behind: column(&row, "Seconds_Behind_Master"),
        }))
    }

    /// The descent of a log that ends at `last`.
    pub(super) async fn descent(&self, session: &mut Session, last: u64) -> Result<History, EngineError> {
        let rows = session.rows("tell its history", "select previous from trine.epoch order by epoch").await?;
        let ends = rows.iter().filter_map(|row| column::<u64>(row, 0));
        let forks = ends.map(|end| Fork { epoch: gtid::epoch_of(end), end }).collect();
        let identity = self.identity()?.unwrap_or(CopyId(0));
        Ok(History { identity, forks, epoch: gtid::epoch_of(last), end: last, rewind_ready: true })
    }
}
