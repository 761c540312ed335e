//! `[database.ready]` and `[database.health]`: how a database is asked.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::values::{millis, template, words};
use super::{CheckText, HowText, Wrong, wrong};
use crate::volume::template::Use;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadyTable {
    tcp: Option<Spanned<bool>>,
    send: Option<Spanned<String>>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
    expect: Option<Spanned<String>>,
    every_ms: Option<Spanned<i64>>,
    deadline_ms: Option<Spanned<i64>>,
    pub(super) within_ms: Option<Spanned<i64>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthTable {
    tcp: Option<Spanned<bool>>,
    send: Option<Spanned<String>>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
    expect: Option<Spanned<String>>,
    every_ms: Option<Spanned<i64>>,
    deadline_ms: Option<Spanned<i64>>,
    pub(super) failures: Option<Spanned<i64>>,
}

/// What one table says of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CheckPart {
    how: Option<HowText>,
    every: Option<Duration>,
    deadline: Option<Duration>,
}

/// The keys that say how a check asks.
struct Asks<'a> {
    table: &'static str,
    tcp: Option<&'a Spanned<bool>>,
    send: Option<&'a Spanned<String>>,
    command: Option<&'a Spanned<Vec<Spanned<String>>>>,
    expect: Option<&'a Spanned<String>>,
    every: Option<&'a Spanned<i64>>,
    deadline: Option<&'a Spanned<i64>>,
}

impl ReadyTable {
    pub(super) fn check(&self) -> Result<CheckPart, Wrong> {
        let (table, every, deadline) = ("database.ready", self.every_ms.as_ref(), self.deadline_ms.as_ref());
        let (tcp, send) = (self.tcp.as_ref(), self.send.as_ref());
        let (command, expect) = (self.command.as_ref(), self.expect.as_ref());
        Asks { table, tcp, send, command, expect, every, deadline }.check()
    }
}

impl HealthTable {
    pub(super) fn check(&self) -> Result<CheckPart, Wrong> {
        let (table, every, deadline) = ("database.health", self.every_ms.as_ref(), self.deadline_ms.as_ref());
        let (tcp, send) = (self.tcp.as_ref(), self.send.as_ref());
        let (command, expect) = (self.command.as_ref(), self.expect.as_ref());
        Asks { table, tcp, send, command, expect, every, deadline }.check()
    }
}

impl Asks<'_> {
    fn check(&self) -> Result<CheckPart, Wrong> {
        let key = |name: &str| format!("{}.{name}", self.table);
        if let Some(expect) = self.expect.filter(|e| e.get_ref().is_empty()) {
            return Err(wrong(expect, key("expect"), "use the text that a good answer holds, or leave it out"));
        }
        if let Some(tcp) = self.tcp.filter(|t| !t.get_ref()) {
            return Err(wrong(tcp, key("tcp"), "use true, or a command instead"));
        }
        let expect = self.expect.map(|e| e.get_ref().clone());
        let how = match (self.command, self.send, self.tcp) {
            (Some(command), None, None) if !command.get_ref().is_empty() => Some(HowText::Command {
                words: words(Some(command.get_ref()), &key("command"))?.unwrap_or_default(),
                expect,
            }),
            (Some(command), _, _) => {
                let allowed = "use either a command (a program with its arguments) or tcp and send";
                let value = command.get_ref().iter().map(Spanned::get_ref).collect::<Vec<_>>();
                return Err(Wrong { value: format!("{value:?}"), ..wrong(command, key("command"), allowed) });
            }
            (None, None, None) if expect.is_none() => None,
            (None, send, _) => Some(HowText::Connect {
                send: send.map(|s| template(s, &key("send"), Use::Private)).transpose()?,
                expect,
            }),
        };
        Ok(CheckPart {
            how,
            every: millis(self.every, &key("every_ms"), 10..=3_600_000)?,
            deadline: millis(self.deadline, &key("deadline_ms"), 10..=3_600_000)?,
        })
    }
}

impl CheckPart {
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            how: self.how.or(below.how),
            every: self.every.or(below.every),
            deadline: self.deadline.or(below.deadline),
        }
    }

    pub(super) fn complete(self, every: Duration, deadline: Duration) -> CheckText {
        CheckText {
            how: self.how.unwrap_or(HowText::Connect { send: None, expect: None }),
            every: self.every.unwrap_or(every),
            deadline: self.deadline.unwrap_or(deadline),
        }
    }
}
