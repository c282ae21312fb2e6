//! This test binary as another process: under another user, or with another environment.

use std::path::Path;
use std::process::{Command, Output};

/// What the other process is to do; unset in the first one.
const ROLE: &str = "RON_TEST_CONTROL_ROLE";

/// What this process was started to do for `test`.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs the one test again, in a process of its own.
pub(crate) fn again(test: &str, role: &str, adjust: impl FnOnce(&mut Command)) -> Output {
    again_from(&std::env::current_exe().unwrap(), test, role, adjust)
}

/// As [`again`] with a copy of the binary.
pub(crate) fn again_from(
    binary: &Path,
    test: &str,
    role: &str,
    adjust: impl FnOnce(&mut Command),
) -> Output {
    let mut command = Command::new(binary);
    command
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role)
        .current_dir("/");
    adjust(&mut command);
    command.output().unwrap()
}

/// What it printed, provided that its one test passed.
pub(crate) fn passed(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(told.contains("1 passed"), "{told}\n{errors}");
    told
}
