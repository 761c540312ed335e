//! The place in the log, as the protocol counts it.
//!
//! Each database has a way of its own to name a transaction; from either the place can be read as one number that says the
//! epoch that the transaction was written in, and that only ever grows along a log. So (epoch, number) is the protocol's
//! position, on a standby too, where each transaction keeps the name that it has.

use trine_protocol::{Epoch, Position};

/// Each epoch has room for 2^40 transactions: at 100,000 a second, four months without a failover. There is room for 2^24
/// epochs.
const SHIFT: u32 = 40;

/// The highest epoch that has numbers.
pub(super) const HIGHEST: u64 = (1 << (64 - SHIFT)) - 1;

/// The lowest number of an epoch.
pub(super) const fn first_of(epoch: Epoch) -> u64 {
    epoch.0 << SHIFT
}

/// The epoch that a number belongs to.
pub(crate) const fn epoch_of(number: u64) -> Epoch {
    Epoch(number >> SHIFT)
}

/// What a number has besides its epoch: of MySQL's, how many transactions there are.
pub(crate) const fn count_of(number: u64) -> u64 {
    number & ((1 << SHIFT) - 1)
}

/// The protocol's position of a log that ends with this number.
pub(super) const fn position(number: u64) -> Position {
    Position { epoch: epoch_of(number), offset: number }
}

/// Where a log ends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    /// 0 before the first transaction.
    pub(super) number: u64,
    /// As the database says it.
    pub(super) text: String,
}

impl Place {
    /// The further of two.
    pub(super) fn or_further(self, other: Self) -> Self {
        if other.number > self.number { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_its_epoch() {
        let first = first_of(Epoch(2));
        assert_eq!(first, 2_199_023_255_552);
        assert_eq!(epoch_of(first), Epoch(2));
        assert_eq!((count_of(first), count_of(first + 7)), (0, 7));
        assert_eq!(epoch_of(first - 1), Epoch(1));
        assert_eq!(position(first + 7), Position { epoch: Epoch(2), offset: first + 7 });
        assert_eq!(epoch_of(first_of(Epoch(HIGHEST))), Epoch(HIGHEST));
    }

    #[test]
    fn the_further_place() {
        let place = |number| Place { number, text: number.to_string() };
        assert_eq!(place(5).or_further(place(6)), place(6));
        assert_eq!(place(6).or_further(place(5)), place(6));
        assert_eq!(Place::default().or_further(place(5)), place(5));
    }
}
