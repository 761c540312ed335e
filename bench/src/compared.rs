//! One thing that is measured with trine and without it, again and again.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::statistics::Spread;

/// The head of a table of [`Compared::row`], where `ours` is what is compared with the plain database.
pub(crate) fn head(ours: &str) -> Vec<String> {
    ["what", &format!("{ours} /s"), "plain /s", "ratio", "range", "aim"].map(str::to_owned).to_vec()
}

pub(crate) struct Compared {
    what: String,
    aim: f64,
    /// What `measured` is called.
    name: &'static str,
    measured: Vec<f64>,
    plain: Vec<f64>,
}

impl Compared {
    pub(crate) fn new(name: &'static str, what: impl Into<String>, aim: f64) -> Self {
        Self { what: what.into(), aim, name, measured: Vec::new(), plain: Vec::new() }
    }

    pub(crate) fn add(&mut self, measured: f64, plain: f64) {
        println!("{}: {} {measured:.0}/s, plain {plain:.0}/s", self.what, self.name);
        self.measured.push(measured);
        self.plain.push(plain);
    }

    pub(crate) fn row(&self) -> Result<(Vec<String>, Value)> {
        // Round by round, so that what slows the whole machine for a while slows both sides of a ratio.
        let ratios: Vec<f64> = self.measured.iter().zip(&self.plain).map(|(m, p)| m / p).collect();
        let spread = |all: &[f64]| Spread::of(all).context("no round");
        let (measured, plain, ratio) = (spread(&self.measured)?, spread(&self.plain)?, spread(&ratios)?);
        let row = vec![
            self.what.clone(),
            format!("{:.0}", measured.median),
            format!("{:.0}", plain.median),
            format!("{:.2}", ratio.median),
            format!("{:.2} to {:.2}", ratio.least, ratio.most),
            format!("{:.2}", self.aim),
        ];
        Ok((row, json!({"what": self.what, self.name: measured, "plain": plain, "ratio": ratio, "aim": self.aim})))
    }

    /// The rows of a table, and every number behind them.
    pub(crate) fn table(all: &[Self]) -> Result<(Vec<Vec<String>>, Vec<Value>)> {
        Ok(all.iter().map(Self::row).collect::<Result<Vec<_>>>()?.into_iter().unzip())
    }
}
