//! The server's messages.

use memchr::memchr;

use super::header::{Header, body};

/// The routine that PostgreSQL names in its warning when a commit's wait for the standbys was cancelled.
const SYNC_WAIT: &[u8] = b"SyncRepWaitForLSN";

/// Hops from header to header of what a server sends, and looks into the few messages that matter.
#[derive(Debug, Default)]
pub(super) struct ServerScan {
    header: Header,
    /// Bytes of the message's body that are still to come.
    left: usize,
    look: Look,
    /// The notice that is passing by is the warning.
    doomed: bool,
    lost: bool,
    last: u8,
}

/// What to do with the body of the message that is passing by.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Look {
    #[default]
    Pass,
    /// `ReadyForQuery`: its one byte is the status.
    Status,
    /// A notice: the next byte names a field.
    Field,
    /// A notice: in a field of no interest.
    Skip,
    /// A notice: in its routine field, which has matched so far.
    Routine(usize),
}

impl ServerScan {
    /// Calls `seen(kind, payload)` for each message that begins in `bytes`; for `ReadyForQuery` once its payload, the
    /// status, is there (0 for all others). `Some(n)`: the warning of a cancelled wait is there, and `n` is the boundary
    /// after which nothing more may be passed on.
    ///
    /// That is the end of the warning; or, where it is among these bytes, the beginning of a `CommandComplete` that belongs to
    /// the same answer: in the extended protocol that comes before the commit.
    pub(super) fn scan(&mut self, all: &[u8], mut seen: impl FnMut(u8, u8)) -> Option<usize> {
        let mut bytes = all;
        let mut completed = None;
        loop {
            if self.lost {
                return None;
            }
            if self.left > 0 {
                let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
                if self.look != Look::Pass {
                    self.look_into(body, &mut seen);
                }
                self.left -= body.len();
                bytes = rest;
                if self.left > 0 {
                    return None;
                }
            }
            if self.doomed {
                return Some(completed.unwrap_or(all.len() - bytes.len()));
            }
            let at = all.len() - bytes.len();
            let is_whole = self.header.is_empty();
            let (kind, length) = self.header.take(&mut bytes)?;
            // One whose first bytes have been passed on already can't be kept back.
            if kind == b'C' && is_whole {
                completed.get_or_insert(at);
            }
            match body(length) {
                Some(left) => self.left = left,
                None => self.lost = true,
            }
            self.last = kind;
            self.look = match kind {
                b'Z' => {
                    completed = None;
                    Look::Status
                }
                b'N' => Look::Field,
                b'G' | b'E' => {
                    seen(kind, 0);
                    Look::Pass
                }
                _ => Look::Pass,
            };
        }
    }

    fn look_into(&mut self, mut body: &[u8], seen: &mut impl FnMut(u8, u8)) {
        while let Some((&first, rest)) = body.split_first() {
            match self.look {
                Look::Pass => return,
                Look::Status => {
                    seen(b'Z', first);
                    self.look = Look::Pass;
                }
                Look::Field => {
                    self.look = match first {
                        b'R' => Look::Routine(0),
                        0 => Look::Pass,
                        _ => Look::Skip,
                    };
                    body = rest;
                }
                Look::Skip => match memchr(0, body).and_then(|end| body.get(end + 1..)) {
                    Some(rest) => {
                        self.look = Look::Field;
                        body = rest;
                    }
                    None => return,
                },
                Look::Routine(matched) => {
                    match (first, SYNC_WAIT.get(matched)) {
                        (0, None) => {
                            self.doomed = true;
                            self.look = Look::Pass;
                        }
                        (0, _) => self.look = Look::Field,
                        (byte, Some(&want)) if byte == want => self.look = Look::Routine(matched + 1),
                        _ => self.look = Look::Skip,
                    }
                    body = rest;
                }
            }
        }
    }

    pub(super) fn between_messages(&self) -> bool {
        self.header.is_empty() && self.left == 0 && !self.lost
    }

    /// The kind of the last message that began.
    pub(super) fn last(&self) -> u8 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msg(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut m = vec![kind];
        m.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
        m.extend(body);
        m
    }

    /// Feeds `all` in pieces that end at `cuts`; returns what may be passed on, whether it was cut, and the statuses seen.
    fn run(all: &[u8], cuts: &[usize]) -> (Vec<u8>, bool, Vec<u8>) {
        let (mut scan, mut out, mut statuses, mut from) = (ServerScan::default(), vec![], vec![], 0);
        for &to in cuts.iter().chain([&all.len()]) {
            let cut = scan.scan(&all[from..to], |k, p| {
                if k == b'Z' {
                    statuses.push(p);
                }
            });
            if let Some(n) = cut {
                out.extend(&all[from..from + n]);
                assert!(scan.doomed);
                return (out, true, statuses);
            }
            out.extend(&all[from..to]);
            from = to;
        }
        assert!(scan.between_messages());
        (out, false, statuses)
    }

    fn notice(routine: &str) -> Vec<u8> {
        let text = format!("SWARNING\0VWARNING\0C01000\0MRSyncRepWaitForLSN\0Fsyncrep.c\0L278\0R{routine}\0\0");
        msg(b'N', text.as_bytes())
    }

    #[test]
    fn the_warning_is_found_however_the_reads_fall() {
        let before = [msg(b'T', b"abc"), msg(b'D', b"0123456789")].concat();
        let warned = [before.clone(), notice("SyncRepWaitForLSN")].concat();
        let all = [warned.clone(), msg(b'C', b"INSERT 0 1\0"), msg(b'Z', b"I")].concat();
        for a in 0..all.len() {
            for b in a..all.len() {
                assert_eq!(run(&all, &[a, b]), (warned.clone(), true, vec![]), "{a} {b}");
            }
        }
        let single: Vec<usize> = (0..all.len()).collect();
        assert_eq!(run(&all, &single), (warned, true, vec![]));
    }

    #[test]
    fn other_notices_pass() {
        for routine in ["", "S", "SyncRepWaitForLS", "SyncRepWaitForLSNx", "xSyncRepWaitForLSN", "exec_stmt_raise"] {
            let all = [notice(routine), msg(b'C', b"DO\0"), msg(b'Z', b"T"), msg(b'Z', b"I")].concat();
            for a in 0..all.len() {
                assert_eq!(run(&all, &[a]), (all.clone(), false, b"TI".to_vec()), "{routine} {a}");
            }
        }
    }

    #[test]
    fn a_completion_before_the_commit_is_kept_back() {
        let first = [msg(b'1', b""), msg(b'2', b"")].concat();
        let all = [first.clone(), msg(b'C', b"INSERT 0 1\0"), notice("SyncRepWaitForLSN"), msg(b'Z', b"I")].concat();
        assert_eq!(run(&all, &[]), (first.clone(), true, vec![]));
        // Where its first bytes have gone already, the answer still ends with the warning, on a boundary.
        for cut in 0..all.len() {
            let (out, was_cut, statuses) = run(&all, &[cut]);
            assert!(was_cut && statuses.is_empty(), "{cut}");
            assert!(out == first || out == all[..all.len() - 6], "{cut}");
        }
    }

    #[test]
    fn nonsense_is_passed_on_and_never_between_messages() {
        let mut scan = ServerScan::default();
        assert_eq!(scan.scan(b"HTTP/1.1 400 \0\0\0", |_, _| {}), None);
        assert!(!scan.between_messages());
        let mut scan = ServerScan::default();
        assert_eq!(scan.scan(&[b'D', 0, 0, 0, 3, 1], |_, _| {}), None);
        assert!(!scan.between_messages());
    }
}
