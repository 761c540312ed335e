//! The packets of one direction.

/// So much of a packet is kept to be looked into: a greeting is the longest of what is, its version has 60 bytes at most.
const HEAD: usize = 128;

/// What one piece of a packet holds at most. One that is as long as this is continued in the next piece.
pub(super) const PIECE: usize = 0xff_ffff;

/// A packet that has passed by, all its pieces together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    /// The sequence number of its first piece.
    pub(super) first: u8,
    /// That of its last one.
    pub(super) last: u8,
    /// How long it was, without headers.
    pub(super) length: u64,
    /// How it began.
    pub(super) head: &'a [u8],
}

/// Hops from header to header: a length of three bytes, and a sequence number.
#[derive(Debug)]
pub(super) struct Packets {
    header: [u8; 4],
    /// Bytes of a header that has not come to its end.
    have: usize,
    /// Bytes of the piece that are still to come.
    left: usize,
    /// The packet that is passing by, unless it came as a whole.
    open: Option<Open>,
    head: [u8; HEAD],
}

#[derive(Debug, Clone, Copy)]
struct Open {
    first: u8,
    last: u8,
    length: u64,
    /// Its latest piece is not the last one.
    continues: bool,
    /// Bytes kept of it.
    kept: usize,
}

impl Default for Packets {
    fn default() -> Self {
        Self { header: [0; 4], have: 0, left: 0, open: None, head: [0; HEAD] }
    }
}

impl Packets {
    /// No part of a packet has been seen.
    pub(super) fn between_packets(&self) -> bool {
        self.have == 0 && self.open.is_none()
    }

    /// Calls `seen` with each packet that ends in `bytes`, for as long as it says true.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut seen: impl FnMut(&Packet<'_>) -> bool) {
        loop {
            if let Some(open) = &mut self.open {
                let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
                bytes = rest;
                for (slot, byte) in self.head.iter_mut().skip(open.kept).zip(body) {
                    *slot = *byte;
                    open.kept += 1;
                }
                self.left -= body.len();
                if self.left > 0 {
                    return;
                }
                if !open.continues {
                    let Open { first, last, length, kept, .. } = *open;
                    self.open = None;
                    let head = self.head.get(..kept).unwrap_or_default();
                    if !seen(&Packet { first, last, length, head }) {
                        return;
                    }
                }
            }
            let Some((length, sequence)) = self.take_header(&mut bytes) else { return };
            if self.open.is_none()
                && length < PIECE
                && let Some((body, rest)) = bytes.split_at_checked(length)
            {
                // Most packets come as a whole: nothing of them has to be kept.
                bytes = rest;
                let head = body.get(..HEAD).unwrap_or(body);
                if !seen(&Packet { first: sequence, last: sequence, length: length as u64, head }) {
                    return;
                }
                continue;
            }
            let open = self.open.get_or_insert(Open { first: sequence, last: 0, length: 0, continues: false, kept: 0 });
            open.last = sequence;
            open.length = open.length.saturating_add(length as u64);
            open.continues = length == PIECE;
            self.left = length;
        }
    }

    /// Takes a header, or what there is of it, from the front of `bytes`. `None`: its end has not come yet.
    fn take_header(&mut self, bytes: &mut &[u8]) -> Option<(usize, u8)> {
        if self.have == 0
            && let Some((&[a, b, c, sequence], rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some((length([a, b, c]), sequence));
        }
        while let Some(slot) = self.header.get_mut(self.have) {
            let (&first, rest) = bytes.split_first()?;
            *slot = first;
            *bytes = rest;
            self.have += 1;
        }
        self.have = 0;
        let [a, b, c, sequence] = self.header;
        Some((length([a, b, c]), sequence))
    }
}

fn length([a, b, c]: [u8; 3]) -> usize {
    usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First and last sequence number, length, and the head.
    type Seen = (u8, u8, u64, Vec<u8>);

    fn run(packets: &mut Packets, bytes: &[u8]) -> Vec<Seen> {
        let mut seen = vec![];
        packets.scan(bytes, |p| {
            seen.push((p.first, p.last, p.length, p.head.to_vec()));
            true
        });
        seen
    }

    #[test]
    fn packets_are_the_same_however_the_reads_fall() {
        let long: Vec<u8> = (0..200).collect();
        let all = [&[1, 0, 0, 0, 9], &[0, 0, 0, 1][..], &[200, 0, 0, 2], &long, &[2, 0, 0, 255, 7, 8]].concat();
        let expected =
            vec![(0, 0, 1, vec![9]), (1, 1, 0, vec![]), (2, 2, 200, long[..HEAD].to_vec()), (255, 255, 2, vec![7, 8])];
        for a in 0..=all.len() {
            for b in [a, a + 1, a + 3, a + 7, a + 50] {
                let (mut packets, b) = (Packets::default(), b.min(all.len()));
                let mut seen = run(&mut packets, &all[..a]);
                seen.extend(run(&mut packets, &all[a..b]));
                seen.extend(run(&mut packets, &all[b..]));
                assert_eq!(seen, expected, "{a} {b}");
                assert!(packets.between_packets());
            }
        }
    }

    #[test]
    fn a_long_packet_is_one_up_to_its_first_shorter_piece() {
        for (more, last) in [(0, 2), (5, 2)] {
            let mut packets = Packets::default();
            for (sequence, length) in [(0, PIECE), (1, PIECE), (2, more)] {
                let [a, b, c, _] = u32::try_from(length).unwrap().to_le_bytes();
                assert_eq!(run(&mut packets, &[a, b, c]), vec![]);
                let mut left = [&[sequence][..], &vec![sequence; length]].concat();
                let end = left.split_off(left.len() - left.len().min(1));
                for part in left.chunks(1 << 20) {
                    assert_eq!(run(&mut packets, part), vec![]);
                    assert!(!packets.between_packets());
                }
                let seen = run(&mut packets, &end);
                if sequence < 2 {
                    assert_eq!(seen, vec![]);
                } else {
                    assert_eq!(seen, vec![(0, last, (2 * PIECE + more) as u64, vec![0; HEAD])]);
                }
            }
            assert!(packets.between_packets());
        }
    }

    #[test]
    fn nothing_is_read_after_the_last_one_that_is_wanted() {
        let mut seen = 0;
        Packets::default().scan(&[0, 0, 0, 0, 0, 0, 0, 1], |_| {
            seen += 1;
            false
        });
        assert_eq!(seen, 1);
    }
}
