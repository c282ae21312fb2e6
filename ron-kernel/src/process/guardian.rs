//! The guardian: a small process that outlives this one and then kills what is left of its children.
//!
//! It reads process groups from a pipe whose other end only this process holds: a child writes its own before it
//! executes its program, this process takes it back before it reaps the child. At the end of the pipe, however it
//! came to be, the guardian kills the cgroup and the groups that remain. It is a shell script because a
//! process that is forked without exec would keep a copy of this one's memory, secrets included.

use super::exec::{fork_exec, Image, Place};
use super::image::DEFAULT_PATH;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{kill_process, waitid, Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// `$1`: the cgroup, or nothing; `$2`: a directory to remove. Signals meant for the service pass it by. Up to the last
/// kill it forks nothing: a machine without a process to spare is one where it is needed. `all` has what was added,
/// cleared now and then of what was taken back.
const SCRIPT: &str = r#"unset SCRIPT
trap '' HUP INT QUIT TERM USR1 USR2 PIPE
all= count=0 limit=1000
while read -r what group; do
  case $what in
    +)
      eval "group_$group=1"
      all="$all $group" count=$((count + 1))
      if [ $count -ge $limit ]; then
        kept= count=0
        for group in $all; do
          eval "known=\${group_$group-}"
          if [ "$known" ]; then kept="$kept $group" count=$((count + 1)); fi
        done
        all=$kept limit=$((2 * count + 1000))
      fi ;;
    -) unset "group_$group" ;;
  esac
done
[ -d "$1" ] && echo 1 >"$1/cgroup.kill"
for group in $all; do
  eval "known=\${group_$group-}"
  if [ "$known" ]; then kill -KILL "-$group" 2>/dev/null; fi
done
clear() {
  for below in "$1"/*/; do
    if [ -d "$below" ]; then (clear "${below%/}"); fi
  done
  rmdir "$1" 2>/dev/null
}
for pause in 0.01 0.1 1 5; do
  [ -d "$1" ] || break
  sleep "$pause"
  clear "$1"
done
rm -rf -- "$2"
"#;

const SHELL: &str = "/bin/sh";
/// How long a new one may take to read what lives.
const FEED_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that may wait for it: 100,000 groups. The most that any user may ask for.
const PIPE_SIZE: usize = 1 << 20;

/// A running guardian.
#[derive(Debug)]
pub(crate) struct Guardian {
    pid: Pid,
    /// Does not block.
    lifeline: OwnedFd,
    /// The other end, held open so that nobody gets SIGPIPE if the guardian is gone.
    _theirs: OwnedFd,
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
        let (theirs, lifeline) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&lifeline, true)?;
        // Where that is refused it has what it has.
        let _ = rustix::pipe::fcntl_setpipe_size(&lifeline, PIPE_SIZE);
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        let started = fork_exec(
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
        );
        match started {
            Ok(pid) => Ok(Guardian {
                pid,
                lifeline,
                _theirs: theirs,
            }),
            Err(failed) => {
                if let Some(child) = failed.child {
                    let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED);
                }
                Err(failed.source)
            }
        }
    }

    /// Another descriptor of the lifeline, for a child that is about to be forked.
    pub(crate) fn lifeline_again(&self) -> io::Result<OwnedFd> {
        self.lifeline.try_clone()
    }

    /// Names a group that is to be killed.
    fn add(&self, group: Pid) -> io::Result<()> {
        self.tell('+', group)
    }

    /// As [`add`](Self::add) for many: waits for it to take them.
    pub(crate) fn add_all<'a>(&self, groups: impl IntoIterator<Item = &'a Pid>) -> io::Result<()> {
        let deadline = Instant::now() + FEED_PATIENCE;
        for group in groups {
            while let Err(error) = self.add(*group) {
                let full = error.kind() == io::ErrorKind::WouldBlock;
                if !full || Instant::now() >= deadline {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Takes a group back: its leader is about to be reaped.
    pub(crate) fn forget(&self, group: Pid) -> io::Result<()> {
        self.tell('-', group)
    }

    fn tell(&self, what: char, group: Pid) -> io::Result<()> {
        let line = format!("{what} {}\n", group.as_raw_nonzero());
        // Less than PIPE_BUF: whole or not at all.
        rustix::io::write(&self.lifeline, line.as_bytes())?;
        Ok(())
    }

    /// Whether it has ended, or was stopped and so would not act.
    pub(crate) fn is_lost(&self) -> bool {
        // An error: somebody else has reaped it.
        let look = LOOK | WaitIdOptions::STOPPED;
        !matches!(waitid(WaitId::Pid(self.pid), look), Ok(None))
    }

    /// Ends it before it can do anything: the pipe is closed when it is no more.
    pub(crate) fn destroy(self) {
        if waitid(WaitId::Pid(self.pid), LOOK).is_ok() {
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
        }
    }

    /// Lets it do its work and end. One that has not after `patience` has something left that does not die; it goes
    /// on alone, and is reaped when it has ended.
    pub(crate) fn dismiss(self, patience: Duration) {
        let Guardian { pid, lifeline, .. } = self;
        drop(lifeline);
        // One that somebody has stopped since the last look.
        let _ = kill_process(pid, Signal::CONT);
        let reap = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let deadline = Instant::now() + patience;
        while let Ok(None) = waitid(WaitId::Pid(pid), reap) {
            if Instant::now() >= deadline {
                let reaper = std::thread::Builder::new().name("ron-reaper".to_owned());
                let _ = reaper.spawn(move || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Looks at an end without taking it.
const LOOK: WaitIdOptions = WaitIdOptions::EXITED
    .union(WaitIdOptions::NOHANG)
    .union(WaitIdOptions::NOWAIT);
