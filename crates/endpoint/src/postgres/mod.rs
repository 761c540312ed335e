//! As much of PostgreSQL's protocol as an endpoint has to know.

mod client;
mod header;
mod message;
mod server;
mod startup;

pub(crate) use message::fatal;
pub(crate) use startup::{Opening, StartupError, open};

use client::ClientScan;
use server::ServerScan;

/// Is a server's very first message "not now" (starting up, shutting down)?
pub(crate) fn says_not_yet(first: &[u8]) -> bool {
    first.first() == Some(&b'E') && memchr::memmem::find(first, b"\0C57P03\0").is_some()
}

/// Follows both directions of one session, from header to header.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    client: ClientScan,
    server: ServerScan,
    /// Answers owed to `Query` and `FunctionCall`, and to the startup packet: each gets one `ReadyForQuery`.
    queries: u32,
    /// The same for `Sync`.
    syncs: u32,
    /// Messages of the extended protocol were sent, and no `Sync` after them.
    unsynced: bool,
    /// The server waits for `CopyData`; it ignores `Sync` until the copy is over.
    copy_in: bool,
    /// The client has said that it is leaving.
    terminated: bool,
    /// The last `ReadyForQuery`'s status: `I` between transactions.
    status: u8,
}

impl Tracker {
    /// A session whose startup packet comes through [`Self::note_client`] too.
    pub(crate) fn new() -> Self {
        Self { queries: 1, ..Self::default() }
    }

    /// Takes note of bytes on their way to the server.
    pub(crate) fn note_client(&mut self, bytes: &[u8]) {
        let Self { client, queries, syncs, unsynced, copy_in, terminated, .. } = self;
        client.scan(bytes, |kind| match kind {
            b'Q' | b'F' => *queries += 1,
            b'S' if !*copy_in => {
                *syncs += 1;
                *unsynced = false;
            }
            b'P' | b'B' | b'E' | b'D' | b'C' | b'H' => *unsynced = true,
            b'c' | b'f' => *copy_in = false,
            b'X' => *terminated = true,
            _ => {}
        });
    }

    /// Takes note of bytes from the server *before* they are passed on. `Some(n)`: pass on the first `n` (up to a
    /// boundary between messages) and nothing more, because a wait for the standbys has been cancelled.
    pub(crate) fn note_server(&mut self, bytes: &[u8]) -> Option<usize> {
        let Self { server, queries, syncs, copy_in, status, .. } = self;
        server.scan(bytes, |kind, payload| match kind {
            b'Z' => {
                *status = payload;
                *copy_in = false;
                // In which order they were asked does not matter: what counts is that none is left.
                if *queries > 0 {
                    *queries -= 1;
                } else {
                    *syncs = syncs.saturating_sub(1);
                }
            }
            b'G' => {
                *copy_in = true;
                if *queries == 0 {
                    // A COPY of the extended protocol: the Sync that came right after its Execute gets no answer.
                    *syncs = 0;
                }
            }
            b'E' => *copy_in = false,
            _ => {}
        })
    }

    /// Is the server between two messages?
    pub(crate) fn between_messages(&self) -> bool {
        self.server.between_messages()
    }

    /// Is the session between two transactions, with no answer owed?
    pub(crate) fn idle(&self) -> bool {
        self.status == b'I' && !self.in_request() && self.client.between_messages() && self.between_messages()
    }

    /// Is an answer owed to the client, so that it can't know whether its last transaction was committed?
    pub(crate) fn in_request(&self) -> bool {
        self.queries > 0 || self.syncs > 0 || self.unsynced
    }

    /// Has the session got past authentication?
    pub(crate) fn ready_once(&self) -> bool {
        self.status != 0
    }

    /// Does the client know already that the session is over: it has said so itself, or the server's last word was an error?
    pub(crate) fn over(&self) -> bool {
        self.terminated || self.server.last() == b'E'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msg(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut m = vec![kind];
        m.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        m.extend(body);
        m
    }

    fn started() -> Tracker {
        let mut t = Tracker::new();
        t.note_client(&[0, 0, 0, 9, 0, 3, 0, 0, 0]);
        assert!(!t.idle() && !t.ready_once());
        t.note_server(&msg(b'R', &[0; 4]));
        assert!(!t.idle());
        t.note_server(&msg(b'Z', b"I"));
        assert!(t.idle() && t.ready_once());
        t
    }

    #[test]
    fn a_pipeline_is_busy_until_its_last_answer() {
        let mut t = started();
        t.note_client(&[msg(b'Q', b"1\0"), msg(b'Q', b"2\0")].concat());
        t.note_server(&msg(b'Z', b"I"));
        assert!(!t.idle());
        t.note_server(&msg(b'Z', b"I"));
        assert!(t.idle());
    }

    #[test]
    fn a_transaction_is_busy_between_its_statements() {
        let mut t = started();
        t.note_client(&msg(b'Q', b"begin\0"));
        t.note_server(&msg(b'Z', b"T"));
        assert!(!t.idle() && !t.in_request());
        t.note_client(&msg(b'Q', b"commit\0"));
        t.note_server(&msg(b'Z', b"I"));
        assert!(t.idle());
    }

    #[test]
    fn the_extended_protocol_is_busy_until_its_sync_is_answered() {
        let mut t = started();
        t.note_client(&[msg(b'P', b"x"), msg(b'B', b"x"), msg(b'E', b"x")].concat());
        assert!(!t.idle());
        t.note_client(&msg(b'S', b""));
        assert!(!t.idle());
        t.note_server(&msg(b'Z', b"I"));
        assert!(t.idle());
    }

    #[test]
    fn a_copy_by_either_protocol_ends_idle() {
        let mut t = started();
        t.note_client(&msg(b'Q', b"copy\0"));
        t.note_server(&msg(b'G', b"xxx"));
        t.note_client(&[msg(b'd', b"1"), msg(b'c', b"")].concat());
        assert!(!t.idle());
        t.note_server(&[msg(b'C', b"COPY 1\0"), msg(b'Z', b"I")].concat());
        assert!(t.idle());

        t.note_client(&[msg(b'P', b"x"), msg(b'B', b"x"), msg(b'E', b"x"), msg(b'S', b"")].concat());
        t.note_server(&msg(b'G', b"xxx"));
        t.note_client(&[msg(b'd', b"1"), msg(b'c', b""), msg(b'S', b"")].concat());
        assert!(!t.idle());
        t.note_server(&[msg(b'C', b"COPY 1\0"), msg(b'Z', b"I")].concat());
        assert!(t.idle());
    }

    #[test]
    fn half_a_message_is_busy() {
        let mut t = started();
        let q = msg(b'Q', b"select 1\0");
        for cut in 1..q.len() {
            t.note_client(&q[..cut]);
            assert!(!t.idle(), "{cut}");
            t.note_client(&q[cut..]);
            t.note_server(&msg(b'Z', b"I"));
            assert!(t.idle(), "{cut}");
        }
    }
}
