//! A program outside the workspace, built against the archives.
use std::process::ExitCode;

use ron_kernel::Kernel;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}
