//! A guard and nothing else: what the tests of this crate start in place of `trine guard`. As `push SOCKET MILLISECONDS`
//! it is an agent and nothing else: it pushes the deadline of the guard at SOCKET, again and again.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use trine_platform::{BootClock, Clock};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [push, socket, lease] if push == "push" => {
            let lease = Duration::from_millis(lease.parse().unwrap_or(0));
            let Ok(mut guard) = UnixStream::connect(socket) else { return ExitCode::FAILURE };
            loop {
                let line = format!("{{\"deadline\":{}}}\n", (BootClock.now() + lease).as_nanos());
                if guard.write_all(line.as_bytes()).is_err() {
                    return ExitCode::SUCCESS;
                }
                std::thread::sleep(lease / 10);
            }
        }
        _ => trine_engine::guard::main(args),
    }
}
