//! Becoming the primary of exactly one epoch.

use trine_protocol::Epoch;

use super::place;
use super::state::Mysql;
use crate::{EngineError, Fork, History};

impl Mysql {
    /// Nothing is written by this: the epoch's first transaction is the open barrier, which waits for the sync rule as every
    /// commit does. Until it has passed, the database is read-only.
    pub(super) async fn promote(&self, epoch: Epoch) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        let process = self.process_id()?;
        let failed = |why: String| Err(EngineError::PromoteFailed { epoch, why });
        match self.leading() {
            Some(leading) if leading == epoch => return Ok(()),
            Some(leading) => return failed(format!("it is the primary of epoch {leading}")),
            None => {}
        }
        if epoch.0 < 2 || epoch.0 > place::HIGHEST {
            return failed(format!("a promotion's epoch is between 2 and {}", place::HIGHEST));
        }
        self.complete_log().await?;
        let mut session = self.session().await?;
        self.cut(&mut session).await?;
        let last = self.apply_all(&mut session).await?;
        if place::epoch_of(last.number) >= epoch {
            return failed(format!("its log is of epoch {} already", place::epoch_of(last.number)));
        }
        // Since it was sealed, somebody may have written to it.
        if let Some(why) = self.errant(&mut session).await? {
            return failed(why);
        }
        self.forget_upstream(&mut session).await?;
        session.run("acknowledge nothing any more", &self.words().acknowledge(false)).await?;
        if !self.words().open_for_agent.is_empty() {
            session.run("let the agent write", self.words().open_for_agent).await?;
        }
        self.note_leading(epoch, process, last.number)?;
        {
            let mut running = self.running();
            running.leading = Some((epoch, process));
            running.from = last.number;
            running.settled = false;
        }
        let sync = self.running().sync.clone().unwrap_or(crate::SyncSetting::Wait);
        self.gate.open(epoch);
        self.apply_sync(&mut session, &sync).await?;
        self.give_back(session);
        Ok(())
    }

    pub(super) async fn history(&self) -> Result<History, EngineError> {
        let epoch = self.must_be_primary("tell its history")?;
        let mut session = self.session().await?;
        let end = self.place(&mut session).await?.number;
        // Its own epoch's row is written by the barrier, and perhaps not committed yet.
        let mut history = self.descent(&mut session, end, Some(epoch)).await?;
        self.give_back(session);
        let from = self.running().from;
        history.forks.push(Fork { epoch: place::epoch_of(from), end: from });
        history.epoch = epoch;
        Ok(history)
    }
}
