//! The agent's log: written by a thread of its own, so that nobody who logs ever waits for a disk.
//!
//! A log that hangs (it stands on the disk that has gone, or nobody reads the pipe) would else stop the very threads that
//! renew leases and fence. Lines that find no room are counted, and the log says how many once it goes on.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// What to log: `info`, or as in `RUST_LOG`.
const FILTER: &str = "TRINE_LOG";

/// How many lines may wait to be written.
const LINES: usize = 4096;

/// How long the end of the process waits for its last lines.
const LAST: Duration = Duration::from_millis(500);

static LOG: OnceLock<Log> = OnceLock::new();

enum Order {
    Line(Vec<u8>),
    /// Answers once everything before it is written.
    Flush(SyncSender<()>),
}

/// A handle to the thread that writes.
#[derive(Clone)]
struct Log {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

impl Log {
    fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (orders, waiting) = sync_channel(LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || keep_writing(sink, &waiting, &counted))?;
        Ok(Self { orders, lost })
    }

    /// Waits until all that was logged is written, as long as `within`.
    fn flush(&self, within: Duration) -> Result<(), RecvTimeoutError> {
        let (done, answer) = sync_channel(1);
        match self.orders.try_send(Order::Flush(done)) {
            Ok(()) => answer.recv_timeout(within),
            Err(_) => Err(RecvTimeoutError::Timeout),
        }
    }
}

impl Write for Log {
    /// Takes a whole line, or loses it; never waits.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.orders.try_send(Order::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn keep_writing(mut sink: impl Write, waiting: &Receiver<Order>, lost: &AtomicU64) {
    while let Ok(order) = waiting.recv() {
        let asked = match order {
            Order::Line(line) => {
                // Nobody could be told that the log can't be written.
                let _ = sink.write_all(&line);
                None
            }
            Order::Flush(done) => Some(done),
        };
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(sink, "{count} lines are missing here: the log took nothing for a while");
        }
        // Only now: that lines are missing is a part of what was logged before.
        if let Some(done) = asked {
            let _ = done.send(());
        }
    }
}

/// Logs to stderr from now on.
pub(crate) fn start() -> io::Result<()> {
    let log = Log::to(io::stderr())?;
    // openraft tells what the agent tells itself; fuser calls it an error when who asked was killed meanwhile.
    let filter =
        EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info,openraft=off,fuser::reply=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .init();
    let _ = LOG.set(log);
    Ok(())
}

/// The process is about to end: its last lines are written first, unless the log hangs.
pub(crate) fn finish() {
    if let Some(log) = LOG.get() {
        let _ = log.flush(LAST);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    /// Takes nothing while the test holds its lock.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn hang(&self) -> MutexGuard<'_, Vec<u8>> {
            self.0.lock().unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_does_not_wait_for_a_log_that_hangs() {
        let sink = Sink::default();
        let mut log = Log::to(sink.clone()).unwrap();
        log.write_all(b"first\n").unwrap();
        log.flush(Duration::from_secs(10)).unwrap();
        let hung = sink.hang();
        for _ in 0..2 * LINES {
            log.write_all(b"more\n").unwrap();
        }
        assert!(log.flush(Duration::ZERO).is_err());
        assert!(log.lost.load(Ordering::Relaxed) >= LINES as u64 - 1);
        drop(hung);
        while log.flush(Duration::from_secs(10)).is_err() {
            std::thread::yield_now();
        }
        let text = String::from_utf8(sink.hang().clone()).unwrap();
        assert!(text.starts_with("first\nmore\n"), "{text}");
        let told: u64 = text
            .lines()
            .filter_map(|l| l.strip_suffix(" lines are missing here: the log took nothing for a while"))
            .map(|n| n.parse::<u64>().unwrap())
            .sum();
        let written = text.lines().filter(|l| *l == "more").count();
        assert_eq!(told + written as u64, 2 * LINES as u64);
    }
}
