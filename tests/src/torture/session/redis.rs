//! Redis: the list and the registers are what they are called there. Values have something after their number, so that they are
//! of many lengths, and one that is damaged is seen.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::{Failure, Question, Reply, Session};
use crate::redis::{self, Answer};

const LIST: &str = "torture:list";
/// Both at one moment.
const LOOK: &str = "return {redis.call('llen', KEYS[1]), redis.call('lindex', KEYS[1], -1)}";

/// A session.
pub struct Redis(redis::Session);

/// The number and its filling.
fn text(value: u64) -> String {
    format!("{value}:{}", "x".repeat(usize::try_from(value * 37 % 1500).unwrap_or(0)))
}

/// The number of an undamaged text.
fn number(answer: &Answer) -> Result<Option<u64>> {
    let found = match answer {
        Answer::Text(None) => return Ok(None),
        Answer::Text(Some(found)) => std::str::from_utf8(found).context("a value that is no text")?,
        other => bail!("{other:?} instead of a value"),
    };
    let value: u64 = found.split(':').next().unwrap_or_default().parse().context("a value's number")?;
    ensure!(found == text(value), "value {value} is damaged: {} bytes", found.len());
    Ok(Some(value))
}

fn register(key: u32) -> String {
    format!("torture:{key}")
}

impl Redis {
    /// Opens a session.
    ///
    /// # Errors
    /// No address takes one: each is tried for so long.
    pub async fn open(dsn: &str, each: Duration) -> Result<Self> {
        redis::Session::connect(dsn, each).await.map(Self)
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// It can't be read, or a value is damaged.
    pub async fn list(dsn: &str) -> Result<Vec<u64>> {
        let mut session = redis::Session::connect(dsn, Duration::from_secs(10)).await?;
        let answer = timeout(Duration::from_secs(60), session.ask(&["LRANGE", LIST, "0", "-1"])).await??;
        let Answer::List(list) = answer else { bail!("LRANGE answered {answer:?}") };
        list.iter().map(|item| number(item)?.context("an item of the list that is nothing")).collect()
    }

    async fn reply(&mut self, question: Question) -> Result<Reply> {
        let mut reply = Reply::default();
        match question {
            Question::Append(value) => match self.0.ask(&["RPUSH", LIST, &text(value)]).await? {
                Answer::Number(length) => reply.length = length.try_into()?,
                other => bail!("RPUSH answered {other:?}"),
            },
            Question::Look => match self.0.ask(&["EVAL", LOOK, "1", LIST]).await? {
                Answer::List(found) => {
                    let [Answer::Number(length), last] = found.as_slice() else { bail!("EVAL answered {found:?}") };
                    (reply.length, reply.value) = ((*length).try_into()?, number(last)?);
                }
                other => bail!("EVAL answered {other:?}"),
            },
            Question::Write { key, value } => match self.0.ask(&["SET", &register(key), &text(value)]).await? {
                Answer::Word(word) if word == "OK" => {}
                other => bail!("SET answered {other:?}"),
            },
            Question::Read(key) => reply.value = number(&self.0.ask(&["GET", &register(key)]).await?)?,
        }
        Ok(reply)
    }
}

impl Session for Redis {
    fn ask(&mut self, question: Question) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move {
            self.reply(question).await.map_err(|e| {
                let said = e.to_string();
                if e.is::<std::io::Error>() || said == "closed" {
                    return Failure::unknown("connection");
                }
                // Redis's first word says what it is: READONLY, LOADING, …
                let word = said.split_whitespace().next().unwrap_or_default();
                if word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase()) && !said.contains(" answered ") {
                    return Failure::unknown(word);
                }
                Failure { impossible: true, ..Failure::unknown(said) }
            })
        })
    }

    /// A new append-only file is written beside the old one, and renamed.
    fn tidy(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _ = self.0.ask(&["BGREWRITEAOF"]).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_value_is_told_from_a_whole_one() {
        let answer = |text: &str| Answer::Text(Some(text.as_bytes().to_vec()));
        assert_eq!(number(&answer(&text(40))).unwrap(), Some(40));
        assert_eq!(number(&Answer::Text(None)).unwrap(), None);
        assert!(number(&answer("40:xx")).is_err());
        assert!(number(&answer("")).is_err());
    }
}
