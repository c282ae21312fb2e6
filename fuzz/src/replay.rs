//! Running a target over stored inputs, without a fuzzer.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs every file named, and every file in a directory named, in the order of their names. The input that breaks a
/// law is named before it panics.
pub fn replay(paths: impl Iterator<Item = OsString>, run: fn(&[u8])) -> ExitCode {
    match inputs(paths.map(PathBuf::from)) {
        Ok(inputs) if inputs.is_empty() => {
            eprintln!("name files or directories with inputs to replay");
            ExitCode::FAILURE
        }
        Ok(inputs) => {
            for (path, bytes) in &inputs {
                let name = Named(path);
                run(bytes);
                std::mem::forget(name);
            }
            println!("{} inputs replayed", inputs.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("inputs not read: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says on which input the panic happened.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        eprintln!("on input {}", self.0.display());
    }
}

fn inputs(paths: impl Iterator<Item = PathBuf>) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                files.push(entry?.path());
            }
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|path| fs::read(&path).map(|bytes| (path, bytes)))
        .collect()
}
