//! Transactions that a standby has written itself.
//!
//! A standby is read-only, but not for everybody: a user with all rights can write to it. Such a copy is no beginning of the primary's
//! log any more, whatever its numbers say: it must acknowledge nothing, and be made anew. It is found by the log itself, which
//! says of each transaction which server has written it, and by the epochs, which say who led when.

use super::dialect::Own;
use super::place;
use super::session::{Session, column};
use super::state::Mysql;
use crate::EngineError;

/// One epoch, as the data has it.
#[derive(Clone, Debug)]
struct Led {
    epoch: u64,
    /// Where the log left the epoch before.
    previous: u64,
    /// Who led, as the database names itself.
    server: String,
}

impl Mysql {
    /// On a standby: what it has written itself, and did not write as a primary. Everything received must be applied.
    pub(super) async fn errant(&self, session: &mut Session) -> Result<Option<String>, EngineError> {
        const ACTION: &str = "say who has written its log";
        let own = self.own_part(session).await?;
        let rows = session.rows(ACTION, "select epoch, previous, server from trine.epoch order by epoch").await?;
        let led: Option<Vec<Led>> = rows
            .iter()
            .map(|r| Some(Led { epoch: column(r, 0)?, previous: column(r, 1)?, server: column(r, 2)? }))
            .collect();
        let led = led.ok_or(EngineError::Unreadable { action: ACTION })?;
        Ok(errant(&own, &led).map(|what| format!("somebody has written to this standby: {what}")))
    }
}

fn errant(own: &Own, led: &[Led]) -> Option<String> {
    match own {
        Own::Last { server, number } => {
            // Numbers go on from the last that there was: its own last one is of an epoch that it led, or is errant.
            let epoch = place::epoch_of(*number).0;
            let at = led.iter().position(|l| l.epoch == epoch);
            let led_by_it = at.and_then(|at| led.get(at)).is_some_and(|l| l.server == *server);
            let left = at.and_then(|at| led.get(at + 1)).map_or(u64::MAX, |next| next.previous);
            let fine = *number == 0 || (led_by_it && *number <= left);
            (!fine).then(|| format!("transaction {number} of epoch {epoch} is its own"))
        }
        Own::Count { server, count } => {
            let mut written: u64 = 0;
            for (one, next) in led.iter().zip(led.iter().skip(1)).filter(|(one, _)| one.server == *server) {
                // But for the first, which has a name of the cluster's.
                let here = place::count_of(next.previous).saturating_sub(place::count_of(one.previous));
                written = written.saturating_add(here.saturating_sub(1));
            }
            // Of an epoch that nobody has followed yet it is not known how much of it counts.
            let open = led.last().is_some_and(|l| l.server == *server);
            (!open && *count > written).then(|| format!("{} of its transactions are its own", count - written))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::place::first_of;
    use trine_protocol::Epoch;

    fn led(all: &[(u64, u64, &str)]) -> Vec<Led> {
        all.iter().map(|&(epoch, previous, server)| Led { epoch, previous, server: server.into() }).collect()
    }

    #[test]
    fn by_the_last_own_number() {
        let at = |epoch: u64, n: u64| first_of(Epoch(epoch)) + n;
        let all = led(&[(2, 0, "1"), (3, at(2, 9), "2"), (5, at(3, 4), "3")]);
        let of = |server: &str, number| errant(&Own::Last { server: server.into(), number }, &all).is_some();
        assert!(!of("1", 0));
        assert!(!of("1", at(2, 9)));
        assert!(of("1", at(2, 10)), "after the log had left its epoch");
        assert!(of("1", at(5, 3)), "in another's epoch");
        assert!(!of("3", at(5, 77)), "the last epoch is its own");
        assert!(of("4", at(4, 0)), "an epoch that the log knows nothing of");
    }

    #[test]
    fn by_the_count_of_own_names() {
        let at = |epoch: u64, n: u64| first_of(Epoch(epoch)) + n;
        // 10 transactions in epoch 2, 9 of them with names of its server; 5 in epoch 3.
        let all = led(&[(2, 0, "a"), (3, at(2, 10), "b"), (5, at(3, 15), "c")]);
        let of = |server: &str, count| errant(&Own::Count { server: server.into(), count }, &all).is_some();
        assert!(!of("a", 9) && !of("a", 0));
        assert!(of("a", 10));
        assert!(!of("b", 4));
        assert!(of("b", 5));
        assert!(!of("c", 1000), "it may be a lost primary's");
        assert!(of("d", 1));
    }
}
