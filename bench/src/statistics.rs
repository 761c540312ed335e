//! Medians and the like.

use serde::{Deserialize, Serialize};

/// What is kept of several measurements of the same thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// How many.
    pub(crate) runs: usize,
    /// The lowest.
    pub(crate) least: f64,
    /// The middle one.
    pub(crate) median: f64,
    /// The highest.
    pub(crate) most: f64,
    /// All, in the order in which they were taken.
    pub(crate) all: Vec<f64>,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(all: &[f64]) -> Option<Self> {
        let mut sorted = all.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => return None,
            n if n % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { runs: all.len(), least: sorted[0], median, most: sorted[sorted.len() - 1], all: all.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(Spread::of(&[]).is_none());
        assert!((Spread::of(&[3.0, 1.0, 2.0]).unwrap().median - 2.0).abs() < 1e-9);
        let four = Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert!((four.median - 2.5).abs() < 1e-9 && (four.most - 4.0).abs() < 1e-9 && (four.least - 1.0).abs() < 1e-9);
    }
}
