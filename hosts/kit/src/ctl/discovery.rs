//! Which sockets are here, whether they can be trusted, and which one is meant.
//!
//! Whoever may write into the directory may answer in a service's name. It is therefore looked at before anything
//! is connected to, and who listens is looked at before anything is said.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::failure::{shown, Failure, Fault};

/// Sockets that are looked at in one directory: far beyond what one machine runs.
const MOST: usize = 1024;

/// A socket by its name, `SERVICE.INSTANCE.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) service: String,
    pub(crate) instance: String,
    /// Who owns the directory, and must own the socket.
    owner: u32,
}

impl Found {
    /// The process id an instance begins with.
    pub(crate) fn pid(&self) -> Option<u64> {
        let (pid, _) = self.instance.split_once('-')?;
        u64::from_str_radix(pid, 16).ok()
    }

    /// The socket is one, and belongs to whom the directory belongs to.
    fn check(&self) -> Result<(), Failure> {
        let refused =
            |what: String| Failure::new(Fault::Refused, format!("{}: {what}", shown(&self.path)));
        let metadata = fs::symlink_metadata(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::new(
                Fault::Unreachable,
                format!("{}: there is no such socket", shown(&self.path)),
            ),
            _ => refused(error.to_string()),
        })?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            return Err(refused(
                "is a symbolic link; must be the socket itself".to_owned(),
            ));
        }
        if !kind.is_socket() {
            return Err(refused("is no socket".to_owned()));
        }
        if metadata.uid() != self.owner {
            return Err(refused(format!(
                "belongs to uid {}; must belong to uid {}, as its directory does",
                metadata.uid(),
                self.owner
            )));
        }
        Ok(())
    }

    /// Connects, without waiting for whoever is too busy to accept.
    pub(crate) async fn probe(&self, uid: u32) -> Result<Probe, Failure> {
        match self.check() {
            // Its process has removed it since it was found.
            Err(failure) if failure.fault() == Fault::Unreachable => return Ok(Probe::Dead),
            checked => checked?,
        }
        let stream = match UnixStream::connect(&self.path).await {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ok(Probe::Dead),
                    // Its queue of connections is full: it listens, and does not accept.
                    ErrorKind::WouldBlock => Ok(Probe::Busy),
                    ErrorKind::PermissionDenied => Err(Failure::new(
                        Fault::Refused,
                        format!("{}: {error}", shown(&self.path)),
                    )),
                    _ => Err(Failure::new(
                        Fault::Unreachable,
                        format!("{}: {error}", shown(&self.path)),
                    )),
                };
            }
        };
        let peer = stream.peer_cred().map_err(|error| {
            let text = format!("{}: cannot tell who listens: {error}", shown(&self.path));
            Failure::new(Fault::Refused, text)
        })?;
        if uid != 0 && peer.uid() != self.owner && peer.uid() != 0 {
            return Err(Failure::new(
                Fault::Refused,
                format!(
                    "{}: uid {} listens; must be uid {}, which owns the socket, or root",
                    shown(&self.path),
                    peer.uid(),
                    self.owner
                ),
            ));
        }
        Ok(Probe::Live(stream))
    }
}

/// Who is behind a socket.
#[derive(Debug)]
pub(crate) enum Probe {
    Live(UnixStream),
    Busy,
    Dead,
}

/// As services and instances are named.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty() && name.chars().all(allowed)
}

/// The sockets of `dir` in order of their names; none if there is no such directory.
pub(crate) fn scan(dir: &Path, uid: u32) -> Result<Vec<Found>, Failure> {
    let Some(owner) = check_directory(dir, uid)? else {
        return Ok(Vec::new());
    };
    let unreadable = |error| Failure::new(Fault::Refused, format!("{}: {error}", shown(dir)));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".sock"));
        // What no service would call its socket is none of theirs, and is not shown on a terminal.
        let made = |(service, instance): &(&str, &str)| is_name(service) && is_name(instance);
        let parts = stem.and_then(|stem| stem.split_once('.')).filter(made);
        if let Some((service, instance)) = parts {
            found.push(Found {
                path: entry.path(),
                service: service.to_owned(),
                instance: instance.to_owned(),
                owner,
            });
        }
        if found.len() == MOST {
            break;
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The socket at `path`, whatever its name.
pub(crate) fn named(path: &Path, uid: u32) -> Result<Found, Failure> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let missing = || {
        Failure::new(
            Fault::Unreachable,
            format!("{}: there is no such socket", shown(path)),
        )
    };
    let owner = check_directory(dir, uid)?.ok_or_else(missing)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".sock").unwrap_or(&name);
    let (service, instance) = stem.split_once('.').unwrap_or((stem, ""));
    let found = Found {
        path: path.to_owned(),
        service: service.to_owned(),
        instance: instance.to_owned(),
        owner,
    };
    found.check().map(|()| found)
}

/// The owner of a directory that only its owner may enter; `None` if it does not exist.
fn check_directory(dir: &Path, uid: u32) -> Result<Option<u32>, Failure> {
    // A slash at the end would follow a link.
    let dir: PathBuf = dir.components().collect();
    let refused = |what: String| {
        Err(Failure::new(
            Fault::Refused,
            format!("{}: {what}", shown(&dir)),
        ))
    };
    let metadata = match fs::symlink_metadata(&dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return refused(error.to_string()),
    };
    if metadata.file_type().is_symlink() {
        return refused("is a symbolic link; must be the directory itself".to_owned());
    }
    if !metadata.is_dir() {
        return refused("is no directory".to_owned());
    }
    if uid != 0 && metadata.uid() != uid {
        return refused(format!(
            "belongs to uid {}; must belong to uid {uid}",
            metadata.uid()
        ));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return refused(format!(
            "has mode {mode:04o}; must be 0700, so that nobody else can put a socket there"
        ));
    }
    Ok(Some(metadata.uid()))
}

/// Which service is meant, strongest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The service of this exact name, its instance by the beginning of it.
    Service { service: String, instance: String },
    /// The service this topic names if it is here, else as [`Wish::Any`].
    Topic(String),
    /// The only one.
    Any,
}

impl Wish {
    /// From `SERVICE` or `SERVICE.INSTANCE`.
    pub(crate) fn target(text: &str) -> Wish {
        let (service, instance) = text.split_once('.').unwrap_or((text, ""));
        Wish::Service {
            service: service.to_owned(),
            instance: instance.to_owned(),
        }
    }
}

/// Those of `found` that `wish` allows. For a topic: the service of that name, else those whose name ends in it, as
/// `ron-kernel` does in `kernel`, else all.
pub(crate) fn meant<'a>(found: &[&'a Found], wish: &Wish) -> Vec<&'a Found> {
    let only = |matches: &dyn Fn(&Found) -> bool| -> Vec<&'a Found> {
        found
            .iter()
            .copied()
            .filter(|found| matches(found))
            .collect()
    };
    match wish {
        Wish::Any => found.to_vec(),
        Wish::Service { service, instance } => only(&|found| {
            found.service == *service && found.instance.starts_with(instance.as_str())
        }),
        Wish::Topic(topic) => {
            let first = topic.split('.').next().unwrap_or_default();
            let exact = only(&|found| found.service == first);
            if !exact.is_empty() {
                return exact;
            }
            let named = only(&|found| {
                let front = found.service.strip_suffix(first);
                !first.is_empty() && front.is_some_and(|front| front.ends_with('-'))
            });
            if named.is_empty() {
                found.to_vec()
            } else {
                named
            }
        }
    }
}

/// Connects to the one service that is meant. Dead sockets do not count.
pub(crate) async fn choose(
    dir: &Path,
    uid: u32,
    wish: &Wish,
) -> Result<(Found, Option<UnixStream>), Failure> {
    let found = scan(dir, uid)?;
    if found.is_empty() {
        return Err(Failure::new(
            Fault::Unreachable,
            format!("no service is running here (looked in {})", shown(dir)),
        ));
    }
    let all: Vec<&Found> = found.iter().collect();
    let pool = match wish {
        Wish::Service { service, instance } => {
            let pool = meant(&all, wish);
            if pool.is_empty() {
                let dot = if instance.is_empty() { "" } else { "." };
                let here: Vec<String> = all
                    .iter()
                    .map(|found| format!("{}.{}", found.service, found.instance))
                    .collect();
                return Err(Failure::new(
                    Fault::Unreachable,
                    format!(
                        "{service}{dot}{instance} is not running here; here are {}",
                        here.join(", ")
                    ),
                ));
            }
            pool
        }
        _ => all,
    };
    let (mut live, mut dead) = (Vec::new(), Vec::new());
    for candidate in pool {
        match candidate.probe(uid).await? {
            Probe::Live(stream) => live.push((candidate, Some(stream))),
            Probe::Busy => live.push((candidate, None)),
            Probe::Dead => dead.push(candidate),
        }
    }
    let names: Vec<&Found> = live.iter().map(|(found, _)| *found).collect();
    let chosen = meant(&names, wish);
    match (&chosen[..], &dead[..]) {
        ([one], _) => {
            let stream = live
                .into_iter()
                .find(|(found, _)| found == one)
                .and_then(|(_, stream)| stream);
            Ok(((*one).clone(), stream))
        }
        ([], [one]) => Err(gone(&one.path)),
        ([], dead) => Err(Failure::new(
            Fault::Unreachable,
            format!(
                "no service is running here: nobody listens on the {} sockets in {}",
                dead.len(),
                shown(dir)
            ),
        )),
        (several, _) => Err(ambiguous(several)),
    }
}

/// Nobody listens on this socket.
pub(crate) fn gone(path: &Path) -> Failure {
    Failure::new(
        Fault::Unreachable,
        format!("{}: nobody listens; the process is gone", shown(path)),
    )
}

fn ambiguous(several: &[&Found]) -> Failure {
    let mut text = String::from("several services are running here; say which:");
    for found in several {
        let alone = several
            .iter()
            .filter(|other| other.service == found.service)
            .count()
            == 1;
        let target = match alone {
            true => found.service.clone(),
            false => format!("{}.{}", found.service, found.instance),
        };
        let pid = found
            .pid()
            .map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        let (service, instance) = (&found.service, &found.instance);
        text.push_str(&format!(
            "\n  {service}  {instance}  pid {pid}  --target {target}"
        ));
    }
    Failure::new(Fault::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_meant_by_its_name_its_instance_or_a_topic() {
        let found = |service: &str, instance: &str| Found {
            path: PathBuf::from(format!("/run/ron/{service}.{instance}.sock")),
            service: service.to_owned(),
            instance: instance.to_owned(),
            owner: 0,
        };
        let here = [
            found("kernel-x", "1-a"),
            found("ron-kernel", "2-b"),
            found("ron-kernel", "3-c"),
            found("svc-audit", "4-d"),
            found("audit", "5-e"),
            found("xrewarder", "6-f"),
        ];
        let here: Vec<&Found> = here.iter().collect();
        let topic = |topic: &str| Wish::Topic(topic.to_owned());
        for (wish, expected) in [
            (Wish::target("ron-kernel"), "2-b 3-c"),
            (Wish::target("ron-kernel.3"), "3-c"),
            (Wish::target("ron-kernel.4"), ""),
            (Wish::target("ron"), ""),
            (topic("kernel"), "2-b 3-c"),
            (topic("kernel.lifecycle"), "2-b 3-c"),
            (topic("audit.x"), "5-e"),
            (topic("rewarder"), "1-a 2-b 3-c 4-d 5-e 6-f"),
            (topic(""), "1-a 2-b 3-c 4-d 5-e 6-f"),
            (Wish::Any, "1-a 2-b 3-c 4-d 5-e 6-f"),
        ] {
            let meant: Vec<&str> = meant(&here, &wish)
                .iter()
                .map(|found| &*found.instance)
                .collect();
            assert_eq!(meant.join(" "), expected, "{wish:?}");
        }
    }

    #[test]
    fn an_instance_begins_with_the_process_id() {
        let pid = |instance: &str| {
            Found {
                path: PathBuf::new(),
                service: String::new(),
                instance: instance.to_owned(),
                owner: 0,
            }
            .pid()
        };
        assert_eq!(pid("1a2b-19aabbccdde"), Some(6699));
        assert_eq!(pid("zz-1"), None);
        assert_eq!(pid(""), None);
    }
}
