//! Where this process's sockets lie, and that their files go with them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As `control::run_dir` says.
pub(crate) fn run_dir() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    default_dir(|name| std::env::var_os(name), uid, std::env::temp_dir())
}

fn default_dir(env: impl Fn(&str) -> Option<OsString>, uid: u32, temp: PathBuf) -> PathBuf {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("RON_RUN_DIR") {
        return dir.into();
    }
    if let Some(dirs) = set("RUNTIME_DIRECTORY") {
        let first = dirs.as_bytes().split(|byte| *byte == b':').next();
        let first = first.map(std::ffi::OsStr::from_bytes);
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return first.into();
        }
    }
    if uid == 0 {
        return "/run/ron".into();
    }
    match set("XDG_RUNTIME_DIR") {
        Some(dir) => Path::new(&dir).join("ron"),
        None => temp.join(format!("ron-{uid}")),
    }
}

/// Removes a socket's file when dropped, unless another file has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    pub(crate) path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    /// The one that has just been bound there.
    pub(crate) fn at(path: &Path) -> io::Result<SocketFile> {
        let id = id(path)?;
        let path = path.to_owned();
        Ok(SocketFile { path, id })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id) {
            // Nobody is left to tell; the next start removes dead sockets.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_follows_the_environment_then_the_user() {
        let dir = |set: &[(&str, &str)], uid| {
            let env = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let dir = default_dir(env, uid, "/tmp".into());
            dir.to_str().unwrap().to_owned()
        };
        let all = [
            ("RON_RUN_DIR", "/a"),
            ("RUNTIME_DIRECTORY", "/b:/c"),
            ("XDG_RUNTIME_DIR", "/d"),
        ];
        assert_eq!(dir(&all, 7), "/a");
        assert_eq!(dir(&all[1..], 7), "/b");
        assert_eq!(dir(&all[2..], 7), "/d/ron");
        assert_eq!(dir(&all[2..], 0), "/run/ron");
        assert_eq!(dir(&[], 7), "/tmp/ron-7");
        assert_eq!(dir(&[("RON_RUN_DIR", "")], 0), "/run/ron");
    }
}
