//! What the nodes are doing, while a person waits: bars on a terminal, a line for each change elsewhere. All on stderr.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use trine_api::{NodeStatus, Role, Status};
use trine_protocol::NodeName;

use crate::print;

/// One line for each node.
pub(crate) struct Progress {
    nodes: Vec<NodeName>,
    bars: Option<Bars>,
    said: BTreeMap<NodeName, String>,
}

struct Bars {
    // Dropped last: it owns the lines.
    bars: BTreeMap<NodeName, ProgressBar>,
    _all: MultiProgress,
}

const LINE: &str = "  {prefix:<8} {spinner} {msg}";
const COPY: &str = "  {prefix:<8} {spinner} {bar:24} {bytes:>10} of {total_bytes}, {eta} left  {msg}";

impl Progress {
    /// For these nodes.
    pub(crate) fn new(nodes: impl IntoIterator<Item = NodeName>) -> Self {
        let nodes: Vec<NodeName> = nodes.into_iter().collect();
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let bars = nodes.iter().map(|name| {
                let bar = all.add(ProgressBar::new_spinner());
                bar.set_style(style(LINE));
                bar.set_prefix(name.to_string());
                bar.enable_steady_tick(Duration::from_millis(120));
                (name.clone(), bar)
            });
            Bars { bars: bars.collect(), _all: all }
        });
        Self { nodes, bars, said: BTreeMap::new() }
    }

    /// Nothing is known yet.
    pub(crate) fn waiting(&mut self, what: &str) {
        for name in self.nodes.clone() {
            self.say(&name, what, None);
        }
    }

    /// What each node does now.
    pub(crate) fn show(&mut self, status: &Status) {
        for name in self.nodes.clone() {
            if let Some(node) = status.node(&name) {
                let copied = node.progress.as_ref().and_then(|p| Some((p.done_bytes, p.total_bytes?)));
                self.say(&name, &doing(node), copied);
            }
        }
    }

    /// The last word, which stays.
    pub(crate) fn finish(mut self, status: &Status) {
        self.show(status);
        for bar in self.bars.iter().flat_map(|b| b.bars.values()) {
            bar.set_style(style(LINE));
            bar.finish();
        }
    }

    fn say(&mut self, name: &NodeName, what: &str, copied: Option<(u64, u64)>) {
        if let Some(bar) = self.bars.as_ref().and_then(|b| b.bars.get(name)) {
            match copied {
                Some((done, total)) => {
                    bar.set_style(style(COPY));
                    // A database that grows while it is copied must not show more than all of it.
                    bar.set_length(total.max(done));
                    bar.set_position(done);
                }
                None => bar.set_style(style(LINE)),
            }
            bar.set_message(what.to_owned());
        } else if self.said.get(name).is_none_or(|said| said != what) {
            print::note(format!("  {name}: {what}"));
            self.said.insert(name.clone(), what.to_owned());
        }
    }
}

/// One node in a few words.
pub(crate) fn doing(node: &NodeStatus) -> String {
    let role = if node.role == Role::None { String::new() } else { format!("{}, ", node.role) };
    let base = match &node.progress {
        Some(p) if p.what.is_empty() => "about to copy".to_owned(),
        Some(p) => p.what.clone(),
        None => format!("{role}{}", node.state),
    };
    match &node.problem {
        Some(problem) => format!("{base}: {problem}"),
        None => base,
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.progress_chars("━╸─")
}

/// A progress in words: `cloning from n1, 45 % of 2.6 GB`.
pub(crate) fn words(p: &trine_api::Progress) -> String {
    match p.total_bytes {
        Some(total) if total > 0 => {
            let percent = p.done_bytes.min(total).saturating_mul(100) / total;
            format!("{}, {percent} % of {}", p.what, print::bytes(total))
        }
        _ if p.done_bytes > 0 => format!("{}, {}", p.what, print::bytes(p.done_bytes)),
        _ => p.what.clone(),
    }
}
