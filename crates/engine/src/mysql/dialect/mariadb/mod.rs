//! MariaDB 10.11 and later.
//!
//! | file | what |
//! |---|---|
//! | `gtid.rs` | how a transaction's number says its epoch: the position |
//! | `salvage.rs`, `binlog.rs` | received logs that the database would throw away at a start |
//! | `settings.rs`, `first.rs` | the settings; the first copy |
//! | `memory.rs` | tables in memory |
//! | `tail.rs` | the end of a lost primary's log, which perhaps nobody has acknowledged |
//! | `follow.rs` | from which place on it follows |
//! | `backup.rs` | a copy, by mariadb-backup |

mod backup;
mod binlog;
mod first;
mod follow;
mod gtid;
mod memory;
mod salvage;
mod settings;
mod tail;

use trine_protocol::Epoch;

pub(super) use self::gtid::last_in;
pub(super) use self::settings::TABLES;
use super::{Own, Words};
use crate::EngineError;
use crate::mysql::adopt::Home;
use crate::mysql::binaries::Wanted;
use crate::mysql::place::{self, Place};
use crate::mysql::session::{Session, column};

pub(super) const WORDS: Words = Words {
    product: "MariaDB",
    kind: "mariadb",
    section: "mariadbd",
    session: "set session wait_timeout = 31536000, lock_wait_timeout = 31536000, max_statement_time = 0, \
        sql_mode = 'STRICT_ALL_TABLES', autocommit = 1",
    start_receiver: "start slave io_thread",
    stop_receiver: "stop slave io_thread",
    start_applier: "start slave sql_thread",
    follows: "show slave status",
    follows_columns: ["Slave_IO_Running", "Slave_SQL_Running", "Gtid_IO_Pos", "Seconds_Behind_Master"],
    acknowledge: "rpl_semi_sync_slave_enabled",
    wait_for_standbys: "rpl_semi_sync_master_enabled",
    acknowledges: "Rpl_semi_sync_slave_status",
    waits: "Rpl_semi_sync_master_status",
    waiting: "Rpl_semi_sync_master_wait_sessions",
    unacknowledged: "Rpl_semi_sync_master_no_tx",
    processes: "information_schema.processlist",
    dump: "Binlog Dump",
    // A right of the agent's user (READ_ONLY ADMIN) writes while it is read-only.
    open_for_agent: "",
    open_for_all: "set global read_only = OFF",
    close_for_all: "set global read_only = ON",
    server: "@@server_id",
    private_run: &["--skip-slave-start"],
    tidy: &[
        "delete from mysql.global_priv where user not in ('trine', 'trine_replication', 'app', 'mariadb.sys')",
        "delete from mysql.proxies_priv",
        "flush privileges",
    ],
};

pub(super) const HOME: Home = Home {
    mark: "aria_log_control",
    redo: &["ib_logfile0"],
    version: &["mariadb_upgrade_info", "mysql_upgrade_info"],
    // A table's file that leads elsewhere is seen.
    elsewhere: None,
    without_password: "select user, host from mysql.user where is_role = 'N' and user not in ('', 'mariadb.sys') \
        and plugin in ('', 'mysql_native_password', 'mysql_old_password') and password = '' and authentication_string = ''",
    forget_log: &["delete from mysql.gtid_slave_pos"],
};

pub(super) const PROGRAMS: Wanted = Wanted {
    server: "mariadbd",
    // A tail that nobody acknowledged can be cut off: MDEV-33465.
    oldest: (10, 11, 9),
    product: "MariaDB 10.11.9 or later",
    package: "mariadb-server",
    is_it: |text| text.contains("MariaDB"),
    others: &[
        ("mariadb-install-db", "mariadb-server"),
        ("mariadb-binlog", "mariadb-server"),
        ("mariadb", "mariadb-client"),
        ("mariadb-backup", "mariadb-backup"),
        ("mbstream", "mariadb-backup"),
    ],
};

/// Where the last transaction is that came from a primary, and the last one in the own log.
pub(super) async fn places(session: &mut Session) -> Result<(Place, Place), EngineError> {
    const ACTION: &str = "say how far it has applied the log";
    let row = session.row(ACTION, "select @@global.gtid_slave_pos, @@global.gtid_binlog_pos").await?;
    let place = |at: usize| -> Result<Place, EngineError> {
        let text: Option<String> = row.as_ref().and_then(|r| column(r, at));
        let text = text.ok_or(EngineError::Unreadable { action: ACTION })?;
        last_in(&text).map_err(|_| EngineError::Unreadable { action: ACTION })
    };
    Ok((place(0)?, place(1)?))
}

/// The last number that this server has written.
pub(super) async fn own_part(session: &mut Session, server: u32) -> Result<Own, EngineError> {
    const ACTION: &str = "say who has written its log";
    let text: String = session.value(ACTION, "select @@global.gtid_binlog_state").await?;
    let all = gtid::all_in(&text).map_err(|_| EngineError::Unreadable { action: ACTION })?;
    let number = all.iter().filter(|g| g.server == server).map(|g| g.number).max().unwrap_or(0);
    Ok(Own::Last { server: server.to_string(), number })
}

pub(super) fn first_of_epoch(epoch: Epoch) -> String {
    format!("set session gtid_seq_no = {}", place::first_of(epoch))
}
