//! Runs `otp/ron_bench_otp.erl`, where Erlang is installed.

use std::path::PathBuf;
use std::process::Command;

/// The compiled program; removed when dropped.
pub struct Otp {
    beams: PathBuf,
}

/// What `erl` says it is; `None` where there is none.
pub fn version() -> Option<String> {
    let print = "io:format(\"OTP ~s, erts ~s\", [erlang:system_info(otp_release), erlang:system_info(version)]), halt().";
    let output = Command::new("erl")
        .args(["-noshell", "-eval", print])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Otp {
    /// Compiles the program; `None` where there is no Erlang.
    pub fn compile() -> Option<Otp> {
        let beams = std::env::temp_dir().join(format!("ron-bench-otp-{}", std::process::id()));
        std::fs::create_dir_all(&beams).ok()?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/otp/ron_bench_otp.erl");
        let compiled = Command::new("erlc")
            .args(["+inline", "-o"])
            .arg(&beams)
            .arg(source)
            .status()
            .ok()?;
        assert!(compiled.success(), "erlc refused {source}");
        Some(Otp { beams })
    }

    /// Its numbers for `what`, `count` times.
    pub fn run(&self, what: &str, count: usize) -> Vec<f64> {
        let output = Command::new("erl")
            .args(["+S", "2:2", "+P", "1000000", "-noshell", "-pa"])
            .arg(&self.beams)
            .args(["-run", "ron_bench_otp", "main", what, &count.to_string()])
            .output()
            .expect("erl ran before");
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(!numbers.is_empty(), "erl printed no numbers: {output:?}");
        numbers
    }
}

impl Drop for Otp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.beams);
    }
}
