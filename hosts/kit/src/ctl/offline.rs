//! A configuration checked without a running service: by `config validate` of the service's program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::discovery::Wish;
use super::failure::{shown, Failure, Fault};
use super::session::{print, Session, Stopped};

/// Programs that are not called as their service is.
const PROGRAMS: [(&str, &str); 1] = [("ron-kernel", "ron-kernel-demo")];
/// The service that is meant where none is named and none runs.
const DEFAULT: &str = "ron-kernel";

fn program(service: &str) -> &str {
    let known = PROGRAMS.iter().find(|(known, _)| *known == service);
    known.map_or(service, |(_, program)| program)
}

/// The file a start of the service would read.
fn file(service: &str, named: Option<&Path>, env: Option<OsString>) -> PathBuf {
    match (named, env.filter(|path| !path.is_empty())) {
        (Some(named), _) => named.to_owned(),
        (None, Some(env)) => env.into(),
        (None, None) => PathBuf::from(format!("/etc/ron/{service}.toml")),
    }
}

/// Runs the program; `absent` says why the service was not asked.
pub(crate) fn check(
    session: &Session,
    named: Option<&Path>,
    absent: &Failure,
) -> Result<u8, Stopped> {
    let service = match &session.wish {
        Wish::Service { service, .. } => service.as_str(),
        Wish::Topic(_) | Wish::Any => DEFAULT,
    };
    // A name, not a path that leads elsewhere.
    if service.is_empty() || service.contains('/') {
        return Err(Failure::new(
            Fault::Usage,
            format!("{service}: not the name of a service"),
        )
        .into());
    }
    let file = file(service, named, std::env::var_os("RON_CONFIG"));
    // Beside this one, or one of ours: any word could be the name of some program on the search path.
    let name = program(service);
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(name)))
        .filter(|path| path.is_file());
    let is_ours = PROGRAMS.iter().any(|(_, ours)| *ours == name);
    let Some(program) = beside.or_else(|| is_ours.then(|| name.into())) else {
        let text = format!(
            "{absent}; and there is no program {} beside ronctl to check the file",
            shown(Path::new(name))
        );
        return Err(Failure::new(Fault::Unreachable, text).into());
    };
    let mut command = Command::new(&program);
    command
        .args(["config", "validate"])
        .arg(&file)
        .stdin(Stdio::null());
    let unrunnable = |error: std::io::Error| {
        let text = format!(
            "{absent}; and {} cannot be run to check the file: {error}",
            shown(&program)
        );
        Failure::new(Fault::Unreachable, text)
    };
    if !session.json {
        let status = command.status().map_err(unrunnable)?;
        return Ok(u8::from(!status.success()));
    }
    let output = command.output().map_err(unrunnable)?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let line = json!({
        "service": service,
        "file": file.to_string_lossy(),
        "checked_by": program.to_string_lossy(),
        "valid": output.status.success(),
        "stdout": said(&output.stdout),
        "stderr": said(&output.stderr),
    });
    print(&format!("{line}\n"))?;
    Ok(u8::from(!output.status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_one_a_start_would_read() {
        let named = Path::new("a.toml");
        let env = || Some(OsString::from("/b.toml"));
        assert_eq!(file("svc", Some(named), env()), Path::new("a.toml"));
        assert_eq!(file("svc", None, env()), Path::new("/b.toml"));
        assert_eq!(
            file("svc", None, Some(OsString::new())),
            Path::new("/etc/ron/svc.toml")
        );
        assert_eq!(file("svc", None, None), Path::new("/etc/ron/svc.toml"));
    }

    #[test]
    fn a_program_is_called_as_its_service_unless_listed() {
        assert_eq!(program("ron-kernel"), "ron-kernel-demo");
        assert_eq!(program("svc-rewarder"), "svc-rewarder");
    }
}
