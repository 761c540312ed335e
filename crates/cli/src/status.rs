//! `trine status`: a table that fits 80 columns, once or live.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table};
use tokio::time::sleep;
use trine_api::{Client, Health, NodeState, NodeStatus, Role, Status};

use crate::args;
use crate::connect;
use crate::failure::{Done, Failure};
use crate::print::{self, Paint};
use crate::progress;

const WIDTH: usize = 80;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `trine status`.
pub(crate) async fn status(args: &args::Status) -> Done {
    let client = connect::to(&args.target)?.client;
    if args.watch {
        return tokio::select! {
            done = watch(&client, args.target.json) => done,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let status = client.status().await?;
    if args.target.json {
        print::json(&status);
    } else {
        print::out(&(lines(&status, Paint::stdout(), width()).join("\n") + "\n"));
    }
    Ok(())
}

/// Shows it again and again: in place on a terminal, as snapshots of what has changed elsewhere.
async fn watch(client: &Client, json: bool) -> Done {
    let in_place = io::stdout().is_terminal() && !json;
    let screen = in_place.then(Screen::new);
    let mut last = String::new();
    loop {
        let now = client.status().await;
        let text = match &now {
            Ok(status) if json => serde_json::to_string(status).unwrap_or_default(),
            Ok(status) => lines(status, Paint::stdout(), width()).join("\n"),
            Err(e) => {
                let failure = Failure::from_watch(e);
                if json { serde_json::json!({ "error": failure }).to_string() } else { failure }
            }
        };
        match &screen {
            Some(screen) => {
                let clock = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
                let hint = Paint::stdout().faint(&format!("{clock}   Ctrl-C to leave"));
                screen.draw(&format!("{text}\n\n{hint}"));
            }
            None if text != last => {
                if !last.is_empty() && !json {
                    print::line("");
                }
                print::line(&text);
            }
            None => {}
        }
        last = text;
        sleep(LOOK_EVERY).await;
    }
}

impl Failure {
    fn from_watch(e: &trine_api::ClientError) -> String {
        print::wrap(&crate::failure::chain(e), WIDTH, 2).join("\n")
    }
}

/// A part of the terminal that is drawn over and over. The cursor is hidden meanwhile, and comes back when this is dropped.
struct Screen {
    height: std::cell::Cell<usize>,
}

impl Screen {
    fn new() -> Self {
        print::out("\x1b[?25l");
        Self { height: std::cell::Cell::new(0) }
    }

    /// In one write, and marked as one picture for terminals that know how: nothing flickers.
    fn draw(&self, text: &str) {
        let mut picture = "\x1b[?2026h\r".to_owned();
        if self.height.get() > 1 {
            let _ = write!(picture, "\x1b[{}A", self.height.get() - 1);
        }
        let rows: Vec<&str> = text.lines().collect();
        picture.push_str(&rows.join("\x1b[K\n"));
        // What is left of a longer picture goes.
        picture.push_str("\x1b[K\x1b[J\x1b[?2026l");
        self.height.set(rows.len());
        print::out(&picture);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout();
        let _ = stdout.write_all(b"\x1b[?25h\n").and_then(|()| stdout.flush());
    }
}

/// The terminal's width, if it knows one that a table fits in.
fn width() -> usize {
    Table::new().width().map(usize::from).filter(|w| *w >= 40).map_or(WIDTH, |w| w.min(120))
}

/// The status as lines of at most `width` characters.
pub(crate) fn lines(s: &Status, paint: Paint, width: usize) -> Vec<String> {
    let health = match s.health {
        Health::Healthy => paint.good("healthy"),
        Health::Degraded => paint.warning("degraded"),
        Health::Unavailable => paint.bad("unavailable"),
    };
    let primary = s.primary.as_ref().map_or_else(|| "no primary".to_owned(), |p| format!("primary {p}"));
    let mut lines = vec![format!("{}  {}  {health}  epoch {}  {primary}", paint.strong(&s.cluster), s.engine, s.epoch)];
    lines.push(sync(s));
    if let Some(reason) = &s.paused {
        lines.extend(print::wrap(&format!("paused: {reason}"), width, 2).into_iter().map(|l| paint.warning(&l)));
    }
    lines.push(String::new());
    lines.extend(table(s, paint, width));
    for n in &s.nodes {
        if let Some(p) = &n.progress {
            lines.extend(print::wrap(&format!("{}: {}", n.name, progress::words(p)), width, 4));
        }
        if let Some(problem) = &n.problem {
            lines.extend(print::wrap(&format!("{}: {problem}", n.name), width, 4).iter().map(|l| paint.warning(l)));
        }
    }
    for alarm in &s.alarms {
        lines.extend(print::wrap(&format!("! {alarm}"), width, 2).iter().map(|l| paint.bad(l)));
    }
    if s.leader.is_none() {
        let by = s.answered_by.as_ref().map_or_else(|| "the answering node".to_owned(), ToString::to_string);
        let text = format!("{by} sees no majority of the voters: this may be old");
        lines.extend(print::wrap(&text, width, 2).iter().map(|l| paint.warning(l)));
    }
    lines
}

fn sync(s: &Status) -> String {
    let names: Vec<&str> = s.sync.standbys.iter().map(|n| n.as_str()).collect();
    match (names.len(), s.sync.acks) {
        (_, 0) if s.writable => "commits wait for no standby".to_owned(),
        (_, 0) => "no standby can acknowledge commits".to_owned(),
        (n, acks) if n == acks => format!("commits wait for {}", names.join(" and ")),
        (_, acks) => format!("commits wait for {acks} of {}", names.join(", ")),
    }
}

fn table(s: &Status, paint: Paint, width: usize) -> Vec<String> {
    // Two spaces between the columns if there is room for them.
    let roomy = plain_table(s, 2, ContentArrangement::Disabled, width);
    let fits = roomy.iter().all(|l| l.chars().count() <= width);
    let mut lines = if fits { roomy } else { plain_table(s, 1, ContentArrangement::Dynamic, width) };
    // Coloured afterwards, so that the colours don't count as width.
    if let Some(head) = lines.first_mut() {
        *head = paint.faint(head);
    }
    for line in lines.iter_mut().skip(1) {
        for n in &s.nodes {
            if line.starts_with(&format!("{} ", n.name)) {
                let word = n.state.as_str();
                let painted = match n.state {
                    NodeState::Running => paint.good(word),
                    NodeState::Unreachable | NodeState::Failed => paint.bad(word),
                    _ => paint.warning(word),
                };
                *line = line.replacen(word, &painted, 1);
                break;
            }
        }
    }
    lines
}

fn plain_table(s: &Status, gap: u16, arrangement: ContentArrangement, width: usize) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(arrangement);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table.set_header(["NODE", "ZONE", "ADDRESS", "ROLE", "STATE", "EPOCH", "POSITION", "LAG"]);
    for n in &s.nodes {
        table.add_row([
            n.name.to_string(),
            n.zone.clone(),
            n.address.clone(),
            if n.role == Role::None { "-".to_owned() } else { n.role.to_string() },
            n.state.to_string(),
            n.data_epoch.map_or_else(|| "-".to_owned(), |e| e.to_string()),
            n.position.clone().unwrap_or_else(|| "-".to_owned()),
            lag(n),
        ]);
    }
    let count = table.column_count();
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i + 1 < count { gap } else { 0 }));
    }
    table.to_string().lines().map(|l| l.trim_end().to_owned()).collect()
}

fn lag(n: &NodeStatus) -> String {
    if n.role != Role::Standby {
        return "-".to_owned();
    }
    match (n.lag_bytes, n.lag_seconds) {
        (None, None) => "-".to_owned(),
        (Some(0), None | Some(0.0)) => "0".to_owned(),
        (bytes, seconds) => {
            let bytes = bytes.map(print::bytes);
            let seconds = seconds.filter(|s| *s >= 0.05).map(|s| format!("{s:.1} s"));
            let parts: Vec<String> = bytes.into_iter().chain(seconds).collect();
            if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Status {
        let node = |name: &str, role: &str, state: &str| {
            serde_json::json!({"name": name, "zone": "eu-central-1a", "address": "192.168.100.101", "role": role,
                "state": state, "agent_pid": 1, "guard_pid": 2, "database_pid": 3, "database_port": 6500,
                "data_dir": "/d", "data_epoch": 12, "position": "12/3A/C0FFEE00", "lag_bytes": 123_456_789,
                "lag_seconds": 12.5})
        };
        serde_json::from_value(serde_json::json!({
            "cluster": "demo", "engine": "postgres", "epoch": 12, "primary": "n1", "health": "degraded", "paused": "disks",
            "sync": {"standbys": ["n2", "n3"], "acks": 1}, "endpoints": {"writer": [], "reader": [], "api": []},
            "nodes": [node("n1", "primary", "running"), node("n2", "standby", "rejoining"), node("n3", "none", "unreachable")],
            "alarms": ["n3 has not been heard of for 1234 seconds, and the two others hold all of the data between them"]
        }))
        .unwrap()
    }

    #[test]
    fn everything_fits_80_columns() {
        let lines = lines(&example(), Paint::plain(), 80);
        for line in &lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let text = lines.join("\n");
        for part in
            ["demo", "degraded", "epoch 12", "1 of n2, n3", "paused: disks", "unreachable", "! n3", "may be old"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
