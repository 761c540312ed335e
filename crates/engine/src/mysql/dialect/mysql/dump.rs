//! What a standby's receiver asks for.
//!
//! It says which transactions it has, and is not sent those again. What it has received on a connection that did not
//! acknowledge, or that broke, it has: it would never acknowledge it, and a commit that waits for it would wait for ever. (A commit
//! more, whose acknowledgement holds for everything before, can't always be made: while the database begins a new file of its
//! log it holds that log, and waits for the commit.) So of what the standby says to have, the primary's database is told only
//! what it has committed itself, where nothing is that waits. It sends the rest again; the standby acknowledges it, and skips it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::UnixStream;
use trine_platform::BoxStream;

use super::executed;
use super::gtid_set::GtidSet;
use crate::mysql::state::Mysql;

/// The command that asks for the log (`COM_BINLOG_DUMP_GTID`).
const DUMP: u8 = 0x1e;

impl Mysql {
    /// Leads a standby's receiver to the database, until one of them ends it.
    pub(crate) async fn lead_receiver(&self, standby: BoxStream, mut database: UnixStream) -> io::Result<()> {
        let (mut from_standby, mut to_standby) = tokio::io::split(standby);
        let (mut from_database, mut to_database) = database.split();
        let asks = async {
            self.pass_until_dump(&mut from_standby, &mut to_database).await?;
            copy(&mut from_standby, &mut to_database).await
        };
        tokio::select! {
            ended = asks => ended.map(drop),
            ended = copy(&mut from_database, &mut to_standby) => ended.map(drop),
        }
    }

    async fn pass_until_dump(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        loop {
            let mut header = [0; 4];
            from.read_exact(&mut header).await?;
            let [a, b, c, number] = header;
            let mut payload = vec![0; usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16];
            from.read_exact(&mut payload).await?;
            let asks = number == 0 && payload.first() == Some(&DUMP);
            if asks {
                let mut session = self.session().await.map_err(io::Error::other)?;
                let executed = executed(&mut session).await.map_err(io::Error::other)?;
                self.give_back(session);
                match narrowed(&payload, &executed) {
                    Some(narrowed) => payload = narrowed,
                    None => tracing::warn!("what a standby asks for can't be read: it is passed on as it is"),
                }
            }
            let [a, b, c, _] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
            to.write_all(&[a, b, c, number]).await?;
            to.write_all(&payload).await?;
            if asks {
                return Ok(());
            }
        }
    }
}

/// The same question with only what is in `executed`: flags, the standby's number, a file's name, a place, and the transactions
/// that it has.
fn narrowed(payload: &[u8], executed: &GtidSet) -> Option<Vec<u8>> {
    const BEFORE_NAME: usize = 1 + 2 + 4;
    let u32_at = |at: usize| Some(u32::from_le_bytes(payload.get(at..at + 4)?.try_into().ok()?) as usize);
    let length = BEFORE_NAME + 4 + u32_at(BEFORE_NAME)? + 8;
    let (head, set) = (payload.get(..length)?, payload.get(length + 4..)?);
    if set.len() != u32_at(length)? {
        return None;
    }
    let set = GtidSet::decode(set)?.and(executed).encode()?;
    Some([head, &u32::try_from(set.len()).ok()?.to_le_bytes(), &set].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaa-0000-0000-0000-000000000001";

    fn question(set: &[u8]) -> Vec<u8> {
        let head = [&[DUMP, 2, 0][..], &7_u32.to_le_bytes(), &0_u32.to_le_bytes(), &4_u64.to_le_bytes()].concat();
        [&head[..], &u32::try_from(set.len()).unwrap().to_le_bytes(), set].concat()
    }

    #[test]
    fn what_waits_is_asked_for_again() {
        let set = |text: &str| GtidSet::parse(text).unwrap();
        let asked = question(&set(&format!("{A}:1-9")).encode().unwrap());
        let told = narrowed(&asked, &set(&format!("{A}:1-7"))).unwrap();
        assert_eq!(told, question(&set(&format!("{A}:1-7")).encode().unwrap()));
        assert_eq!(narrowed(&asked, &set(&format!("{A}:1-20"))).unwrap(), asked);
        for cut in 0..asked.len() {
            assert_eq!(narrowed(&asked[..cut], &GtidSet::default()), None, "cut at {cut}");
        }
    }
}
