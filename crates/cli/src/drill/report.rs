//! What a drill has measured, in 80 columns.

use serde::Serialize;
use trine_api::Status;

use super::ledger::Verified;
use crate::failure::{Done, Failure};
use crate::print;

const WIDTH: usize = 80;

/// One step, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Measured {
    /// What was done.
    pub(crate) what: String,
    /// The longest time without an acknowledged row: the recovery time, as clients know it.
    pub(crate) pause_s: f64,
    /// The longest that is as it should be.
    pub(crate) aim_s: f64,
    /// From the beginning until the cluster was healthy; none: it was not.
    pub(crate) repaired_s: Option<f64>,
}

impl Measured {
    fn good(&self) -> bool {
        self.repaired_s.is_some() && self.pause_s <= self.aim_s
    }
}

/// The whole drill.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Whose.
    pub(crate) cluster: String,
    /// When it began.
    pub(crate) began: String,
    /// How many clients wrote.
    pub(crate) clients: usize,
    /// The steps that were done.
    pub(crate) steps: Vec<Measured>,
    /// The step that was begun, and whose end nobody waited for.
    pub(crate) under_way: Option<String>,
    /// What became of the rows; none: nobody could look.
    pub(crate) verified: Option<Verified>,
    /// What else went wrong.
    pub(crate) problems: Vec<String>,
}

impl Report {
    /// Of this cluster, with nothing done yet.
    pub(crate) fn new(status: &Status, clients: usize) -> Self {
        Self {
            cluster: status.cluster.clone(),
            began: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            clients,
            steps: Vec::new(),
            under_way: None,
            verified: None,
            problems: Vec::new(),
        }
    }

    /// As lines for a terminal.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("drill of {}, {}, {} clients through the writer endpoint", self.cluster, self.began, self.clients),
            String::new(),
        ];
        lines.push(format!("{:<42} {:>8} {:>7} {:>9}  {}", "STEP", "RTO", "AIM", "REPAIRED", "RESULT"));
        for s in &self.steps {
            let mut what = print::wrap(&s.what, 42, 2).into_iter();
            let repaired = s.repaired_s.map_or_else(|| "-".to_owned(), |r| format!("{r:.1} s"));
            let result = match (s.repaired_s, s.good()) {
                (None, _) => "NOT BACK",
                (_, true) => "good",
                (_, false) => "MISSED",
            };
            let pause = format!("{:.2} s", s.pause_s);
            let aim = format!("{:.1} s", s.aim_s);
            let first = what.next().unwrap_or_default();
            lines.push(format!("{first:<42} {pause:>8} {aim:>7} {repaired:>9}  {result}"));
            lines.extend(what);
        }
        match &self.under_way {
            Some(what) => {
                lines.extend(print::wrap(&format!("{what}: asked for, its end was not waited for"), WIDTH, 2))
            }
            None if self.steps.is_empty() => lines.push("nothing was done to the cluster".to_owned()),
            None => {}
        }
        lines.push(String::new());
        if let Some(v) = &self.verified {
            let text = format!(
                "RPO: {} of {} acknowledged rows lost; {} rows without an answer",
                v.lost, v.acknowledged, v.unknown
            );
            lines.push(text);
        }
        for problem in &self.problems {
            lines.extend(print::wrap(&format!("! {problem}"), WIDTH, 2));
        }
        lines.extend(print::wrap(
            "RTO: the longest time without an acknowledged row of any client. REPAIRED: from the step's beginning until \
             all nodes were well again.",
            WIDTH,
            0,
        ));
        lines
    }

    /// Was all as it should be?
    pub(crate) fn verdict(&self) -> Done {
        let lost = self.verified.map(|v| v.lost);
        if let Some(lost) = lost.filter(|n| *n > 0) {
            let text = format!("{lost} acknowledged rows are LOST");
            return Err(Failure::failed(text).hint("this must never be: please report it with every node's log"));
        }
        if let Some(problem) = self.problems.first() {
            return Err(Failure::failed(problem.clone()));
        }
        if let Some(s) = self.steps.iter().find(|s| !s.good()) {
            let text = format!("{}: writes paused for {:.2} s, the aim is {:.1} s", s.what, s.pause_s, s.aim_s);
            return Err(Failure::failed(text).hint("`trine events` says what took how long; --aim sets another aim"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let step = |what: &str, pause_s, aim_s| Measured { what: what.into(), pause_s, aim_s, repaired_s: Some(3.21) };
        Report {
            cluster: "demo".into(),
            began: "2026-01-01 00:00 UTC".into(),
            clients: 4,
            steps: vec![
                step("database of standby n2 killed", 0.031, 2.0),
                step("database of primary of-a-rather-long-name killed, another-long-name leads", 1.234, 5.0),
            ],
            under_way: None,
            verified: Some(Verified { acknowledged: 4711, lost: 0, unknown: 3 }),
            problems: Vec::new(),
        }
    }

    #[test]
    fn it_fits_80_columns() {
        let lines = report().lines();
        assert!(lines.iter().all(|l| l.chars().count() <= WIDTH), "{}", lines.join("\n"));
        let text = lines.join("\n");
        for part in ["0.03 s", "1.23 s", "3.2 s", "good", "0 of 4711", "another-long-name"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_step_that_was_interrupted_is_told() {
        let none = Report { steps: Vec::new(), ..report() };
        assert!(none.lines().join("\n").contains("nothing was done"));
        let begun = Report { under_way: Some("switchover".into()), ..none };
        let text = begun.lines().join("\n");
        assert!(text.contains("switchover: asked for") && !text.contains("nothing was done"), "{text}");
    }

    #[test]
    fn what_is_not_as_it_should_be_fails() {
        assert!(report().verdict().is_ok());
        let mut missed = report();
        missed.steps[0].pause_s = 2.5;
        assert!(missed.verdict().is_err());
        let mut not_back = report();
        not_back.steps[1].repaired_s = None;
        assert!(not_back.verdict().is_err() && not_back.lines().join("\n").contains("NOT BACK"));
        let mut lost = report();
        lost.verified = Some(Verified { acknowledged: 4711, lost: 1, unknown: 0 });
        assert!(lost.verdict().unwrap_err().message.contains("LOST"));
        let mut left = report();
        left.problems.push("the drill's table could not be cleared away".into());
        assert!(left.verdict().is_err());
    }
}
