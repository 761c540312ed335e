//! What was measured on.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine and the versions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: f64,
    kernel: String,
    system: String,
    file_system: String,
    fsync_ms: f64,
    postgres: String,
    commit: String,
    build: String,
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output();
    let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    Some(line.split_once([':', '='])?.1.trim().trim_matches('"').to_owned())
}

/// The median time of an fsync after 8 KiB, where the clusters' directories are: the floor under every commit.
fn fsync_ms() -> Option<f64> {
    use std::io::Write as _;
    let dir = trine_tests::cluster::test_root();
    fs::create_dir_all(&dir).ok()?;
    let path = dir.join("fsync-probe");
    let mut file = fs::File::create(&path).ok()?;
    let mut times = Vec::new();
    for _ in 0..50 {
        file.write_all(&[7; 8192]).ok()?;
        let start = trine_tests::now_ns();
        file.sync_data().ok()?;
        times.push(seconds(trine_tests::now_ns() - start) * 1e3);
    }
    let _ = fs::remove_file(path);
    crate::statistics::Spread::of(&times).map(|s| s.median)
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(ns: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits of nanoseconds are 104 days")]
    let s = ns as f64 / 1e9;
    s
}

impl Machine {
    /// This one.
    pub(crate) fn describe() -> Self {
        let kib: f64 =
            field("/proc/meminfo", "MemTotal").and_then(|v| v.split(' ').next()?.parse().ok()).unwrap_or_default();
        let root = trine_tests::cluster::test_root();
        let _ = fs::create_dir_all(&root);
        let postgres = trine_tests::postgres::bin_dir().unwrap_or_default().join("postgres");
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: first_line("uname", &["-sr"]),
            system: field("/etc/os-release", "PRETTY_NAME").unwrap_or_else(|| "unknown".into()),
            file_system: first_line("stat", &["-f", "-c", "%T", &root.to_string_lossy()]),
            fsync_ms: (fsync_ms().unwrap_or_default() * 1000.0).round() / 1000.0,
            postgres: first_line(&postgres.to_string_lossy(), &["--version"]),
            commit: first_line("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            build: if cfg!(debug_assertions) { "dev" } else { "release" }.into(),
        }
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} × {}, {} GiB, {}, {}, {} (fsync of 8 KiB: {} ms), {}, commit {}, {} build",
            self.cores,
            self.cpu,
            self.memory_gib,
            self.system,
            self.kernel,
            self.file_system,
            self.fsync_ms,
            self.postgres,
            self.commit,
            self.build
        )
    }
}
