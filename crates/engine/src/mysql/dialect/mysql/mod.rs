//! MySQL 8.0.26 and later.
//!
//! | file | what |
//! |---|---|
//! | `gtid_set.rs` | how the names of transactions say the position |
//! | `settings.rs`, `first.rs` | the settings; the first copy |
//! | `follow.rs` | what a copy does not know yet of its own log, and how it follows |
//! | `dump.rs` | which part of the log a standby is sent |
//! | `clone.rs` | a copy, by the clone plugin |

mod clone;
mod dump;
mod first;
mod follow;
mod gtid_set;
mod settings;

use trine_protocol::Epoch;

pub(super) use self::gtid_set::GtidSet;
pub(super) use self::settings::TABLES;
use super::{Own, Words};
use crate::EngineError;
use crate::mysql::adopt::Home;
use crate::mysql::binaries::Wanted;
use crate::mysql::session::Session;

pub(super) const WORDS: Words = Words {
    product: "MySQL",
    kind: "mysql",
    section: "mysqld",
    session: "set session wait_timeout = 31536000, lock_wait_timeout = 31536000, max_execution_time = 0, \
        sql_mode = 'STRICT_ALL_TABLES', autocommit = 1",
    start_receiver: "start replica io_thread",
    stop_receiver: "stop replica io_thread",
    start_applier: "start replica sql_thread",
    follows: "show replica status",
    follows_columns: ["Replica_IO_Running", "Replica_SQL_Running", "Retrieved_Gtid_Set", "Seconds_Behind_Source"],
    acknowledge: "rpl_semi_sync_replica_enabled",
    wait_for_standbys: "rpl_semi_sync_source_enabled",
    acknowledges: "Rpl_semi_sync_replica_status",
    waits: "Rpl_semi_sync_source_status",
    waiting: "Rpl_semi_sync_source_wait_sessions",
    unacknowledged: "Rpl_semi_sync_source_no_tx",
    processes: "information_schema.processlist",
    dump: "Binlog Dump GTID",
    open_for_agent: "set global super_read_only = OFF",
    open_for_all: "set global read_only = OFF",
    close_for_all: "set global super_read_only = ON",
    server: "@@server_uuid",
    private_run: &[
        "--mysqlx=OFF",
        "--skip-replica-start",
        "--auto-generate-certs=OFF",
        "--secure-file-priv=NULL",
        "--persisted-globals-load=OFF",
    ],
    tidy: &["drop user root@localhost"],
};

pub(super) const HOME: Home = Home {
    mark: "mysql.ibd",
    // One folder from 8.0.30 on.
    redo: &["#innodb_redo", "ib_logfile0"],
    // The server sees to it itself.
    version: &[],
    elsewhere: Some("select file_name from information_schema.files where file_name like '/%' limit 1"),
    without_password: "select user, host from mysql.user where user <> '' and account_locked = 'N' \
        and plugin in ('mysql_native_password', 'sha256_password', 'caching_sha2_password') and authentication_string = ''",
    // From 8.2 on, and before.
    forget_log: &["reset binary logs and gtids", "reset master"],
};

pub(super) const PROGRAMS: Wanted = Wanted {
    server: "mysqld",
    // The settings and states are called source and replica from there on.
    oldest: (8, 0, 26),
    product: "MySQL 8.0.26 or later",
    package: "mysql-server",
    is_it: |text| !text.contains("MariaDB"),
    others: &[],
};

/// What it has executed.
pub(super) async fn executed(session: &mut Session) -> Result<GtidSet, EngineError> {
    const ACTION: &str = "say how far it has applied the log";
    let text: String = session.value(ACTION, "select @@global.gtid_executed").await?;
    GtidSet::parse(&text).map_err(|_| EngineError::Unreadable { action: ACTION })
}

/// How many transactions this server has written.
pub(super) async fn own_part(session: &mut Session) -> Result<Own, EngineError> {
    const ACTION: &str = "say who has written its log";
    let server: String = session.value(ACTION, "select @@server_uuid").await?;
    let count = executed(session).await?.count_of(&server.to_ascii_lowercase());
    Ok(Own::Count { server, count })
}

pub(super) fn first_of_epoch(epoch: Epoch) -> String {
    format!("set session gtid_next = '{}:{epoch}'", gtid_set::EPOCHS)
}

/// After the first of an epoch.
pub(super) const REST_OF_EPOCH: &str = "set session gtid_next = 'AUTOMATIC'";
