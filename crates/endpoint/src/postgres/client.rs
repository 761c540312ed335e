//! The client's messages.

use super::header::{Header, body};

/// Hops from header to header of what a client sends: first its startup packet, which has no kind, then messages.
#[derive(Debug, Default)]
pub(super) struct ClientScan {
    header: Header,
    /// Bytes of the message's body that are still to come.
    left: usize,
    started: bool,
    /// The stream makes no sense; the server will say so.
    lost: bool,
}

impl ClientScan {
    /// Calls `seen` with the kind of each message that begins in `bytes`.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut seen: impl FnMut(u8)) {
        loop {
            if self.lost {
                return;
            }
            let Some(rest) = bytes.get(self.left..) else {
                self.left -= bytes.len();
                return;
            };
            bytes = rest;
            self.left = 0;
            if !self.started {
                self.header.without_kind();
            }
            let Some((kind, length)) = self.header.take(&mut bytes) else { return };
            match body(length) {
                Some(left) => self.left = left,
                None => self.lost = true,
            }
            if self.started {
                seen(kind);
            }
            self.started = true;
        }
    }

    pub(super) fn between_messages(&self) -> bool {
        self.started && self.header.is_empty() && self.left == 0 && !self.lost
    }
}
