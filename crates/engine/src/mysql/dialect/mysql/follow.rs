//! What a copy does not know yet of its own log, and how it follows and stops following.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use crate::EngineError;
use crate::mysql::session::{REPLICATION, Session, column, literal};
use crate::mysql::state::Mysql;

const LOOK: Duration = Duration::from_millis(2);
/// "It follows nobody" (`ER_REPLICA_NOT_CONFIGURED`).
const NO_UPSTREAM: u16 = 1200;
/// "There is no such connection."
const NO_SUCH_THREAD: u16 = 1094;

impl Mysql {
    /// What it had received it still has, when it is started again: it applies that before anything else.
    pub(crate) async fn mysql_completes_its_log(&self) -> Result<(), EngineError> {
        let mut session = self.session().await?;
        if let Some(slave) = self.slave(&mut session).await?
            && slave.receiver == "No"
            && !slave.applies
            && self.place(&mut session).await?.number < slave.received.number
        {
            tracing::warn!(received = %slave.received.text, "applying what was received before and not applied");
            session.run("apply what it has received", self.words().start_applier).await?;
            self.apply_all(&mut session).await.map_err(|e| EngineError::StartFailed {
                why: "what it had received can't be applied".into(),
                log: e.chain(),
            })?;
        }
        self.give_back(session);
        Ok(())
    }

    /// Takes the log from an address from now on. Its receiver is stopped, and what it has received is applied.
    ///
    /// An applier that runs goes on: to stop one takes a minute when the log that it has ends within a transaction, as that of a
    /// primary that was lost does. It takes that half back when the whole comes from another.
    pub(crate) async fn mysql_follows(&self, session: &mut Session, address: SocketAddr) -> Result<(), EngineError> {
        const ACTION: &str = "follow another";
        let (host, port) = (literal(&address.ip().to_string()), address.port());
        let place = format!("change replication source to source_host = {host}, source_port = {port}");
        if self.slave(session).await?.is_some_and(|s| s.applies) {
            session.run(ACTION, &place).await?;
            return session.run(ACTION, self.words().start_receiver).await;
        }
        self.mysql_forgets_whom_it_followed(session).await?;
        let change = format!(
            "{place}, source_user = '{REPLICATION}', source_password = {}, source_connect_retry = 1, \
             source_retry_count = 4294967295, source_heartbeat_period = 1, source_ssl = 0, get_source_public_key = 1, \
             source_auto_position = 1",
            literal(&self.config.superuser_password)
        );
        session.run(ACTION, &change).await?;
        session.run(ACTION, "start replica").await
    }

    /// Takes no log any more, and throws the received one away, which is applied.
    pub(crate) async fn mysql_forgets_whom_it_followed(&self, session: &mut Session) -> Result<(), EngineError> {
        self.mysql_stops_applying(session).await?;
        session.run("forget whom it followed", "reset replica all").await
    }

    /// Stops its receiver and its applier, wherever the received log ends; the log stays.
    pub(crate) async fn mysql_stops_applying(&self, session: &mut Session) -> Result<(), EngineError> {
        const ACTION: &str = "take no log any more";
        // An applier that waits for the rest of a transaction does not stop for a minute; without its threads it does.
        let asked = "select id from information_schema.processlist \
                     where user = 'system user' and state = 'Waiting for an event from Coordinator'";
        for row in session.rows(ACTION, asked).await? {
            if let Some(id) = column::<u64>(&row, 0) {
                session.run_unless(ACTION, &format!("kill connection {id}"), NO_SUCH_THREAD).await?;
            }
        }
        session.run_unless(ACTION, "stop replica", NO_UPSTREAM).await?;
        while self.slave(session).await?.is_some_and(|s| s.applies) {
            sleep(LOOK).await;
        }
        Ok(())
    }
}
