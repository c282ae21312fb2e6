//! A cgroup for the processes of one kernel, with a leaf for each incarnation: what is in there dies with it,
//! whatever process group or session it moved to. See cgroups(7); version 2 only.

use rustix::fd::OwnedFd;
use rustix::fs::{access, flock, open, Access, FlockOperation, Mode, OFlags};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Names of cgroups made here begin with it.
const PREFIX: &str = "ron-kernel-";

/// The cgroup of a kernel; it holds no process itself.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: PathBuf,
    /// Locked as long as this process lives, so that no other sweeps it; seen across namespaces.
    _lock: OwnedFd,
    leaves: AtomicU64,
}

/// The cgroup of one incarnation.
#[derive(Debug)]
pub(crate) struct Leaf {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one below the cgroup this process is in; the error says why that cannot be.
    pub(crate) fn create(instance: &str) -> Result<Cgroup, String> {
        let read = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
        let own = locate(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
            .ok_or("no cgroup version 2 is mounted that this process is in")?;
        let procs = own.join("cgroup.procs");
        let said = |error: io::Error| format!("{}: {error}", own.display());
        // Whoever moves a process must be able to write here, the common ancestor's, too.
        access(&procs, Access::WRITE_OK).map_err(|errno| said(errno.into()))?;
        let ours = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(PREFIX))
        };
        sweep(&own, ours, remove);
        let dir = own.join(format!("{PREFIX}{instance}"));
        let lock = claim(&dir, |dir| std::fs::create_dir(dir)).map_err(said)?;
        let cgroup = Cgroup {
            dir,
            _lock: lock,
            leaves: AtomicU64::new(0),
        };
        access(cgroup.dir.join("cgroup.kill"), Access::WRITE_OK)
            .map_err(|_| "this system has no cgroup.kill (Linux 5.14)")?;
        Ok(cgroup)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new leaf, and its `cgroup.procs`.
    pub(crate) fn leaf(&self) -> io::Result<(Leaf, OwnedFd)> {
        let number = self.leaves.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(number.to_string());
        std::fs::create_dir(&dir).or_else(|error| {
            // Somebody removed what was empty.
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            std::fs::create_dir(&self.dir)?;
            std::fs::create_dir(&dir)
        })?;
        let leaf = Leaf { dir };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs = open(leaf.dir.join("cgroup.procs"), flags, Mode::empty())?;
        Ok((leaf, procs))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Stays if something unkillable is left in there; a later start sweeps it.
        let _ = remove(&self.dir);
    }
}

impl Leaf {
    /// Whether a process is left in it that is no zombie.
    pub(crate) fn is_populated(&self) -> bool {
        std::fs::read(self.dir.join("cgroup.events")).is_ok_and(|events| populated(&events))
    }

    /// SIGKILL for all in it.
    pub(crate) fn kill(&self) {
        // It fails only where the directory is gone, and then nobody is left.
        let _ = std::fs::write(self.dir.join("cgroup.kill"), b"1");
    }

    /// Returns once nobody is left; each look is a moment later than the one before.
    pub(crate) async fn emptied(&self) {
        let mut pause = Duration::from_millis(1);
        while self.is_populated() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let _ = remove(&self.dir);
    }
}

fn populated(events: &[u8]) -> bool {
    events
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"populated 1")
}

/// Removes a cgroup and those in it, which a child may have made, as far as they are empty.
fn remove(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = remove(&entry.path());
        }
    }
    std::fs::remove_dir(dir)
}

/// Locks a directory until the descriptor is closed, which the end of this process does.
pub(super) fn lock(dir: &Path, how: FlockOperation) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = open(dir, flags, Mode::empty())?;
    flock(&lock, how)?;
    Ok(lock)
}

/// Makes a directory of this kernel's alone and keeps [`sweep`] away from it for as long as the lock is held.
pub(super) fn claim(dir: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<OwnedFd> {
    loop {
        make(dir)?;
        match lock(dir, FlockOperation::LockShared) {
            Ok(held) if dir.is_dir() => return Ok(held),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Another kernel swept it before it was locked.
            _ => (),
        }
    }
}

/// Removes those of the directories that kernels left which no longer run.
pub(super) fn sweep(
    parent: &Path,
    ours: impl Fn(&Path) -> bool,
    remove: impl Fn(&Path) -> io::Result<()>,
) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !ours(&dir) {
            continue;
        }
        // Held until it is removed: whoever waits for the lock then sees that it is gone.
        if let Ok(_held) = lock(&dir, FlockOperation::NonBlockingLockExclusive) {
            let _ = remove(&dir);
        }
    }
}

/// The directory of this process's cgroup, from `/proc/self/mountinfo` and `/proc/self/cgroup`: proc(5).
fn locate(mountinfo: &[u8], cgroup: &[u8]) -> Option<PathBuf> {
    let lines = |bytes| <[u8]>::split(bytes, |byte| *byte == b'\n');
    let own = lines(cgroup).find_map(|line| line.strip_prefix(b"0::"))?;
    // Moved out of the namespace that is seen here.
    if own.starts_with(b"/..") {
        return None;
    }
    lines(mountinfo).find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(dash + 1)? != b"cgroup2" {
            return None;
        }
        let (root, mount) = (unescape(fields.get(3)?), unescape(fields.get(4)?));
        let below = if root == b"/" {
            own
        } else {
            own.strip_prefix(&root[..])
                .filter(|below| below.is_empty() || below.starts_with(b"/"))?
        };
        let below = below.strip_prefix(b"/").unwrap_or(below);
        let mount = PathBuf::from(OsString::from_vec(mount));
        Some(mount.join(OsString::from_vec(below.to_vec())))
    })
}

/// `\040` is a space there.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| matches!(d, b'0'..=b'7')));
        let octal = escaped.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_every_layout() {
        let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let unified = b"30 23 0:26 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup rw\n";
        let inside = b"30 23 0:26 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let odd = b"30 23 0:26 / /mnt/a\\040b rw - cgroup2 cgroup rw\n";
        let none = b"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        for (mountinfo, cgroup, expected) in [
            (
                &hybrid[..],
                &b"5:cpu:/x\n0::/\n"[..],
                Some("/sys/fs/cgroup/unified"),
            ),
            (
                unified,
                b"0::/system.slice/a.service\n",
                Some("/sys/fs/cgroup/system.slice/a.service"),
            ),
            (inside, b"0::/docker/ab\n", Some("/sys/fs/cgroup")),
            (inside, b"0::/docker/ab/c\n", Some("/sys/fs/cgroup/c")),
            (inside, b"0::/docker/abc\n", None),
            (odd, b"0::/x\n", Some("/mnt/a b/x")),
            (unified, b"0::/../outside\n", None),
            (none, b"0::/\n", None),
            (unified, b"5:cpu:/x\n", None),
            (b"", b"", None),
        ] {
            let found = locate(mountinfo, cgroup);
            assert_eq!(found.as_deref(), expected.map(Path::new));
        }
    }

    #[test]
    fn populated_is_read_as_a_line_of_its_own() {
        assert!(populated(b"populated 1\nfrozen 0\n"));
        assert!(!populated(b"populated 0\nfrozen 1\n"));
        assert!(!populated(b"unpopulated 1\n"));
    }
}
