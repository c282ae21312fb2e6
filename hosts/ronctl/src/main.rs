//! The operator's client of every service's control plane; `HOST ctl ..` is the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ron_host::ctl::main(std::env::args_os().skip(1), None)
}
