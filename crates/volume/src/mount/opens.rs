//! Who has what open.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Ino;

/// How often each file is open.
#[derive(Debug, Default)]
pub(super) struct Opens(Mutex<HashMap<Ino, u64>>);

impl Opens {
    pub(super) fn open(&self, ino: Ino) {
        *self.counts().entry(ino).or_default() += 1;
    }

    /// Whether that was the last one.
    pub(super) fn close(&self, ino: Ino) -> bool {
        let mut counts = self.counts();
        match counts.get_mut(&ino) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                counts.remove(&ino);
                true
            }
        }
    }

    pub(super) fn is_open(&self, ino: Ino) -> bool {
        self.counts().contains_key(&ino)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Ino, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_close_is_one() {
        let opens = Opens::default();
        opens.open(Ino(7));
        opens.open(Ino(7));
        assert!(!opens.close(Ino(7)) && opens.is_open(Ino(7)));
        assert!(opens.close(Ino(7)) && !opens.is_open(Ino(7)));
    }
}
