//! Logs that have grown large.

use std::io;
use std::path::Path;

/// How big a log may be at the start of what writes it.
pub const LARGEST_LOG: u64 = 16 << 20;

/// Renames a log that is larger than [`LARGEST_LOG`] to `LOG.1`, in place of the one before. Called before it is opened.
///
/// # Errors
/// It can't be renamed.
pub fn put_aside(log: &Path) -> io::Result<()> {
    if std::fs::metadata(log).is_ok_and(|m| m.len() > LARGEST_LOG) {
        let mut old = log.to_owned().into_os_string();
        old.push(".1");
        std::fs::rename(log, old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn only_a_large_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (log, old) = (dir.path().join("agent.log"), dir.path().join("agent.log.1"));
        put_aside(&log).unwrap();
        File::create(&log).unwrap().set_len(LARGEST_LOG).unwrap();
        put_aside(&log).unwrap();
        assert!(log.exists() && !old.exists());
        fs::write(&old, b"older").unwrap();
        File::options().write(true).open(&log).unwrap().set_len(LARGEST_LOG + 1).unwrap();
        put_aside(&log).unwrap();
        assert!(!log.exists());
        assert_eq!(fs::metadata(&old).unwrap().len(), LARGEST_LOG + 1);
    }
}
