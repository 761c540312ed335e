//! `trine doctor`: what the nodes find that somebody would want to change.

use trine_api::{Finding, Findings, Severity};
use trine_protocol::NodeName;

use crate::args;
use crate::connect;
use crate::failure::Done;
use crate::print::{self, Paint};

const WIDTH: usize = 80;
/// The findings' texts begin below their names.
const INDENT: usize = 9;

/// `trine doctor`.
pub(crate) async fn doctor(args: &args::Doctor) -> Done {
    let found = connect::to(&args.target)?.client.examine().await?;
    if args.target.json {
        print::json(&found);
    } else {
        print::out(&(lines(&found, Paint::stdout()).join("\n") + "\n"));
    }
    Ok(())
}

/// All of it as lines of at most [`WIDTH`] characters.
fn lines(found: &Findings, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in &found.findings {
        lines.extend(describe(finding, paint));
        lines.push(String::new());
    }
    let count = |severity, word: &str| {
        let n = found.findings.iter().filter(|f| f.severity == severity).count();
        (n > 0).then(|| format!("{n} {word}{}", if n == 1 { "" } else { "s" }))
    };
    let counts: Vec<String> =
        count(Severity::Warning, "warning").into_iter().chain(count(Severity::Note, "note")).collect();
    let counts = if counts.is_empty() { "nothing found".to_owned() } else { counts.join(", ") };
    lines.extend(print::wrap(&format!("{counts}; looked at {}", names(&found.examined)), WIDTH, 2));
    lines
}

fn describe(f: &Finding, paint: Paint) -> Vec<String> {
    let (word, painted) = match f.severity {
        Severity::Warning => ("warning", paint.warning("warning")),
        Severity::Note => ("note", paint.faint("note")),
    };
    let gap = " ".repeat(INDENT - word.len());
    let at = if f.nodes.is_empty() { String::new() } else { format!(" on {}", names(&f.nodes)) };
    let mut head = print::wrap(&format!("{}{at}", f.what), WIDTH - INDENT, 0).into_iter();
    let first = head.next().unwrap_or_default();
    let mut lines = vec![format!("{painted}{gap}{}", paint.strong(&first))];
    let mut below = |text: &str| {
        lines.extend(
            print::wrap(text, WIDTH - INDENT, 0).into_iter().map(|line| format!("{}{line}", " ".repeat(INDENT))),
        );
    };
    head.for_each(|line| below(&line));
    let more = (f.more > 0).then(|| format!("and {} more", f.more));
    let places: Vec<String> = f.places.iter().cloned().chain(more).collect();
    if !places.is_empty() {
        below(&places.join(", "));
    }
    below(&f.why);
    below(&format!("→ {}", f.remedy));
    lines
}

fn names(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, places: usize) -> Finding {
        Finding {
            severity,
            what: "tables without a primary key".into(),
            nodes: vec!["n1".parse().unwrap()],
            places: (0..places).map(|n| format!("a_schema.a_table_of_some_length_{n}")).collect(),
            more: 3,
            why: "For each changed row a standby reads the whole table: it lags, and a failover waits.".into(),
            remedy: "alter table … add primary key (…)".into(),
        }
    }

    #[test]
    fn everything_fits_80_columns() {
        let findings = vec![finding(Severity::Warning, 20), finding(Severity::Note, 1)];
        let examined = vec!["n1".parse().unwrap(), "n2".parse().unwrap()];
        let lines = lines(&Findings { findings, examined }, Paint::plain());
        for line in &lines {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert_eq!(lines[0], "warning  tables without a primary key on n1");
        assert!(lines.iter().any(|l| l.contains("and 3 more")));
        assert_eq!(lines.last().unwrap(), "1 warning, 1 note; looked at n1, n2");
    }

    #[test]
    fn that_nothing_was_found_is_said() {
        let examined = vec!["n1".parse().unwrap()];
        let lines = lines(&Findings { findings: Vec::new(), examined }, Paint::plain());
        assert_eq!(lines, ["nothing found; looked at n1"]);
    }
}
