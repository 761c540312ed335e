//! Which epochs a log is made of.

use serde::{Deserialize, Serialize};
use trine_protocol::{Epoch, Position};

/// The epochs of a log, oldest first, each with the place where it begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lineage {
    begins: Vec<(Epoch, u64)>,
}

impl Lineage {
    /// Of a volume that begins in this epoch.
    #[must_use]
    pub fn new(first: Epoch) -> Self {
        Self { begins: vec![(first, 0)] }
    }

    /// The epoch that was written last.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.begins.last().map_or(Epoch::ZERO, |(epoch, _)| *epoch)
    }

    /// The epochs and where each begins, in bytes of log.
    #[must_use]
    pub fn begins(&self) -> &[(Epoch, u64)] {
        &self.begins
    }

    /// How far a log reaches that ends at `lsn`.
    #[must_use]
    pub fn position(&self, lsn: u64) -> Position {
        Position { epoch: self.epoch(), offset: lsn }
    }

    /// A new epoch begins at `lsn`. False: it is not newer than the last.
    pub(crate) fn begin(&mut self, epoch: Epoch, lsn: u64) -> bool {
        let newer = epoch > self.epoch();
        if newer {
            self.begins.push((epoch, lsn));
        }
        newer
    }

    /// What begins at `lsn` or later is taken back.
    pub(crate) fn cut(&mut self, lsn: u64) {
        // The first is the volume's own, and has no entry: the next one may begin at 0, too.
        let first = self.begins.first().copied();
        self.begins.retain(|begun| begun.1 < lsn || Some(*begun) == first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_is_taken_back_whole_is_none_of_the_log() {
        let mut lineage = Lineage::new(Epoch(1));
        assert!(lineage.begin(Epoch(2), 0));
        assert!(lineage.begin(Epoch(3), 500));
        lineage.cut(501);
        assert_eq!(lineage.epoch(), Epoch(3));
        lineage.cut(500);
        assert_eq!(lineage.epoch(), Epoch(2));
        lineage.cut(0);
        assert_eq!(lineage, Lineage::new(Epoch(1)));
        assert!(lineage.begin(Epoch(2), 0), "it can come again");
    }
}
