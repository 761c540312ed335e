//! The header of a message: its kind, and its length with these four bytes.

/// Reads headers, also those that are cut off by the end of a read.
#[derive(Debug, Default)]
pub(super) struct Header {
    bytes: [u8; 5],
    have: usize,
}

impl Header {
    /// No part of a header has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.have == 0
    }

    /// The next one has no kind: a client's first.
    pub(super) fn without_kind(&mut self) {
        self.have = self.have.max(1);
    }

    /// Takes a header, or what there is of it, from the front of `bytes`: the kind and the length. `None`: its end has not
    /// come yet.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Option<(u8, u32)> {
        if self.have == 0
            && let Some((&[kind, a, b, c, d], rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some((kind, u32::from_be_bytes([a, b, c, d])));
        }
        while let Some(slot) = self.bytes.get_mut(self.have) {
            let (&first, rest) = bytes.split_first()?;
            *slot = first;
            *bytes = rest;
            self.have += 1;
        }
        self.have = 0;
        let [kind, a, b, c, d] = self.bytes;
        Some((kind, u32::from_be_bytes([a, b, c, d])))
    }
}

/// How many bytes come after a header of this length. `None`: there is no such message.
pub(super) fn body(length: u32) -> Option<usize> {
    usize::try_from(length).ok()?.checked_sub(4)
}
