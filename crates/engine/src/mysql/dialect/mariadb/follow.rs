//! From which place on MariaDB follows, and what a copy does not know yet of its own log.

use std::fs;
use std::net::SocketAddr;

use super::{last_in, places};
use crate::EngineError;
use crate::files::{remove_file, sync_dir};
use crate::history::History;
use crate::mysql::paths::own;
use crate::mysql::session::{REPLICATION, Session, literal};
use crate::mysql::state::Mysql;

/// The end of what MariaDB says when it refuses to cut off the end of its log (`Recovery_context`, `sql/log.cc`).
const INTACT: &str = "all transactions in doubt are left intact";

impl Mysql {
    /// Takes the log from an address from now on. Its receiver is stopped, and what it has received is applied.
    pub(crate) async fn mariadb_follows(&self, session: &mut Session, address: SocketAddr) -> Result<(), EngineError> {
        session.run("stop following", "stop all slaves").await?;
        self.goes_on_from_its_end(session).await?;
        let change = format!(
            "change master to master_host = {}, master_port = {}, master_user = '{REPLICATION}', master_password = {}, \
             master_connect_retry = 1, master_heartbeat_period = 1, master_ssl = 0, master_use_gtid = slave_pos",
            literal(&address.ip().to_string()),
            address.port(),
            literal(&self.config.superuser_password)
        );
        session.run("follow another", &change).await?;
        session.run("follow another", "start slave").await
    }

    /// Takes no log any more.
    pub(crate) async fn mariadb_forgets_whom_it_followed(&self, session: &mut Session) -> Result<(), EngineError> {
        session.run("take no log any more", "stop all slaves").await?;
        session.run("forget whom it followed", "reset slave all").await
    }

    /// A log that it wrote itself may go further than what it took from others: it goes on from there.
    async fn goes_on_from_its_end(&self, session: &mut Session) -> Result<(), EngineError> {
        let (applied, written) = places(session).await?;
        if applied.number < written.number {
            let set = format!("set global gtid_slave_pos = {}", literal(&written.text));
            session.run("go on from its own log's end", &set).await?;
        }
        Ok(())
    }

    /// Before a start: what it had received is set aside, and the end of its log if it led; and it starts as one that follows
    /// nobody. Returns arguments for the start.
    pub(crate) fn mariadb_forgets_its_upstream(&self) -> Result<Vec<String>, EngineError> {
        let cut_off = self.set_tail_aside()?;
        self.set_received_aside()?;
        for name in ["master.info", "relay-log.info", "multi-master.info"] {
            remove_file(&self.paths.data.join(name))?;
        }
        sync_dir(&self.paths.data)?;
        Ok(if cut_off { vec!["--init-rpl-role=SLAVE".into()] } else { Vec::new() })
    }

    /// A start failed that was to cut off the end of the log: whether, by what the database said, it can't be cut off (there is a
    /// DDL in it) and nothing was. It may commit all of it then.
    pub(crate) fn mariadb_starts_as_it_was(&self, said: &str) -> Result<bool, EngineError> {
        let intact = said.contains(INTACT);
        if intact {
            self.tail_is_committed()?;
        }
        Ok(intact)
    }

    /// The log is all that was here before the start.
    pub(crate) async fn mariadb_completes_its_log(&self) -> Result<(), EngineError> {
        self.mariadb_knows_its_log().await?;
        self.apply_tail().await
    }

    /// As far as a primary with this history has it.
    pub(crate) async fn mariadb_completes_its_log_behind(&self, history: &History) -> Result<(), EngineError> {
        self.mariadb_knows_its_log().await?;
        self.cut_tail(history).await
    }

    /// Makes the database know how far it was copied to, and applies what an earlier run had received.
    pub(crate) async fn mariadb_knows_its_log(&self) -> Result<(), EngineError> {
        let path = self.own(own::COPIED_TO);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let mut session = self.session().await?;
                let copied =
                    last_in(text.trim()).map_err(|why| EngineError::NeedsRebuild(format!("its copy: {why}")))?;
                let (applied, _) = places(&mut session).await?;
                if applied.number < copied.number {
                    let set = format!("set global gtid_slave_pos = {}", literal(text.trim()));
                    session.run("take over how far its copy reaches", &set).await?;
                }
                self.give_back(session);
                remove_file(&path)?;
                sync_dir(&self.paths.data)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(EngineError::io("read", path)(e)),
        }
        self.apply_received().await
    }
}
