//! Consensus on the voters: openraft and redb behind a small trait.
