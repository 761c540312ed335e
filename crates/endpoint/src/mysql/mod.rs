//! As much of the MySQL client/server protocol as an endpoint has to know: that of MariaDB and of MySQL.

mod answer;
mod capabilities;
mod command;
mod error;
mod packets;
mod renumber;
mod reply;
mod startup;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub(crate) use error::{Place, error, says_not_yet};
pub(crate) use startup::{First, StartupError, encrypt, greet, greeting, offer_tls};

use answer::Answer;
use capabilities::Capabilities;
use command::{Command, Request};
use packets::{Packet, Packets};
use renumber::Renumber;
use reply::status;

/// So many commands may wait for their answers before the session is followed no more: drivers send hundreds at a time.
const MOST_OWED: usize = 1 << 14;

/// An authentication plugin's word that it needs nothing more from the client: what follows is the server's, too.
const FAST_AUTH_DONE: &[u8] = &[1, 3];

/// Follows both directions of one session, packet by packet.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    client: Packets,
    server: Packets,
    dialogue: Dialogue,
    /// Up to the end of the authentication, where the client has sent one packet more than the server got.
    shift: Option<Box<Shift>>,
}

/// Changes the numbers of both directions: what is noted has the client's.
#[derive(Debug, Default)]
struct Shift {
    client: Renumber,
    server: Renumber,
}

impl Tracker {
    /// A session whose client has had this greeting; if it is `encrypted`, its request for that was answered here.
    pub(crate) fn greeted(greeting: &[u8], encrypted: bool) -> Self {
        let mut greeted = Self::default();
        greeted.server.scan(greeting, |packet| greeted.dialogue.take(|d| d.server(packet)));
        greeted.shift = encrypted.then(Box::default);
        greeted
    }

    /// Takes note of bytes on their way to the server, and makes them what the server has to get.
    pub(crate) fn note_client(&mut self, bytes: &mut [u8]) {
        let Self { client, dialogue, shift, .. } = self;
        client.scan(bytes, |packet| dialogue.take(|d| d.client(packet)));
        if let Some(shift) = shift {
            shift.client.add(u8::MAX, bytes);
        }
    }

    /// Takes note of bytes from the server, before they are passed on, and makes them what the client has to get.
    pub(crate) fn note_server(&mut self, bytes: &mut [u8]) {
        let Self { server, dialogue, shift, .. } = self;
        if let Some(shift) = shift {
            shift.server.add(1, bytes);
        }
        server.scan(bytes, |packet| dialogue.take(|d| d.server(packet)));
        if shift.is_some() && !matches!(dialogue.phase, Phase::Response | Phase::Authentication) {
            *shift = None;
        }
    }

    /// Is the rest of the session hidden (TLS, compression), or not understood? Then nothing that is said here holds.
    pub(crate) fn is_lost(&self) -> bool {
        self.dialogue.phase == Phase::Lost
    }

    /// Is the server between two packets, and has not said goodbye?
    pub(crate) fn between_messages(&self) -> bool {
        self.server.between_packets() && !self.is_lost() && self.dialogue.phase != Phase::Over
    }

    /// Is the session between two transactions, with no answer owed?
    ///
    /// After an error the transaction's state is not known: the server does not say it. What it said last is held on to.
    pub(crate) fn idle(&self) -> bool {
        let Dialogue { phase, owed, status, .. } = &self.dialogue;
        *phase == Phase::Commands
            && owed.is_empty()
            && *status & status::IN_TRANS == 0
            && self.client.between_packets()
            && self.server.between_packets()
    }

    /// Is an answer owed to the client, so that it can't know whether its last transaction was committed?
    pub(crate) fn in_request(&self) -> bool {
        !self.dialogue.owed.is_empty()
    }

    /// Has the session got past authentication?
    pub(crate) fn ready_once(&self) -> bool {
        self.dialogue.ready_once
    }

    /// Does the client know already that the session is over: it has said so itself, or the server has refused it?
    pub(crate) fn over(&self) -> bool {
        self.dialogue.phase == Phase::Over || self.dialogue.has_quit
    }

    /// Where an ERR packet of our own would come.
    pub(crate) fn place(&self) -> Place {
        Place { sequence: self.dialogue.next, has_state: self.dialogue.has_response }
    }
}

/// What a session is about.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The server's greeting is to come.
    #[default]
    Greeting,
    /// The client's response to it.
    Response,
    /// Client and server are about who the client is.
    Authentication,
    /// Commands and their answers.
    Commands,
    /// The server has said goodbye: an error that answers no command.
    Over,
    /// What follows is not known.
    Lost,
}

/// A command whose answer is not complete.
#[derive(Debug, Clone, Copy)]
struct Owed {
    command: Command,
    /// The sequence number of its last piece.
    last: u8,
}

/// Who says what next.
#[derive(Debug, Default)]
struct Dialogue {
    phase: Phase,
    agreed: Capabilities,
    /// The oldest one is being answered; the others were sent ahead.
    owed: VecDeque<Owed>,
    answer: Answer,
    /// The number of the server's next packet, as the client expects it: where the client is to speak first, the one after its
    /// packet.
    next: u8,
    /// The server's latest status flags.
    status: u16,
    has_response: bool,
    ready_once: bool,
    has_quit: bool,
}

impl Dialogue {
    /// Whether it goes on: not after a packet that does not fit.
    fn take(&mut self, packet: impl FnOnce(&mut Self) -> Option<()>) -> bool {
        let fits = self.phase != Phase::Lost && packet(self).is_some();
        if !fits {
            self.phase = Phase::Lost;
            self.owed = VecDeque::new();
        }
        fits
    }

    fn client(&mut self, packet: &Packet<'_>) -> Option<()> {
        match self.phase {
            Phase::Response => {
                self.agreed = self.agreed.taken(packet.head)?;
                self.has_response = true;
                self.phase = Phase::Authentication;
                self.next = packet.last.wrapping_add(1);
            }
            Phase::Authentication => {
                // It would be a command that was sent ahead, or a part of the authentication: who knows?
                if packet.first == 0 {
                    return None;
                }
                self.next = packet.last.wrapping_add(1);
            }
            Phase::Commands if self.answer == Answer::File => {
                self.next = packet.last.wrapping_add(1);
                if packet.length == 0 {
                    self.answer.file_ended();
                }
            }
            Phase::Commands => self.request(packet)?,
            Phase::Over => {}
            Phase::Greeting | Phase::Lost => return None,
        }
        Some(())
    }

    fn request(&mut self, packet: &Packet<'_>) -> Option<()> {
        if packet.first != 0 {
            return None;
        }
        match Request::of(*packet.head.first()?)? {
            Request::Command(command) => {
                if self.owed.len() >= MOST_OWED {
                    return None;
                }
                self.owed.push_back(Owed { command, last: packet.last });
                if self.owed.len() == 1 {
                    self.begin_answer();
                }
            }
            Request::Unanswered => {}
            Request::Quit => self.has_quit = true,
            Request::ChangeUser => {
                if !self.owed.is_empty() {
                    return None;
                }
                self.phase = Phase::Authentication;
                self.next = packet.last.wrapping_add(1);
            }
        }
        Some(())
    }

    fn server(&mut self, packet: &Packet<'_>) -> Option<()> {
        match self.phase {
            Phase::Greeting => {
                if packet.first != 0 {
                    return None;
                }
                if reply::error(packet).is_some() {
                    self.phase = Phase::Over;
                } else {
                    self.agreed = Capabilities::offered(packet.head)?;
                    self.phase = Phase::Response;
                }
                self.next = packet.last.wrapping_add(2);
            }
            Phase::Authentication => self.authentication(packet)?,
            Phase::Commands => match self.owed.front().map(|owed| owed.command) {
                Some(command) => self.answer(command, packet)?,
                // Out of turn the server only says why it closes.
                None => {
                    reply::error(packet)?;
                    self.phase = Phase::Over;
                }
            },
            Phase::Response => {
                reply::error(packet)?;
                self.phase = Phase::Over;
            }
            Phase::Over | Phase::Lost => return None,
        }
        Some(())
    }

    fn authentication(&mut self, packet: &Packet<'_>) -> Option<()> {
        match *packet.head.first()? {
            reply::OK => {
                if !self.agreed.can_be_followed() {
                    return None;
                }
                self.status = reply::ok(packet)?;
                self.phase = Phase::Commands;
                self.ready_once = true;
                self.begin_answer();
            }
            reply::ERR => {
                reply::error(packet)?;
                self.phase = Phase::Over;
            }
            // Another plugin, or a plugin's question.
            _ => {
                let has_turn = packet.head == FAST_AUTH_DONE;
                self.next = packet.last.wrapping_add(if has_turn { 1 } else { 2 });
            }
        }
        Some(())
    }

    fn answer(&mut self, command: Command, packet: &Packet<'_>) -> Option<()> {
        if packet.first != self.next {
            return None;
        }
        self.next = packet.last.wrapping_add(1);
        let step = self.answer.take(command, packet, self.agreed)?;
        if let Some(status) = step.status {
            self.status = status;
        }
        if step.done {
            self.owed.pop_front();
            self.begin_answer();
        } else if self.answer == Answer::File {
            // What was sent ahead would be taken for the file.
            if self.owed.len() > 1 {
                return None;
            }
            self.next = self.next.wrapping_add(1);
        }
        Some(())
    }

    /// The next answer is that to the oldest command, or to the one that the client sends next: clients that are told goodbye
    /// meanwhile read it as that one's.
    fn begin_answer(&mut self) {
        self.next = self.owed.front().map_or(1, |owed| owed.last.wrapping_add(1));
    }
}
