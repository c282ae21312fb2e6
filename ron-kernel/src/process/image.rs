//! What a child is to execute: its program, arguments and environment, and why that cannot be.

use super::exec::Image;
use super::Command;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Where programs are looked for without `PATH`, as execvp(3) has it.
pub(crate) const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot start `{program}`: it is in none of PATH={path}")]
    NotInPath { program: String, path: String },
    #[error("cannot start `{program}`: the name `{name}` of a listener contains `:`")]
    Listener { program: String, name: String },
    #[error("cannot start `{program}`: {what} contains a NUL byte")]
    Nul { program: String, what: String },
    #[error("cannot start `{program}`: {what}{hint}: {source}")]
    Step {
        program: String,
        what: String,
        hint: &'static str,
        source: io::Error,
    },
    #[error("cannot start `{program}`: the kernel is shutting down")]
    Closed { program: String },
    #[error("cannot start `{program}`: the thread that starts processes has panicked; this is a defect of the kernel")]
    Dead { program: String },
}

/// What a start needs beside the command.
#[derive(Debug)]
pub(crate) struct Extra {
    /// Set over all else.
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// Everything the child will touch, made here.
pub(crate) fn image(command: &Command, extra: &Extra) -> Result<Image, StartError> {
    let program = || command.program.to_string_lossy().into_owned();
    let text = |what: &str, bytes: Vec<u8>| {
        CString::new(bytes).map_err(|_| StartError::Nul {
            program: program(),
            what: what.to_owned(),
        })
    };
    let env = environment(std::env::vars_os(), command, extra);
    let path = resolve(&command.program, env.get(OsStr::new("PATH")))?;
    let mut argv = vec![text("the program", command.program.as_bytes().to_vec())?];
    for (number, arg) in command.args.iter().enumerate() {
        let what = format!("argument {}", number + 1);
        argv.push(text(&what, arg.as_bytes().to_vec())?);
    }
    let mut pairs = Vec::with_capacity(env.len());
    for (name, value) in env {
        let what = format!("variable {}", name.to_string_lossy());
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend_from_slice(value.as_bytes());
        pairs.push(text(&what, pair)?);
    }
    if let Some((name, _)) = command
        .listeners
        .iter()
        .find(|(name, _)| name.contains(':'))
    {
        return Err(StartError::Listener {
            program: program(),
            name: name.clone(),
        });
    }
    let dir = command
        .dir
        .as_ref()
        .map(|dir| dir.as_os_str().as_bytes().to_vec());
    Ok(Image {
        path: text("the program", path.into_os_string().into_vec())?,
        argv,
        env: pairs,
        dir: dir
            .map(|dir| text("the working directory", dir))
            .transpose()?,
    })
}

/// Variables that mean this process and would mislead another.
fn is_own(name: &OsStr) -> bool {
    const OWN: [&[u8]; 3] = [b"RON_", b"WATCHDOG_", b"LISTEN_"];
    let name = name.as_bytes();
    name == b"NOTIFY_SOCKET" || OWN.iter().any(|prefix| name.starts_with(prefix))
}

fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    command: &Command,
    extra: &Extra,
) -> BTreeMap<OsString, OsString> {
    let mut env = BTreeMap::new();
    if !command.env_clear {
        env.extend(inherited.filter(|(name, _)| !is_own(name)));
    }
    for (name, value) in &command.env {
        match value {
            Some(value) => env.insert(name.clone(), value.clone()),
            None => env.remove(name),
        };
    }
    if !command.listeners.is_empty() {
        let names: Vec<&str> = command.listeners.iter().map(|(name, _)| &**name).collect();
        env.insert("LISTEN_FDS".into(), names.len().to_string().into());
        env.insert("LISTEN_FDNAMES".into(), names.join(":").into());
        env.remove(OsStr::new("LISTEN_PID"));
    }
    for (name, value) in &extra.env {
        env.insert((*name).into(), value.clone());
    }
    env
}

/// The file to execute: as it stands if it names a path, else the first of `PATH` that can be executed.
fn resolve(program: &OsStr, path: Option<&OsString>) -> Result<PathBuf, StartError> {
    if program.as_bytes().contains(&b'/') {
        // Relative to this process's directory, not to the child's.
        return Ok(std::path::absolute(program).unwrap_or_else(|_| program.into()));
    }
    let path = path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    let found = std::env::split_paths(path)
        // An empty one is the directory of this process, not the child's.
        .map(|dir| std::path::absolute(dir.join(program)).unwrap_or_else(|_| dir.join(program)))
        .find(|file| {
            file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
        });
    found.ok_or_else(|| StartError::NotInPath {
        program: program.to_string_lossy().into_owned(),
        path: path.to_string_lossy().into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn pairs(set: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        set.iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    fn of(command: &Command, extra: Vec<(&'static str, OsString)>) -> Vec<String> {
        let inherited = pairs(&[
            ("HOME", "/root"),
            ("RON_CONFIG", "/etc/ron"),
            ("RONA", "kept"),
            ("NOTIFY_SOCKET", "/ours"),
            ("WATCHDOG_USEC", "1"),
            ("WATCHDOG_PID", "1"),
            ("LISTEN_FDS", "1"),
            ("LISTEN_PID", "1"),
            ("LISTEN_FDNAMES", "ours"),
        ]);
        let env = environment(inherited.into_iter(), command, &Extra { env: extra });
        let shown = env
            .iter()
            .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
        shown.collect()
    }

    #[test]
    fn a_child_inherits_all_but_what_is_the_kernels_own() {
        let plain = Command::new("x");
        assert_eq!(of(&plain, vec![]), ["HOME=/root", "RONA=kept"]);
        let set = plain.clone().env("RON_CONFIG", "its").env_remove("HOME");
        assert_eq!(of(&set, vec![]), ["RONA=kept", "RON_CONFIG=its"]);
        let clear = plain.clone().env("A", "1").env_clear();
        assert_eq!(of(&clear, vec![]), ["A=1"]);
        let told = of(
            &clear.env("NOTIFY_SOCKET", "x"),
            vec![("NOTIFY_SOCKET", "/its".into())],
        );
        assert_eq!(told, ["A=1", "NOTIFY_SOCKET=/its"]);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listens = plain.env_clear().listener("http", socket);
        assert_eq!(
            of(&listens, vec![]),
            ["LISTEN_FDNAMES=http", "LISTEN_FDS=1"]
        );
    }

    #[test]
    fn a_program_is_a_path_or_found_in_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = OsString::from(format!("/nowhere:{}:/bin", dir.path().display()));
        std::fs::write(dir.path().join("sh"), "not executable").unwrap();
        let find = |program: &str| resolve(OsStr::new(program), Some(&path));
        assert_eq!(find("sh").unwrap(), Path::new("/bin/sh"));
        assert_eq!(find("/a/b").unwrap(), Path::new("/a/b"));
        assert!(find("./b").unwrap().is_absolute());
        let missing = find("no-such-program").unwrap_err().to_string();
        assert!(missing.contains("`no-such-program`: it is in none of PATH=/nowhere:"));
        assert_eq!(
            resolve(OsStr::new("sh"), None).unwrap(),
            Path::new("/bin/sh")
        );
    }

    #[test]
    fn what_cannot_be_passed_is_named() {
        let image = |command| {
            image(&command, &Extra { env: vec![] })
                .unwrap_err()
                .to_string()
        };
        let nul = image(Command::new("/bin/sh").arg("a").arg("b\0c"));
        assert_eq!(
            nul,
            "cannot start `/bin/sh`: argument 2 contains a NUL byte"
        );
        let nul = image(Command::new("/bin/sh").env("A", "\0"));
        assert_eq!(
            nul,
            "cannot start `/bin/sh`: variable A contains a NUL byte"
        );
    }
}
