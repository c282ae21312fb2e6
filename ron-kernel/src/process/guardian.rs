//! The guardian: a small process that outlives this one and then kills what is left of its children.
//!
//! It reads process groups from a socket whose other end only this process holds: a child writes its own before it
//! executes its program, this process takes it back before it reaps the child. At the end of the stream, however it
//! came to be, the guardian kills the cgroup and the groups that remain. It is a shell script because a
//! process that is forked without exec would keep a copy of this one's memory, secrets included.

use super::exec::{fork_exec, Image, Place, Stage};
use super::spawner::DEFAULT_PATH;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::process::{kill_process, waitid, Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// `$1`: the cgroup, or nothing; `$2`: a directory to remove. Signals meant for the service pass it by.
const SCRIPT: &str = r#"unset SCRIPT
trap '' HUP INT QUIT TERM USR1 USR2 PIPE
while read -r what group; do
  case $what in
    +) eval "group_$group=" ;;
    -) unset "group_$group" ;;
  esac
done
set | while IFS== read -r name _; do
  case $name in
    group_*) kill -KILL "-${name#group_}" 2>/dev/null ;;
  esac
done
[ -d "$1" ] && echo 1 >"$1/cgroup.kill"
for pause in 0.01 0.1 1 5; do
  [ -d "$1" ] || break
  sleep "$pause"
  rmdir "$1"/*/ "$1" 2>/dev/null
done
rm -rf -- "$2"
"#;

const SHELL: &str = "/bin/sh";

/// A running guardian.
#[derive(Debug)]
pub(crate) struct Guardian {
    pid: Pid,
    lifeline: OwnedFd,
}

impl Guardian {
    /// Starts one that will kill `cgroup` and remove `dir`.
    pub(crate) fn start(cgroup: Option<&Path>, dir: &Path) -> io::Result<Guardian> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let cgroup = cgroup.map_or(OsStr::new(""), Path::as_os_str);
        // In the environment, so that a list of processes shows what it is and not what it does.
        let words = ["sh", "-c", "eval \"$SCRIPT\"", "ron-kernel-guardian"].map(OsStr::new);
        let words = words.into_iter().chain([cgroup, dir.as_os_str()]);
        let mut path = OsString::from("PATH=");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()));
        let script = OsString::from(format!("SCRIPT={SCRIPT}"));
        let image = Image {
            path: text(OsStr::new(SHELL))?,
            argv: words.map(text).collect::<io::Result<_>>()?,
            env: vec![text(&path)?, text(&script)?],
            dir: Some(text(OsStr::new("/"))?),
        };
        let (lifeline, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        let forked = fork_exec(
            &image,
            &Place {
                stdin: theirs.as_fd(),
                stdout: null.as_fd(),
                stderr: null.as_fd(),
                listeners: Vec::new(),
                session: true,
                dies_with_parent: false,
                lifeline: None,
                cgroup: None,
                nofile: None,
            },
        )?;
        let guardian = Guardian {
            pid: forked.pid,
            lifeline,
        };
        let mut failure = std::fs::File::from(forked.failure);
        let mut bytes = [0; 8];
        match failure.read_exact(&mut bytes) {
            // Closed by the exec.
            Err(_) => Ok(guardian),
            Ok(()) => {
                guardian.dismiss(Duration::from_secs(1));
                let unknown = || io::Error::from(io::ErrorKind::Other);
                Err(Stage::parse(bytes).map_or_else(unknown, |(_, error)| error))
            }
        }
    }

    /// Another descriptor of it, for a child that is about to be forked.
    pub(crate) fn lifeline_again(&self) -> io::Result<OwnedFd> {
        self.lifeline.try_clone()
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Names a group that is to be killed.
    pub(crate) fn add(&self, group: Pid) -> io::Result<()> {
        self.tell('+', group)
    }

    /// Takes a group back: its leader is about to be reaped.
    pub(crate) fn forget(&self, group: Pid) -> io::Result<()> {
        self.tell('-', group)
    }

    fn tell(&self, what: char, group: Pid) -> io::Result<()> {
        let line = format!("{what} {}\n", group.as_raw_nonzero());
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::send(&self.lifeline, line.as_bytes(), flags) {
            Ok(sent) if sent == line.len() => Ok(()),
            // Half a line: whatever follows would be misread.
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // An error: somebody else has reaped it.
        !matches!(waitid(WaitId::Pid(self.pid), look), Ok(None))
    }

    /// Lets it do its work and end; it is killed after `patience`.
    pub(crate) fn dismiss(self, patience: Duration) {
        drop(self.lifeline);
        let reap = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let deadline = Instant::now() + patience;
        while let Ok(None) = waitid(WaitId::Pid(self.pid), reap) {
            if Instant::now() >= deadline {
                let _ = kill_process(self.pid, Signal::KILL);
                let _ = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
