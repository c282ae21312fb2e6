//! Tells the program which commit and compiler it was built from.

use std::path::Path;
use std::process::Command;

fn main() {
    // Moves with every commit and checkout. Outside of a clone there is no such file and nothing to follow.
    if let Some(log) = output("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        if Path::new(&log).exists() {
            println!("cargo:rerun-if-changed={log}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if is_set("CARGO_FEATURE_CONSOLE") && !is_set("CARGO_CFG_TOKIO_UNSTABLE") {
        println!("cargo:warning=feature `console` has no effect without RUSTFLAGS=\"--cfg tokio_unstable\"");
    }
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    println!(
        "cargo:rustc-env=HOST_BUILD={}",
        commit.as_deref().unwrap_or("unknown")
    );
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = output(&compiler, &["--version"]);
    println!(
        "cargo:rustc-env=HOST_RUSTC={}",
        version.as_deref().unwrap_or("unknown")
    );
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
