//! What keeps clients from being handed to another primary: work that would be cut off.

use super::session::column;
use super::state::Mysql;
use crate::EngineError;

/// What has gone on for so long is not expected to end within the few seconds that a switchover gives it.
const LONG_S: u64 = 5;

/// How much of a statement is shown.
const SHOWN: usize = 60;

impl Mysql {
    /// On a primary: the oldest transaction with changes, or statement that makes some, that has gone on for long.
    pub(super) async fn obstacle(&self) -> Result<Option<String>, EngineError> {
        const ACTION: &str = "look for long transactions";
        self.must_be_primary(ACTION)?;
        let processes = self.words().processes;
        let mut session = self.session().await?;
        let transactions = format!(
            "select p.id, p.user, timestampdiff(second, t.trx_started, now()), t.trx_rows_modified \
             from information_schema.innodb_trx t join {processes} p on p.id = t.trx_mysql_thread_id \
             where t.trx_rows_modified > 0 and t.trx_started <= now() - interval {LONG_S} second and p.id <> connection_id() \
             order by t.trx_started limit 1"
        );
        let row = session.row(ACTION, &transactions).await?;
        let open = row.and_then(|r| Some((column(&r, 0)?, column(&r, 1)?, column(&r, 2)?, column(&r, 3)?)));
        // A change of a table's form is in no transaction; a change of rows may have found none yet.
        let statements = format!(
            "select id, user, time, info from {processes} where command = 'Query' and time >= {LONG_S} \
             and id <> connection_id() and info rlike '{CHANGES}' order by time desc limit 1"
        );
        let row = session.row(ACTION, &statements).await?;
        let runs = row.and_then(|r| Some((column(&r, 0)?, column(&r, 1)?, column(&r, 2)?, column(&r, 3)?)));
        self.give_back(session);
        // A statement first: MySQL has a transaction of its own around a change of a table's form, which says less.
        Ok(runs.map(statement).or_else(|| open.map(transaction)))
    }
}

/// What a statement begins with that is no mere reading, after comments.
const CHANGES: &str = "^[[:space:]]*(/[*].*[*]/[[:space:]]*)*(alter|call|create|delete|drop|execute|grant|insert|load|\
     optimize|rename|repair|replace|revoke|truncate|update)[[:space:]]";

fn transaction((id, user, seconds, rows): (u64, String, u64, u64)) -> String {
    format!(
        "session {id} of {user} has had a transaction open for {seconds} s, with {rows} changed rows: let it end, or end it \
         (kill {id})"
    )
}

fn statement((id, user, seconds, text): (u64, String, u64, String)) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = words.char_indices().nth(SHOWN) {
        words.truncate(at);
        words.push('…');
    }
    format!("session {id} of {user} has run a statement for {seconds} s ({words}): let it end, or end it (kill {id})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_statement_is_cut_between_letters() {
        let told = statement((7, "app".into(), 9, format!("update t\n set x = '{}'", "ö".repeat(100))));
        assert!(told.contains("(update t set x = 'ööö") && told.contains("…)"), "{told}");
        assert!(statement((7, "app".into(), 9, "drop table t".into())).contains("(drop table t)"));
    }
}
