//! Other sequence numbers.

/// Changes the sequence numbers of one direction's packets where they lie, however they are cut by the reads.
#[derive(Debug, Default)]
pub(super) struct Renumber {
    /// Bytes of a header that have been seen, and the length that they tell.
    have: u32,
    length: usize,
    /// Bytes of the packet that are still to come.
    left: usize,
}

impl Renumber {
    /// Adds this to each number.
    pub(super) fn add(&mut self, by: u8, mut bytes: &mut [u8]) {
        loop {
            let skip = self.left.min(bytes.len());
            self.left -= skip;
            let Some((byte, rest)) = bytes.get_mut(skip..).and_then(<[u8]>::split_first_mut) else { return };
            bytes = rest;
            if self.have < 3 {
                self.length |= usize::from(*byte) << (8 * self.have);
                self.have += 1;
            } else {
                *byte = byte.wrapping_add(by);
                *self = Self { left: self.length, ..Self::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_change_however_the_reads_fall() {
        let before = [&[2, 0, 0, 1, 9, 9], &[0, 0, 0, 255][..], &[0, 1, 0, 7], &[5; 256], &[1, 0]].concat();
        let after = [&[2, 0, 0, 2, 9, 9], &[0, 0, 0, 0][..], &[0, 1, 0, 8], &[5; 256], &[1, 0]].concat();
        for a in 0..=before.len() {
            for b in [a, a + 1, a + 2, a + 5] {
                let (mut renumber, mut bytes, b) = (Renumber::default(), before.clone(), b.min(before.len()));
                renumber.add(1, &mut bytes[..a]);
                renumber.add(1, &mut bytes[a..b]);
                renumber.add(1, &mut bytes[b..]);
                assert_eq!(bytes, after, "{a} {b}");
            }
        }
    }
}
