//! The answer to one command, packet by packet.

use super::capabilities::Capabilities;
use super::command::Command;
use super::packets::Packet;
use super::reply::{self, status};

/// Which packet of an answer comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The first one, of the whole or of one more result.
    #[default]
    First,
    /// One of so many definitions.
    Definition(u16, After),
    /// The EOF after them.
    DefinitionsEnd(After),
    /// A row, or their end.
    Row,
    /// None: it is the client's turn, to send a file.
    File,
}

/// What follows definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Rows.
    Rows,
    /// So many others, of a statement's columns.
    Columns(u16),
    /// Nothing.
    Nothing,
}

/// How far an answer has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Nothing more of it is to come.
    pub(super) done: bool,
    /// Where the packet had some: the session's status flags.
    pub(super) status: Option<u16>,
}

impl Step {
    const MORE: Self = Self { done: false, status: None };
    const DONE: Self = Self { done: true, status: None };
}

impl Answer {
    /// Takes the next packet of the answer to `command`. `None`: there is no such packet in such an answer.
    pub(super) fn take(&mut self, command: Command, packet: &Packet<'_>, agreed: Capabilities) -> Option<Step> {
        if *self == Self::File {
            return None;
        }
        if packet.head.first() == Some(&reply::ERR) {
            if reply::is_progress(reply::error(packet)?) {
                return Some(Step::MORE);
            }
            *self = Self::First;
            return Some(Step::DONE);
        }
        let step = match *self {
            Self::First => match command {
                Command::Query | Command::Execute => self.result(packet, agreed)?,
                Command::Prepare => self.prepared(packet, agreed)?,
                Command::Rows => self.row(command, packet, agreed)?,
                Command::Text => Step::DONE,
                Command::Simple => Step { done: true, status: Some(reply::eof(packet).or_else(|| reply::ok(packet))?) },
            },
            Self::Definition(left, after) => match left.checked_sub(1)? {
                0 => self.defined(after, agreed),
                left => {
                    *self = Self::Definition(left, after);
                    Step::MORE
                }
            },
            Self::DefinitionsEnd(after) => {
                let status = reply::eof(packet)?;
                let is_left = command == Command::Execute && after == After::Rows && status & status::CURSOR != 0;
                let next = if is_left { After::Nothing } else { after };
                Step { status: Some(status), ..self.go_on(next, agreed) }
            }
            Self::Row => self.row(command, packet, agreed)?,
            Self::File => return None,
        };
        if step.done {
            *self = Self::First;
        }
        Some(step)
    }

    /// The client has sent its file: the packet that follows is as if there had been none.
    pub(super) fn file_ended(&mut self) {
        *self = Self::First;
    }

    /// An OK packet, the request for a file, or a column count.
    fn result(&mut self, packet: &Packet<'_>, agreed: Capabilities) -> Option<Step> {
        match packet.head.first()? {
            &reply::OK => {
                let status = reply::ok(packet)?;
                Some(Step { done: status & status::MORE_RESULTS == 0, status: Some(status) })
            }
            0xfb => {
                *self = Self::File;
                Some(Step::MORE)
            }
            _ => {
                let (count, rest) = reply::integer(packet.head)?;
                let count = u16::try_from(count).ok()?;
                let are_left_out = match (rest, agreed.cache_metadata()) {
                    ([], false) | ([1], true) => false,
                    ([0], true) => true,
                    _ => return None,
                };
                Some(if are_left_out {
                    self.defined(After::Rows, agreed)
                } else {
                    self.define(count, After::Rows, agreed)
                })
            }
        }
    }

    fn prepared(&mut self, packet: &Packet<'_>, agreed: Capabilities) -> Option<Step> {
        // OK, the statement's number, columns, parameters.
        let &[reply::OK, _, _, _, _, a, b, c, d] = packet.head.first_chunk()? else { return None };
        let (columns, parameters) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        Some(self.define(parameters, After::Columns(columns), agreed))
    }

    fn row(&mut self, command: Command, packet: &Packet<'_>, agreed: Capabilities) -> Option<Step> {
        if !reply::is_end(packet) {
            *self = Self::Row;
            return Some(Step::MORE);
        }
        let status = if agreed.deprecate_eof() { reply::ok(packet) } else { reply::eof(packet) }?;
        let has_more = status & status::MORE_RESULTS != 0 && command != Command::Rows;
        *self = Self::First;
        Some(Step { done: !has_more, status: Some(status) })
    }

    /// So many definitions come, and their EOF: both not at all if there are none.
    fn define(&mut self, count: u16, after: After, agreed: Capabilities) -> Step {
        if count == 0 {
            return self.go_on(after, agreed);
        }
        *self = Self::Definition(count, after);
        Step::MORE
    }

    /// The definitions are complete.
    fn defined(&mut self, after: After, agreed: Capabilities) -> Step {
        if agreed.deprecate_eof() {
            return self.go_on(after, agreed);
        }
        *self = Self::DefinitionsEnd(after);
        Step::MORE
    }

    fn go_on(&mut self, after: After, agreed: Capabilities) -> Step {
        match after {
            After::Rows => {
                *self = Self::Row;
                Step::MORE
            }
            After::Columns(count) => self.define(count, After::Nothing, agreed),
            After::Nothing => Step::DONE,
        }
    }
}
