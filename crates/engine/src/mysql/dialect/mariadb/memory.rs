//! Tables in memory (`ENGINE = MEMORY`).
//!
//! They are empty when a database starts. Whoever looks at one first, a reader too, makes the database write that into its log: on a
//! standby a transaction of its own, which would cost it its copy. So the agent looks first, and has nothing written. What its
//! primary then has in such a table and a standby has not, is said in docs/mariadb.md. MySQL can't be kept from writing it, and makes
//! no such tables (`disabled_storage_engines`).

use crate::EngineError;
use crate::mysql::session::{Session, column};
use crate::mysql::state::Mysql;

impl Mysql {
    /// On a database that was just started and that nobody leads with.
    pub(crate) async fn look_at_tables_in_memory(&self) -> Result<(), EngineError> {
        const ACTION: &str = "look at the tables in memory";
        let mut session = self.new_session().await?;
        let asked = "select table_schema, table_name from information_schema.tables where engine = 'MEMORY' \
                     and table_schema not in ('information_schema', 'performance_schema', 'mysql', 'sys')";
        let rows = session.rows(ACTION, asked).await?;
        if rows.is_empty() {
            return Ok(());
        }
        // The connection is dropped after this.
        session.run(ACTION, "set session sql_log_bin = 0").await?;
        for row in rows {
            let (Some(schema), Some(table)) = (column::<String>(&row, 0), column::<String>(&row, 1)) else { continue };
            look_at(&mut session, &schema, &table).await;
        }
        Ok(())
    }
}

/// One that is gone, or damaged, is no reason not to start.
async fn look_at(session: &mut Session, schema: &str, table: &str) {
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let asked = format!("select 1 from {}.{} limit 1", quoted(schema), quoted(table));
    if let Err(e) = session.rows("look at a table in memory", &asked).await {
        tracing::debug!(schema, table, error = %e.chain(), "a table in memory can't be looked at");
    }
}
