//! The same clients for Redis: its protocol over a plain connection, nothing else.
//!
//! A write is one transaction: the id becomes a field of the hash that is named as the table, and a counter goes up by one. So
//! the counter must be at least the number of acknowledged writes, and at most that and the unanswered ones.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::dsn;
use crate::ledger::Report;
use crate::writer::{self, Answered, Link, Live, WriterOptions};

/// More than any answer here has.
const LONGEST: usize = 64 << 20;

/// Is it a DSN of Redis? One URI, or several with commas between: any of them will do.
#[must_use]
pub fn is_redis(dsn: &str) -> bool {
    dsn.starts_with("redis://")
}

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A word, such as OK.
    Word(String),
    /// A number.
    Number(i64),
    /// A text; `None`: there is none.
    Text(Option<Vec<u8>>),
    /// Several.
    List(Vec<Answer>),
}

/// One session.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<TcpStream>,
}

/// A session of a writer's client.
pub(crate) struct Client {
    session: Session,
    table: String,
    client: usize,
}

/// The user (unless it is the default one), the password, and the address of one URI.
fn parts(uri: &str) -> Result<(Option<&str>, Option<&str>, &str)> {
    let rest = uri.trim().strip_prefix("redis://").context("a URI of Redis begins with redis://")?;
    let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(l, a)| (Some(l), a));
    let (user, password) =
        login.map_or((None, None), |l| l.split_once(':').map_or((Some(l), None), |(u, p)| (Some(u), Some(p))));
    Ok((user.filter(|u| !u.is_empty()), password, address.trim_end_matches('/')))
}

impl Session {
    /// Connects to the first that takes the session.
    ///
    /// # Errors
    /// None does; the last error.
    pub async fn connect(dsn: &str, within: Duration) -> Result<Self> {
        dsn::first(dsn, within, Self::one).await
    }

    async fn one(uri: &str) -> Result<Self> {
        let (user, password, address) = parts(uri)?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: BufReader::new(stream) };
        match (user, password) {
            (Some(user), Some(password)) => session.ask(&["AUTH", user, password]).await?,
            (None, Some(password)) => session.ask(&["AUTH", password]).await?,
            _ => session.ask(&["PING"]).await?,
        };
        Ok(session)
    }

    /// One command and its answer.
    ///
    /// # Errors
    /// The connection breaks, or Redis answers with an error.
    pub async fn ask(&mut self, command: &[&str]) -> Result<Answer> {
        self.send(&[command]).await?;
        self.answer().await
    }

    async fn send(&mut self, commands: &[&[&str]]) -> Result<()> {
        let mut text = String::new();
        for words in commands {
            text.push_str(&format!("*{}\r\n", words.len()));
            words.iter().for_each(|w| text.push_str(&format!("${}\r\n{w}\r\n", w.len())));
        }
        Ok(self.stream.get_mut().write_all(text.as_bytes()).await?)
    }

    async fn answer(&mut self) -> Result<Answer> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).context("an empty answer")?;
        Ok(match kind {
            "+" => Answer::Word(rest.to_owned()),
            "-" => bail!("{rest}"),
            ":" => Answer::Number(rest.parse()?),
            "$" if rest == "-1" => Answer::Text(None),
            "$" => {
                let length: usize = rest.parse()?;
                ensure!(length <= LONGEST, "an answer of {length} bytes");
                let mut text = vec![0; length + 2];
                self.stream.read_exact(&mut text).await?;
                text.truncate(length);
                Answer::Text(Some(text))
            }
            "*" => {
                let mut list = Vec::new();
                for _ in 0..rest.parse::<i64>()?.max(0) {
                    list.push(Box::pin(self.answer()).await?);
                }
                Answer::List(list)
            }
            _ => bail!("an answer that is none: {line:?}"),
        })
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line).await? > 0, "closed");
        Ok(line.trim_end().to_owned())
    }

    /// Writes an id.
    async fn write(&mut self, table: &str, id: i64, client: usize) -> Result<()> {
        let (id, client, counter) = (id.to_string(), client.to_string(), counter(table));
        self.send(&[&["MULTI"], &["HSET", table, &id, &client], &["INCR", &counter], &["EXEC"]]).await?;
        for _ in 0..3 {
            self.answer().await?;
        }
        match self.answer().await? {
            Answer::List(done) if done.len() == 2 => Ok(()),
            other => bail!("EXEC answered {other:?}"),
        }
    }
}

fn counter(table: &str) -> String {
    format!("{table}:writes")
}

/// Removes what an earlier run has written, waiting for the endpoint as long as it takes (up to `within`).
///
/// # Errors
/// It could not be done in time; the last error.
pub async fn prepare(options: &WriterOptions, within: Duration) -> Result<()> {
    writer::prepare(options, within).await
}

/// Which ids are there, and the counter.
///
/// # Errors
/// The connection breaks, or Redis answers with an error.
pub async fn written(dsn: &str, table: &str) -> Result<(BTreeSet<i64>, u64)> {
    let mut session = Session::connect(dsn, Duration::from_secs(10)).await?;
    let Answer::List(keys) = session.ask(&["HKEYS", table]).await? else { bail!("HKEYS did not answer with a list") };
    let id = |a: &Answer| match a {
        Answer::Text(Some(text)) => Ok(std::str::from_utf8(text)?.parse()?),
        other => bail!("{other:?} is no id"),
    };
    let ids = keys.iter().map(id).collect::<Result<_>>()?;
    let count = match session.ask(&["GET", &counter(table)]).await? {
        Answer::Text(Some(text)) => std::str::from_utf8(&text)?.parse()?,
        _ => 0,
    };
    Ok((ids, count))
}

/// Runs the clients until [`Live::stop`], and gives what they saw.
pub async fn run(options: WriterOptions, live: Arc<Live>) -> Report {
    writer::run(options, live).await
}

impl Link for Client {
    async fn prepare(options: &WriterOptions) -> Result<()> {
        let mut session = Session::connect(&options.dsn, Duration::from_secs(5)).await?;
        session.ask(&["DEL", &options.table, &counter(&options.table)]).await.map(drop)
    }

    async fn open(options: &WriterOptions, client: usize) -> Result<Self> {
        let session = Session::connect(&options.dsn, Duration::from_millis(options.connect_timeout_ms)).await?;
        Ok(Self { session, table: options.table.clone(), client })
    }

    async fn write(&mut self, id: i64) -> Result<Answered> {
        self.session.write(&self.table, id, self.client).await.map(|()| Answered::default())
    }

    async fn read(&mut self) -> Result<Answered> {
        self.session.ask(&["GET", &counter(&self.table)]).await.map(|_| Answered::default())
    }

    fn kind(e: &anyhow::Error) -> String {
        // Redis's first word says what it is: READONLY, LOADING, …
        let kind = if e.is::<tokio::time::error::Elapsed>() { "timeout".to_owned() } else { e.to_string() };
        kind.split_whitespace().next().unwrap_or_default().to_owned()
    }

    fn code(_: &anyhow::Error) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        assert_eq!(parts("redis://:pw@127.0.0.1:6432").unwrap(), (None, Some("pw"), "127.0.0.1:6432"));
        assert_eq!(parts("redis://app:pw@[::1]:1/").unwrap(), (Some("app"), Some("pw"), "[::1]:1"));
        assert_eq!(parts("redis://h:1").unwrap(), (None, None, "h:1"));
        assert!(parts("http://h:1").is_err());
    }
}
