//! The client's messages.

/// Hops from header to header of what a client sends: first its startup packet, which has no kind, then messages.
#[derive(Debug, Default)]
pub(super) struct ClientScan {
    /// The part of a header that has been seen, when it was cut off by the end of a read.
    head: [u8; 5],
    have: usize,
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
            let (kind, len) = match (self.started && self.have == 0).then(|| bytes.split_first_chunk()).flatten() {
                Some((&[kind, a, b, c, d], rest)) => {
                    bytes = rest;
                    (kind, u32::from_be_bytes([a, b, c, d]))
                }
                None => match self.slow_header(&mut bytes) {
                    Some(header) => header,
                    None => return,
                },
            };
            match usize::try_from(len).ok().and_then(|l| l.checked_sub(4)) {
                Some(left) => self.left = left,
                None => self.lost = true,
            }
            if self.started {
                seen(kind);
            }
            self.started = true;
        }
    }

    /// A header byte by byte. `None`: its end has not come yet.
    fn slow_header(&mut self, bytes: &mut &[u8]) -> Option<(u8, u32)> {
        if !self.started && self.have == 0 {
            self.have = 1;
        }
        while let Some(slot) = self.head.get_mut(self.have) {
            let (&first, rest) = bytes.split_first()?;
            *slot = first;
            *bytes = rest;
            self.have += 1;
        }
        self.have = 0;
        let [kind, a, b, c, d] = self.head;
        Some((kind, u32::from_be_bytes([a, b, c, d])))
    }

    pub(super) fn between_messages(&self) -> bool {
        self.started && self.have == 0 && self.left == 0 && !self.lost
    }
}
