//! What happened in a run: lines with their time, and a number that two runs share only if all their lines are the same.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// How many of its last lines a story keeps.
const KEPT: usize = 20_000;

/// A run's story. A clone is the same story.
#[derive(Clone, Default)]
pub(super) struct Story {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    lines: std::collections::VecDeque<String>,
    digest: u64,
    now: u64,
}

thread_local! {
    /// The story of the run that this thread is in, and whose turn it is.
    static HERE: RefCell<Option<(Story, Level)>> = const { RefCell::new(None) };
}

impl Story {
    /// Takes down a line.
    pub(super) fn line(&self, now: u64, who: &str, text: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.now = now;
        let line = format!("{:>7}.{:03} {who:<5} {text}", now / 1_000_000, now / 1000 % 1000);
        // FNV-1a: it need not withstand anybody.
        for byte in line.bytes() {
            inner.digest = (inner.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if inner.lines.len() == KEPT {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// The lines.
    pub(super) fn text(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// The same for the same lines.
    pub(super) fn digest(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).digest
    }

    /// What this thread logs becomes part of the story, down to `level`, until the guard is dropped.
    pub(super) fn listen(&self, level: Level) -> Listening {
        HERE.set(Some((self.clone(), level)));
        Listening(())
    }

    /// Time has passed for what is logged from here on.
    pub(super) fn at(&self, now: u64) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).now = now;
    }
}

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Story")
    }
}

/// A thread that listens.
pub(super) struct Listening(());

impl Drop for Listening {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

/// Makes stories of what the code under test logs. Once for the process.
pub(super) fn install() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(Scribe);
    });
}

/// Sends what is logged to the story of its thread.
struct Scribe;

impl Subscriber for Scribe {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && (metadata.target().starts_with("trine") || metadata.target().starts_with("openraft"))
            && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let here = HERE.with_borrow(Clone::clone);
        let Some((story, _)) = here.filter(|(_, level)| event.metadata().level() <= level) else { return };
        let mut text = Text(String::new());
        event.record(&mut text);
        let now = story.inner.lock().unwrap_or_else(PoisonError::into_inner).now;
        let who = super::simulation::whose_turn();
        story.line(now, &who, &format!("{} {}", event.metadata().level(), text.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
