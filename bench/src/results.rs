//! bench/results/DATE.json, and the same as DATE.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// One kind of measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Section {
    /// What was done, in a few sentences.
    pub(crate) how: String,
    /// The table's head.
    pub(crate) head: Vec<String>,
    /// Its rows.
    pub(crate) rows: Vec<Vec<String>>,
    /// Every number behind it.
    pub(crate) data: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    machine: Machine,
    sections: BTreeMap<String, Section>,
}

/// A day's results. Measuring again replaces only what was measured again.
pub(crate) struct Results {
    json: PathBuf,
    kept: Kept,
}

impl Results {
    /// Today's.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let json = dir.join(format!("{}.json", jiff::Zoned::now().date()));
        let sections = match fs::read_to_string(&json) {
            Ok(text) => serde_json::from_str::<Kept>(&text).with_context(|| json.display().to_string())?.sections,
            Err(_) => BTreeMap::new(),
        };
        Ok(Self { json, kept: Kept { machine: Machine::describe(), sections } })
    }

    /// The file for people.
    pub(crate) fn markdown(&self) -> PathBuf {
        self.json.with_extension("md")
    }

    /// Prints a section, and keeps it.
    pub(crate) fn keep(&mut self, name: &str, section: Section) -> Result<()> {
        println!("\n{name}\n{}\n{}", section.how, table(&section));
        self.kept.sections.insert(name.to_owned(), section);
        let mut text = format!("# Measured {}\n\n{}\n", self.date(), self.kept.machine.line());
        for (name, section) in &self.kept.sections {
            text.push_str(&format!("\n## {name}\n\n{}\n\n{}", section.how, table(section)));
        }
        fs::write(&self.json, serde_json::to_string_pretty(&self.kept)? + "\n")?;
        fs::write(self.markdown(), text).with_context(|| format!("writing {}", self.markdown().display()))
    }

    fn date(&self) -> String {
        self.json.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// As Markdown, with columns of even width.
fn table(section: &Section) -> String {
    let rows: Vec<&Vec<String>> = std::iter::once(&section.head).chain(&section.rows).collect();
    let widths: Vec<usize> = (0..section.head.len())
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String]| {
        let cells: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(c, w)| format!("{:<w$}", row.get(c).map_or("", String::as_str), w = *w))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    let mut out = line(&section.head) + &line(&rule);
    section.rows.iter().for_each(|r| out.push_str(&line(r)));
    out
}
