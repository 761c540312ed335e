//! How a database's log is measured.

use trine_protocol::Position;

use crate::mysql::{count_of, epoch_of};

/// What the number of a [`Position`] counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Bytes of log: PostgreSQL, a volume.
    Bytes,
    /// Transactions: MariaDB from the beginning of an epoch, MySQL from the beginning of the log. The epoch that the last one
    /// was written in stands above.
    Transactions,
}

impl Scale {
    /// A place as people read it: `12/3A00C0FF` as PostgreSQL writes it, or `3:57`, the 57th transaction, in epoch 3.
    #[must_use]
    pub fn show(self, place: Position) -> String {
        let number = place.offset;
        match self {
            Self::Bytes => format!("{:X}/{:08X}", number >> 32, number & 0xFFFF_FFFF),
            Self::Transactions => format!("{}:{}", epoch_of(number).0, count_of(number)),
        }
    }

    /// How many bytes, or transactions, lie between two places, where numbers can tell; 0 when the second is not after the first.
    #[must_use]
    pub fn between(self, from: Position, to: Position) -> Option<u64> {
        let comparable = self == Self::Bytes || epoch_of(from.offset) == epoch_of(to.offset);
        comparable.then(|| to.offset.saturating_sub(from.offset))
    }
}

#[cfg(test)]
mod tests {
    use trine_protocol::Epoch;

    use super::*;

    #[test]
    fn places_are_shown_as_their_database_counts() {
        let place = Position { epoch: Epoch(3), offset: (3 << 40) + 57 };
        assert_eq!(Scale::Transactions.show(place), "3:57");
        assert_eq!(Scale::Bytes.show(place), "300/00000039");
    }

    #[test]
    fn transactions_are_counted_within_an_epoch() {
        let place = |epoch: u64, count| Position { epoch: Epoch(epoch), offset: (epoch << 40) + count };
        assert_eq!(Scale::Bytes.between(place(1, 5), place(2, 9)), Some((1 << 40) + 4));
        assert_eq!(Scale::Transactions.between(place(1, 5), place(1, 9)), Some(4));
        assert_eq!(Scale::Transactions.between(place(1, 9), place(1, 5)), Some(0));
        assert_eq!(Scale::Transactions.between(place(1, 5), place(2, 9)), None);
    }
}
