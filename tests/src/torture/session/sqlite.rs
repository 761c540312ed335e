//! SQLite behind the small HTTP server of its preset: one statement in, its rows out, durable by then. The length of the list is
//! the key that SQLite itself gives to the next row.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Failure, Question, Reply, Session, list_of};
use crate::cluster::Cluster;
use crate::dsn;

/// More than any answer here has.
const LONGEST: usize = 64 << 20;

/// A connection that is kept open.
pub struct Sqlite {
    stream: BufReader<TcpStream>,
    /// The header that says who asks.
    login: String,
}

impl Sqlite {
    /// Makes the tables.
    ///
    /// # Errors
    /// They can't be made.
    pub fn prepare(cluster: &Cluster, registers: u32) -> Result<()> {
        cluster.as_client(async move |dsn| {
            let mut session = Self::open(&dsn, Duration::from_secs(10)).await?;
            session.rows("create table list (pos integer primary key, value integer not null)").await?;
            session.rows("create table registers (key integer primary key, value integer)").await?;
            for key in 0..registers {
                session.rows(&format!("insert into registers (key) values ({key})")).await?;
            }
            Ok(())
        })
    }

    /// Opens a connection to the first address that takes it and answers.
    ///
    /// # Errors
    /// None does: each is tried for so long.
    pub async fn open(dsn: &str, each: Duration) -> Result<Self> {
        dsn::first(dsn, each, Self::one).await
    }

    async fn one(uri: &str) -> Result<Self> {
        let rest = uri.strip_prefix("http://").context("a URI of the server begins with http://")?;
        let (login, address) = rest.rsplit_once('@').context("no login in the URI")?;
        let stream = TcpStream::connect(address.trim_end_matches('/')).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: BufReader::new(stream), login: base64(login.as_bytes()) };
        // An endpoint takes a connection before it knows whether there is a database behind it.
        session.rows("select 1").await?;
        Ok(session)
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// It can't be read, or has a gap.
    pub async fn list(dsn: &str) -> Result<Vec<u64>> {
        let mut session = Self::open(dsn, Duration::from_secs(10)).await?;
        let rows = timeout(Duration::from_secs(60), session.rows("select pos, value from list order by pos")).await??;
        list_of(rows.iter().map(Vec::as_slice))
    }

    /// One statement, and its rows of numbers.
    async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<u64>>>> {
        let head = format!("POST / HTTP/1.1\r\nAuthorization: Basic {}\r\nContent-Length: {}", self.login, sql.len());
        self.stream.get_mut().write_all(format!("{head}\r\n\r\n{sql}").as_bytes()).await?;
        let status = self.line().await?;
        let mut length = 0;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().context("the length of an answer")?;
            }
        }
        ensure!(length <= LONGEST, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        ensure!(status.contains(" 200 "), "{}", String::from_utf8_lossy(&body));
        let rows: Vec<Vec<Value>> = serde_json::from_slice(&body).context("an answer that is no rows")?;
        Ok(rows.iter().map(|row| row.iter().map(Value::as_u64).collect()).collect())
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line).await? > 0, "closed");
        Ok(line.trim_end().to_owned())
    }

    async fn reply(&mut self, question: Question) -> Result<Reply> {
        let sql = match question {
            Question::Append(value) => format!("insert into list (value) values ({value}) returning pos, null"),
            Question::Look => "select pos, value from list order by pos desc limit 1".to_owned(),
            Question::Write { key, value } => {
                format!("update registers set value = {value} where key = {key} returning key, null")
            }
            Question::Read(key) => format!("select key, value from registers where key = {key}"),
        };
        let rows = self.rows(&sql).await?;
        let (first, value) = match rows.first().map(Vec::as_slice) {
            Some([Some(first), value]) => (*first, *value),
            // Nothing is in the list yet.
            None if question == Question::Look => (0, None),
            other => bail!("the row that answers {question:?}: {other:?}"),
        };
        Ok(Reply { length: usize::try_from(first)?, value, ..Reply::default() })
    }
}

impl Session for Sqlite {
    fn ask(&mut self, question: Question) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move {
            self.reply(question).await.map_err(|e| {
                let said = e.to_string();
                let connection = e.is::<std::io::Error>() || said == "closed";
                let impossible = said.starts_with("the row that") || said.contains("malformed");
                Failure { impossible, ..Failure::unknown(if connection { "connection".to_owned() } else { said }) }
            })
        })
    }
}

/// As a header has a login.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().chain([0, 0].iter()).take(3).fold(0_usize, |n, b| n << 8 | usize::from(*b));
        for at in 0..4 {
            text.push(if at <= three.len() { char::from(DIGITS[number >> (18 - 6 * at) & 63]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_written_as_headers_have_them() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("app:pw", "YXBwOnB3")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
