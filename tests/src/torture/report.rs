//! A run as a table: for people on a terminal, and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::record::{Record, Struck};

/// Steps of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What they are.
    pub label: String,
    /// How many.
    pub count: usize,
    /// The longest time without a write of each, in seconds, sorted.
    pub pauses_s: Vec<f64>,
    /// From the end of the fault until the cluster was healthy, in seconds, sorted.
    pub repairs_s: Vec<f64>,
}

/// The value that so many per cent of them do not exceed.
#[must_use]
pub fn percentile(sorted: &[f64], per_cent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((sorted.len() * per_cent).div_ceil(100).saturating_sub(1).min(last)).copied()
}

/// The steps by kind, in the order of a table; the last row is all of them.
#[must_use]
pub fn rows(record: &Record) -> Vec<Row> {
    let mut kinds: BTreeMap<_, Vec<&Struck>> = BTreeMap::new();
    for step in record.steps.iter().filter(|s| !s.kinds.is_empty()) {
        kinds.entry((step.rank(), step.label())).or_default().push(step);
    }
    let row = |label: &str, steps: &[&Struck]| {
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        Row {
            label: label.to_owned(),
            count: steps.len(),
            pauses_s: sorted(steps.iter().map(|s| s.pause_s).collect()),
            repairs_s: sorted(steps.iter().filter_map(|s| s.repaired_s).collect()),
        }
    };
    let mut rows: Vec<Row> = kinds.iter().map(|((_, label), steps)| row(label, steps)).collect();
    rows.push(row("all", &kinds.into_values().flatten().collect::<Vec<_>>()));
    rows
}

/// One sentence: how it ended.
#[must_use]
pub fn verdict(record: &Record) -> String {
    match record.wrong.len() {
        0 => "Nothing lost, nothing contradicted, the cluster came back each time.".to_owned(),
        n => format!("{n} things are WRONG."),
    }
}

/// The whole report as Markdown, which reads well on a terminal, too.
#[must_use]
pub fn markdown(record: &Record) -> String {
    let mut text = format!("# Torture of {}: {} faults, seed {}\n\n", record.engine.name(), record.faults, record.seed);
    let _ = writeln!(text, "{}. {}.\n", record.began, record.machine);
    let _ = writeln!(
        text,
        "**{}** {} faults in {} steps and {:.0} s; {} acknowledged writes, {} reads, {} writes of which no client \
         knows what became. A write was acknowledged in {:.2} % of the slots of 100 ms, faults that take the majority \
         away included.\n",
        verdict(record),
        record.faults,
        record.steps.len(),
        record.seconds,
        record.writes,
        record.reads,
        record.unknown,
        record.availability * 100.0,
    );
    for wrong in record.wrong.iter().take(20) {
        let _ = writeln!(text, "- WRONG: {wrong}");
    }
    if !record.wrong.is_empty() {
        text.push('\n');
    }
    text.push_str(
        "Pause: the longest time without an acknowledged write of any client, from the fault on; where no majority is \
         left it includes the time that the fault lasted. Repair: from the fault's end until the cluster was healthy. \
         In seconds.\n\n",
    );
    text.push_str(&table(record));
    text
}

/// The table alone.
#[must_use]
pub fn table(record: &Record) -> String {
    let head = ["fault", "times", "pause: median", "90 %", "worst", "repair: median", "worst"];
    let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for row in rows(record) {
        let of = |sorted: &[f64], per_cent, digits: usize| {
            percentile(sorted, per_cent).map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
        };
        lines.push(vec![
            row.label.clone(),
            row.count.to_string(),
            of(&row.pauses_s, 50, 2),
            of(&row.pauses_s, 90, 2),
            of(&row.pauses_s, 100, 2),
            of(&row.repairs_s, 50, 1),
            of(&row.repairs_s, 100, 1),
        ]);
    }
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, (column, width)) in line.iter().zip(widths.iter().enumerate()) {
            let _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = write!(text, "| {}{} ", "-".repeat(width - 1), if column == 0 { "-" } else { ":" });
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::kind::{Kind, Role};

    fn record() -> Record {
        let step = |kind, pause_s, repaired_s| Struck {
            kinds: vec![kind],
            on: Some(Role::Primary),
            pause_s,
            repaired_s: Some(repaired_s),
            ..Struck::default()
        };
        let steps = vec![
            step(Kind::NodeLost, 1.2, 4.0),
            step(Kind::AgentKilled, 0.9, 2.0),
            step(Kind::NodeLost, 1.4, 6.0),
            step(Kind::NodeLost, 1.3, 5.0),
        ];
        Record { faults: 4, steps, ..Record::default() }
    }

    #[test]
    fn rows_are_by_kind_with_all_at_the_end() {
        let rows = rows(&record());
        let labels: Vec<&str> = rows.iter().map(|r| r.label.as_str()).collect();
        assert_eq!(labels, ["agent killed, primary", "node lost, primary", "all"]);
        assert_eq!(rows[1].pauses_s, [1.2, 1.3, 1.4]);
        assert_eq!(percentile(&rows[1].pauses_s, 50), Some(1.3));
        assert_eq!(percentile(&rows[1].pauses_s, 90), Some(1.4));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn the_table_has_equal_lines() {
        let table = table(&record());
        let widths: Vec<usize> = table.lines().map(|l| l.chars().count()).collect();
        assert_eq!(widths.len(), 5);
        assert!(widths.windows(2).all(|w| w[0] == w[1]), "{table}");
    }

    #[test]
    fn what_is_wrong_is_said_loudly() {
        let r = Record { wrong: vec!["the list: 7 is lost".to_owned()], ..record() };
        assert!(markdown(&r).contains("WRONG: the list: 7 is lost"));
        assert!(verdict(&record()).contains("Nothing lost"));
    }
}
