//! A run as a picture: for each kind of fault a dot for each time, as far to the right as writes paused.

use std::fmt::Write as _;

use super::record::Record;
use super::report::{Row, percentile, rows, verdict};

/// Widths and heights in pixels.
const LEFT: f64 = 230.0;
const PLOT: f64 = 560.0;
const TOP: f64 = 64.0;
const LINE: f64 = 16.0;
/// The scale's ends, in seconds.
const SHORTEST_S: f64 = 0.01;
const LONGEST_S: f64 = 100.0;

/// Where a pause stands: the scale is logarithmic.
fn x(seconds: f64) -> f64 {
    let span = (LONGEST_S / SHORTEST_S).log10();
    LEFT + (seconds.clamp(SHORTEST_S, LONGEST_S) / SHORTEST_S).log10() / span * PLOT
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The picture as SVG.
#[must_use]
pub fn svg(record: &Record) -> String {
    let rows = rows(record);
    #[allow(clippy::cast_precision_loss, reason = "a number of rows")]
    let bottom = TOP + rows.len() as f64 * LINE;
    let (width, height) = (LEFT + PLOT + 60.0, bottom + 52.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let title = format!("{}: {} faults, seed {}: pauses of writes", record.engine.name(), record.faults, record.seed);
    let found = format!("{} Available {:.2} % of the time.", verdict(record), record.availability * 100.0);
    let _ = writeln!(svg, "<text x=\"8\" y=\"16\" font-size=\"13\" font-weight=\"bold\">{}</text>", escape(&title));
    let _ = writeln!(svg, "<text x=\"8\" y=\"30\">{}</text>", escape(&found));
    let _ = writeln!(svg, "<text x=\"8\" y=\"44\" fill=\"#666\">{}</text>", escape(&record.machine));
    for (seconds, label) in [(0.01, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s"), (100.0, "100 s")] {
        let at = x(seconds);
        let _ = writeln!(svg, "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>");
        for y in [TOP - 6.0, bottom + 14.0] {
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>");
        }
    }
    let mut y = TOP + LINE / 2.0;
    for row in &rows {
        draw(&mut svg, row, y);
        y += LINE;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#666\">longest time without an acknowledged write (logarithmic); the bar is \
         the median</text>\n</svg>",
        bottom + 36.0
    );
    svg
}

fn draw(svg: &mut String, row: &Row, y: f64) {
    let weight = if row.label == "all" { " font-weight=\"bold\"" } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\"{weight}>{}</text>",
        LEFT - 12.0,
        y + 4.0,
        escape(&row.label)
    );
    for pause in &row.pauses_s {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#1668b8\" fill-opacity=\"0.45\"/>",
            x(*pause)
        );
    }
    if let Some(median) = percentile(&row.pauses_s, 50) {
        let _ =
            writeln!(svg, "<path d=\"M{:.1} {:.1}v10\" stroke=\"#c2410c\" stroke-width=\"2\"/>", x(median), y - 5.0);
    }
    let _ =
        writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666\">{}</text>", LEFT + PLOT + 12.0, y + 4.0, row.count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::kind::{Kind, Role};
    use crate::torture::record::Struck;

    #[test]
    fn each_step_is_a_dot_and_the_scale_is_logarithmic() {
        assert!((x(1.0) - x(0.1) - (x(10.0) - x(1.0))).abs() < 1e-9);
        assert!(x(1e6) <= LEFT + PLOT && x(0.0) >= LEFT);
        let step = Struck { kinds: vec![Kind::PowerOff], on: Some(Role::Cluster), pause_s: 3.0, ..Struck::default() };
        let svg = svg(&Record { faults: 1, steps: vec![step], machine: "a < b".to_owned(), ..Record::default() });
        // Its own row and the row of all.
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.trim_end().ends_with("</svg>"));
    }
}
