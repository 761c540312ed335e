//! A guard and nothing else: what the tests of this crate start in place of `trine guard`.

use std::process::ExitCode;

fn main() -> ExitCode {
    trine_engine::guard::main(std::env::args().skip(1))
}
