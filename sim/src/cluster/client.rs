//! Clients: they ask through the endpoints, and note what they are told and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};
use trine_history::list::{Append, Read};
use trine_history::register::{Action, Operation};
use trine_history::{Outcome, Span};
use turmoil::net::TcpStream;

use super::world::{Shared, lock};

/// How long a client waits for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Registers.
const KEYS: u64 = 3;

/// What all clients saw.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) appends: Vec<Append>,
    pub(super) reads: Vec<Read>,
    /// Of standbys: they may be old, but must not show what is taken back.
    pub(super) standby_reads: Vec<Read>,
    pub(super) registers: BTreeMap<u64, Vec<Operation>>,
    next: u64,
    /// When each client last had an append acknowledged that it had sent when.
    pub(super) served: BTreeMap<usize, u64>,
    /// They are to end.
    pub(super) stop: bool,
}

/// The notes, shared.
pub(super) type Pad = Arc<Mutex<Notes>>;

/// The notes, for a moment.
pub(super) fn notes(pad: &Pad) -> MutexGuard<'_, Notes> {
    pad.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) world: Shared,
    pub(super) pad: Pad,
    pub(super) writers: Vec<SocketAddr>,
    pub(super) readers: Vec<SocketAddr>,
    pub(super) rng: StdRng,
}

/// What a client asks.
enum Ask {
    Append(u64),
    List,
    Write(u64, u64),
    Read(u64),
}

impl Client {
    /// Until it is to end.
    pub(super) async fn run(mut self) {
        while !notes(&self.pad).stop {
            let standby = self.number == 0 && self.rng.random_bool(0.3);
            let doors = if standby { &self.readers } else { &self.writers };
            let door = doors.get(self.rng.random_range(0..doors.len())).copied();
            let connected = match door {
                Some(door) => timeout(PATIENCE, TcpStream::connect(door)).await,
                None => return,
            };
            if let Ok(Ok(stream)) = connected {
                self.session(stream, standby).await;
            }
            let pause = self.rng.random_range(10..150);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Until an answer does not come, or for a while.
    async fn session(&mut self, stream: TcpStream, standby: bool) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let requests = if standby { 3 } else { 40 };
        for _ in 0..requests {
            if notes(&self.pad).stop {
                return;
            }
            let pause = self.rng.random_range(0..50);
            sleep(Duration::from_millis(pause)).await;
            let ask = if standby { Ask::List } else { self.choose() };
            let line = match ask {
                Ask::Append(value) => format!("append {value}\n"),
                Ask::List => "list\n".to_owned(),
                Ask::Write(key, value) => format!("write {key} {value}\n"),
                Ask::Read(key) => format!("read {key}\n"),
            };
            let asked = lock(&self.world).now;
            let noted = self.note(&ask, asked);
            if write.write_all(line.as_bytes()).await.is_err() {
                return;
            }
            let Ok(Ok(Some(answer))) = timeout(PATIENCE, lines.next_line()).await else { return };
            let now = lock(&self.world).now;
            if !self.take(&ask, noted, asked, now, &answer, standby) {
                return;
            }
        }
    }

    fn choose(&mut self) -> Ask {
        let kind = self.rng.random_range(0..10);
        let key = self.rng.random_range(0..KEYS);
        let mut notes = notes(&self.pad);
        match kind {
            0..=4 => {
                notes.next += 1;
                Ask::Append(notes.next)
            }
            5 | 6 => Ask::List,
            7 => {
                notes.next += 1;
                Ask::Write(key, notes.next)
            }
            _ => Ask::Read(key),
        }
    }

    /// A write may take effect from the moment that it is sent. Gives its place among the notes.
    fn note(&self, ask: &Ask, asked: u64) -> usize {
        let mut notes = notes(&self.pad);
        let span = Span::unknown(asked);
        match *ask {
            Ask::Append(value) => {
                notes.appends.push(Append { value, span });
                notes.appends.len() - 1
            }
            Ask::Write(key, value) => {
                let of_key = notes.registers.entry(key).or_default();
                of_key.push(Operation { action: Action::Write(value), span });
                of_key.len() - 1
            }
            Ask::List | Ask::Read(_) => 0,
        }
    }

    /// Notes an answer. False: the session is of no use any more.
    fn take(&self, ask: &Ask, noted: usize, asked: u64, now: u64, answer: &str, standby: bool) -> bool {
        let mut notes = notes(&self.pad);
        let words: Vec<&str> = answer.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).filter(|n| *n > 0);
        let outcome = if words.first() == Some(&"refused") { Outcome::Refused } else { Outcome::Answered(now) };
        let span = Span { asked, outcome };
        match *ask {
            Ask::Append(_) => {
                if let Some(append) = notes.appends.get_mut(noted) {
                    append.span = span;
                }
                if span.is_answered() {
                    notes.served.insert(self.number, asked);
                }
            }
            Ask::Write(key, _) => {
                if let Some(operation) = notes.registers.entry(key).or_default().get_mut(noted) {
                    operation.span = span;
                }
            }
            Ask::List if words.first() == Some(&"list") => {
                let length = usize::try_from(number(1).unwrap_or(0)).unwrap_or(0);
                let read = Read { length, last: number(2), span };
                if standby { notes.standby_reads.push(read) } else { notes.reads.push(read) }
            }
            Ask::Read(key) if words.first() == Some(&"value") => {
                let action = Action::Read(number(1));
                notes.registers.entry(key).or_default().push(Operation { action, span });
            }
            // `perhaps`: it is known not to be certain.
            Ask::List | Ask::Read(_) => {}
        }
        outcome != Outcome::Refused
    }
}
